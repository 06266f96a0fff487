"""Types of events: what applications send, and what the service answers."""

from typing import Annotated, Final, Literal, NamedTuple, Protocol, runtime_checkable

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

MAX_NAME_CHARS: Final = 200
MAX_DATA_BYTES: Final = 32 * 1024
MAX_ERRORS: Final = 20
"""Errors stored and answered for one event: enough to find the cause."""

NOT_SENT: Final = 0
"""`sent_at` of an event without a timestamp, whose time is that of its arrival."""

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
Status = Literal["accepted", "duplicate", "conflict", "failed"]


Data = Annotated[
    Raw,
    Meta(
        description="An object of at most 32 KiB that matches the type's schema.",
        extra_json_schema={"type": "object"},
    ),
]


# Without `gc=False` the garbage collector would track every event of a large request.
class Envelope(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """An event as an application sends it; `timestamp` and `data` stay verbatim."""

    session_id: Annotated[Name, Meta(description="The application's own session id.")]
    category: Name
    name: Name
    data: Data
    timestamp: Annotated[
        str,
        Meta(description="ISO 8601, with `T` or a space; UTC without an offset."),
    ]
    id: Annotated[
        Name | UnsetType,
        Meta(description="The application's own id; by default a content digest."),
    ] = UNSET


class EventError(Struct, frozen=True, gc=False):
    """One error of an event; `path` is a JSON Pointer into the event."""

    code: str
    path: str
    message: str


class Origin(NamedTuple):
    """The way in which an event arrived; a replay reads it in the same way."""

    format: str | None = None
    """The format of a stock client; None for that of `POST /events`."""
    skew_us: int = 0
    """The correction of the sender's clock, in microseconds."""
    arrived_at: int | None = None
    """The time of arrival of a failed event that is replayed; None for now."""


OURS: Final = Origin()


@runtime_checkable
class EventTexts(Protocol):
    """The texts of a request's events."""

    def __getitem__(self, place: int, /) -> bytes:
        """Return the JSON text of an event, as it was sent."""


class Source(Struct, frozen=True, array_like=True, gc=False):
    """The text of one event, in those of its request."""

    texts: EventTexts | None
    """None for an event of a queue, which has its fields only."""
    place: int

    def read(self) -> bytes:
        """Return the JSON text of the event, as it was sent.

        Raises `LookupError` for an event of a queue.
        """
        if self.texts is None:
            raise LookupError("the text was not sent to the queue")
        return self.texts[self.place]


# As arrays with a tag, events and failures are the content of a queue's messages too:
# append further fields with a default, so that other versions can read them.
class Event(Struct, frozen=True, array_like=True, tag=0, gc=False):
    """A valid event, ready to be stored.

    All fields but `source` are the columns of the table, in its order. `key` identifies
    application and id, `digest` the content; `at` is the timestamp in microseconds.
    """

    key: bytes
    application: str
    id: str
    digest: bytes
    session_id: str
    category: str
    name: str
    at: int
    timestamp: str
    data: str
    source: Source
    """The whole event as it was sent."""
    sent_at: int | None = None
    """The timestamp as it was sent, if it was corrected; `NOT_SENT` for none."""
    sent_timestamp: str | None = None
    context: str | None = None
    """What a stock client has sent besides, as JSON."""
    origin: Origin = OURS

    def read_text(self) -> bytes:
        """Return the JSON text of the event, as it was sent.

        An event of a queue has another order of members, and no blanks between them.
        """
        return _text_of(self) if self.source.texts is None else self.source.read()


class EventFailure(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """An invalid event: its text, its errors, and the fields that could be parsed."""

    id: str
    """A digest of application and content: the same failure is stored once."""
    application: str
    event: str
    errors: tuple[EventError, ...]
    event_id: str | None = None
    session_id: str | None = None
    category: str | None = None
    name: str | None = None
    at: int | None = None
    origin: Origin = OURS
    digest: bytes | None = None
    """That of the content of an event without an own id, if it could be read."""


class EventResult(Struct, frozen=True, omit_defaults=True, gc=False):
    """The result of one event."""

    id: str | None
    status: Status
    errors: tuple[EventError, ...] | UnsetType = UNSET
    failed_id: Annotated[
        str | UnsetType, Meta(description="The id of the failed event that is stored.")
    ] = UNSET


class Receipt(Struct, frozen=True):
    """The results of the events of one request, in the order sent."""

    accepted: int
    duplicates: int
    failed: int
    results: list[EventResult]
    stored: Annotated[
        bool | UnsetType,
        Meta(
            description="False while the events are in the event queue and not known "
            "to be stored; duplicates and conflicts are then among the accepted."
        ),
    ] = UNSET


class StoredEvent(Struct, frozen=True):
    """An event as it was sent, with its application and the time of its arrival."""

    id: str
    session_id: str
    category: str
    name: str
    data: Data
    timestamp: str
    received_at: str
    application: str
    sent_timestamp: (
        Annotated[
            str | None,
            Meta(
                description="The timestamp as it was sent, if the sender's clock was "
                "wrong and `timestamp` is corrected; null if none was sent."
            ),
        ]
        | UnsetType
    ) = UNSET
    context: (
        Annotated[
            Raw,
            Meta(
                description="What a stock client has sent besides.",
                extra_json_schema={"type": "object"},
            ),
        ]
        | UnsetType
    ) = UNSET


class EventList(Struct, frozen=True):
    """A page of events, by timestamp and then arrival."""

    events: list[StoredEvent]


class ApplicationList(Struct, frozen=True):
    """The applications that have events."""

    applications: list[str]


class Session(Struct, frozen=True):
    """One session of an application, from its first event to its last."""

    session_id: str
    application: str
    first: str
    last: str
    number_of_events: int
    events: list[StoredEvent]


class FailedEvent(Struct, frozen=True):
    """An event that failed validation: as it was sent, with its errors."""

    id: str
    event: Annotated[
        Raw,
        Meta(description="The event; its text if not every JSON reader accepts it."),
    ]
    errors: list[EventError]
    received_at: str
    application: str
    status: Annotated[
        Literal["failed", "superseded"],
        Meta(description="Superseded if its id was accepted after it."),
    ]
    corrected_timestamp: (
        Annotated[
            str,
            Meta(description="The time of the event, if the sender's clock was wrong."),
        ]
        | UnsetType
    ) = UNSET
    format: (
        Annotated[
            str,
            Meta(description="The format of `event`, if a stock client has sent it."),
        ]
        | UnsetType
    ) = UNSET


class FailedList(Struct, frozen=True):
    """A page of failed events, by arrival."""

    failed: list[FailedEvent]


class FailedGroup(Struct, frozen=True):
    """Failed events that have an error and a type in common."""

    code: str
    category: Annotated[
        str | None,
        Meta(description="Null if category or name could not be read."),
    ]
    name: str | None
    events: int
    first: Annotated[str, Meta(description="The arrival of the first one.")]
    last: Annotated[str, Meta(description="The arrival of the last one.")]


class FailedGroups(Struct, frozen=True):
    """Groups of failed events, the largest first."""

    groups: list[FailedGroup]
    more: Annotated[bool, Meta(description="True if there are further groups.")]


class ReplayStep(Struct, frozen=True, kw_only=True):
    """The results of one step of a replay, and how to go on."""

    accepted: int
    duplicates: Annotated[int, Meta(description="Events that were stored before.")]
    failed: Annotated[int, Meta(description="Events that are still invalid.")]
    remaining: Annotated[
        int, Meta(description="Failed events after this step; counted up to 10,000.")
    ]
    next: Annotated[
        str | None,
        Meta(description="The `cursor` of the next step; null after the last one."),
    ]


class DiscardStep(Struct, frozen=True, kw_only=True):
    """The result of one step of a discard, and how to go on."""

    discarded: int
    remaining: Annotated[
        int, Meta(description="Failed events after this step; counted up to 10,000.")
    ]
    next: Annotated[
        str | None,
        Meta(description="The `cursor` of the next step; null after the last one."),
    ]


class EventCount(Struct, frozen=True):
    """The number of events with one value."""

    value: str
    events: int


class Stats(Struct, frozen=True):
    """Counts of events by one property; hours ascend, other values by their count."""

    by: str
    counts: list[EventCount]
    other: Annotated[
        int,
        Meta(description="Events with other values than those in `counts`."),
    ] = 0


def _text_of(event: Event) -> bytes:
    """Return a JSON text with the fields of an event in our format."""
    return msgspec.json.encode(
        Envelope(
            event.session_id,
            event.category,
            event.name,
            Raw(event.data.encode()),
            event.sent_timestamp or event.timestamp,
            UNSET if event.id == event.digest.hex() else event.id,
        )
    )


def encode_errors(errors: tuple[EventError, ...]) -> str:
    """Encode errors as the JSON text that is stored."""
    return msgspec.json.encode(errors).decode()
