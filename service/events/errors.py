"""How collecting and asking for events fail as a whole.

EventsError
├── BadBody               a request's body that holds no events at all
│   ├── NotJson           it is not JSON, or not in its form
│   └── TooManyEvents     it holds more than a request may
├── BacklogFull           more events wait for the disk than may
├── SessionNotFound       no event of the session is kept
├── FailedEventNotFound   no failed event has this id
└── ReplayRefused         a failed event that still breaks its contract
"""


class EventsError(Exception):
    """Something about events did not work out."""


class BadBody(EventsError):
    """A request's body holds no events that could be kept, not even as failed ones."""


class NotJson(BadBody):
    """The body is not JSON, not UTF-8, or nested beyond reason."""


class TooManyEvents(BadBody):
    """The body holds more events than one request may."""


class BacklogFull(EventsError):
    """More events wait to be written than are allowed to."""

    retry_after_s = 1.0


class SessionNotFound(EventsError):
    """The application has no event of this session."""


class FailedEventNotFound(EventsError):
    """The application has no failed event with this id."""


class ReplayRefused(EventsError):
    """A failed event breaks its contract still."""
