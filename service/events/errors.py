"""Errors of collecting and querying events.

EventsError
├── BadBody               the body of a request has no events.
│   ├── NotJson           the body is not JSON, or not of its media type.
│   ├── TooManyEvents     the body has more events than a request may have.
│   └── EventTooLarge     an event does not fit into a message of the queue.
├── BacklogFull           too many events wait to be written.
├── QueueUnavailable      the event queue does not answer.
│   ├── PartlyAccepted    the stream accepts a part of a request only.
│   └── StreamUnusable    an operator has to change the servers or the stream.
├── WaitsFull             too many requests wait for events.
├── CursorAhead           the cursor is after the last event.
├── SessionNotFound       no event of the session is stored.
├── FailedEventNotFound   no failed event has this id.
├── ReplayRefused         the replayed event is still invalid.
└── SchemasRefused        one of the schemas is invalid.
"""


class EventsError(Exception):
    """An operation on events failed."""


class BadBody(EventsError):
    """A request's body has no events to store, not even as failed events."""


class NotJson(BadBody):
    """The body is not JSON, not UTF-8, or nested too deeply."""


class TooManyEvents(BadBody):
    """The body has more events than one request may have."""


class EventTooLarge(BadBody):
    """An event, with its errors, does not fit into a message of the queue."""


class BacklogFull(EventsError):
    """The events that wait to be written have reached `events.max_backlog`."""

    retry_after_s = 1.0


class QueueUnavailable(EventsError):
    """The event queue does not answer; what was sent to it may be stored."""

    retry_after_s = 1.0


class PartlyAccepted(QueueUnavailable):
    """The stream refuses messages of a request, of which others may be accepted."""


class StreamUnusable(QueueUnavailable):
    """The NATS servers or the stream cannot be used until an operator changes them."""


class WaitsFull(EventsError):
    """The requests that wait for events have reached their maximum number."""

    retry_after_s = 1.0


class CursorAhead(EventsError):
    """The cursor is after the last event, as after the restore of a backup."""


class SessionNotFound(EventsError):
    """The application has no event of this session."""


class FailedEventNotFound(EventsError):
    """The application has no failed event with this id."""


class ReplayRefused(EventsError):
    """The replayed event is still invalid, or its id belongs to another event."""


class SchemasRefused(EventsError):
    """A schema is invalid, so all stay as they were; the text names its file."""
