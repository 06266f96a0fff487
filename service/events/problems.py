"""Problems of the events endpoints, by the error that causes them."""

from http import HTTPStatus
from typing import Final

from service.events import errors
from service.web.problems import NOT_JSON, Kinds, ProblemKind

TOO_MANY_EVENTS: Final = ProblemKind(
    "too_many_events",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "The body has too many events",
)
EVENT_TOO_LARGE: Final = ProblemKind(
    "event_too_large",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "An event is too large for the event queue",
    consequence="nothing was stored",
)
BACKLOG_FULL: Final = ProblemKind(
    "backlog_full",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Too many events wait to be stored",
    consequence="nothing was stored",
)
QUEUE_UNAVAILABLE: Final = ProblemKind(
    "queue_unavailable",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The event queue is unavailable",
    consequence="an event that is sent again is stored once",
)
QUERIES_FULL: Final = ProblemKind(
    "event_queries_full",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Too many queries on events are running",
)
QUERY_TIMEOUT: Final = ProblemKind(
    "query_timeout",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The query takes too long",
)
WAITS_FULL: Final = ProblemKind(
    "event_waits_full",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Too many requests wait for events",
)
CURSOR_AHEAD: Final = ProblemKind(
    "cursor_ahead", HTTPStatus.GONE, "The cursor is after the last event"
)
SESSION_NOT_FOUND: Final = ProblemKind(
    "session_not_found", HTTPStatus.NOT_FOUND, "The session has no events"
)
FAILED_EVENT_NOT_FOUND: Final = ProblemKind(
    "failed_event_not_found", HTTPStatus.NOT_FOUND, "The failed event does not exist"
)
REPLAY_REFUSED: Final = ProblemKind(
    "replay_refused", HTTPStatus.CONFLICT, "The event is still invalid"
)

KINDS: Final[Kinds] = {
    errors.NotJson: NOT_JSON,
    errors.TooManyEvents: TOO_MANY_EVENTS,
    errors.EventTooLarge: EVENT_TOO_LARGE,
    errors.BacklogFull: BACKLOG_FULL,
    errors.QueueUnavailable: QUEUE_UNAVAILABLE,
    errors.WaitsFull: WAITS_FULL,
    errors.CursorAhead: CURSOR_AHEAD,
    errors.SessionNotFound: SESSION_NOT_FOUND,
    errors.FailedEventNotFound: FAILED_EVENT_NOT_FOUND,
    errors.ReplayRefused: REPLAY_REFUSED,
}
