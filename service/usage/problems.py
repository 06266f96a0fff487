"""Problems of the usage endpoints, and the errors that they answer."""

from http import HTTPStatus
from typing import Final

from service.usage import errors
from service.usage.snapshots import errors as snapshots
from service.web.problems import Kinds, ProblemKind

UNKNOWN_PLAN: Final = ProblemKind(
    "unknown_plan", HTTPStatus.BAD_REQUEST, "There is no such plan"
)
CURSOR_EXPIRED: Final = ProblemKind(
    "cursor_expired", HTTPStatus.GONE, "The cursor has expired"
)
RANGE_NOT_COVERED: Final = ProblemKind(
    "range_not_covered",
    HTTPStatus.NOT_FOUND,
    "The current period does not cover the range",
)
MESSAGE_NOT_FOUND: Final = ProblemKind(
    "message_not_found", HTTPStatus.NOT_FOUND, "The period has no such message"
)
MESSAGES_UNAVAILABLE: Final = ProblemKind(
    "messages_unavailable",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The period's messages are unavailable",
)
REPORT_UNAVAILABLE: Final = ProblemKind(
    "report_unavailable",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "A report that prices messages is unavailable",
)
DEADLINE_EXCEEDED: Final = ProblemKind(
    "deadline_exceeded",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The period could not be computed in time",
)
PERIOD_LOST: Final = ProblemKind(
    "period_lost", HTTPStatus.SERVICE_UNAVAILABLE, "The period has to be computed again"
)

QUERIES_FULL: Final = ProblemKind(
    "usage_queries_full",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Too many queries on the period wait",
)
QUERY_TIMEOUT: Final = ProblemKind(
    "usage_query_timeout",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The query on the period takes too long",
)
EXPORTS_FULL: Final = ProblemKind(
    "usage_exports_full",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Too many exports of usage are in progress",
)
EXPORT_TIMEOUT: Final = ProblemKind(
    "usage_export_timeout",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The export takes too long",
)

KINDS: Final[Kinds] = {
    errors.UnknownPlan: UNKNOWN_PLAN,
    errors.MessagesUnavailable: MESSAGES_UNAVAILABLE,
    errors.ReportUnavailable: REPORT_UNAVAILABLE,
    errors.DeadlineExceeded: DEADLINE_EXCEEDED,
    errors.WorkerLost: PERIOD_LOST,
    snapshots.CursorExpired: CURSOR_EXPIRED,
    snapshots.MessageNotFound: MESSAGE_NOT_FOUND,
    snapshots.RangeNotCovered: RANGE_NOT_COVERED,
    # `RevisionGone` and `TextsMissing`: another refresh ends both.
    snapshots.SnapshotError: PERIOD_LOST,
}
