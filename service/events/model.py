"""The nouns of events: what applications send, and what the service answers."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

MAX_NAME_CHARS: Final = 200
MAX_DATA_BYTES: Final = 32 * 1024
MAX_ERRORS: Final = 20
"""Of one event; one who sends a thousand wrong fields learns enough from twenty."""

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
Status = Literal["accepted", "duplicate", "conflict", "failed"]


Data = Annotated[
    Raw,
    Meta(
        description="What the type says; an object of at most 32 KiB.",
        extra_json_schema={"type": "object"},
    ),
]


class Envelope(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """An event as an application sends it; `timestamp` and `data` stay verbatim."""

    session_id: Annotated[Name, Meta(description="The application's own.")]
    category: Name
    name: Name
    data: Data
    timestamp: Annotated[
        str,
        Meta(description="ISO 8601, with `T` or a space; without an offset it is UTC."),
    ]
    id: Annotated[
        Name | UnsetType,
        Meta(description="The application's own; else a digest of the content."),
    ] = UNSET


class EventError(Struct, frozen=True):
    """One thing that is wrong with an event; `path` is a JSON Pointer into it."""

    code: str
    path: str
    message: str


class Event(Struct, frozen=True, gc=False):
    """An event that keeps its contract, ready to be stored.

    `key` stands for application and id, `digest` for the content; `at` is the
    timestamp as an instant. But for the last, the fields are those of the table, in its
    order.
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
    source: bytes
    """The whole event as it was sent."""


class Failure(Struct, frozen=True, gc=False):
    """An event that breaks its contract, kept whole, and what could be read of it."""

    id: str
    """A digest of application and content: the same failure is kept once."""
    application: str
    event: str
    errors: tuple[EventError, ...]
    event_id: str | None = None
    session_id: str | None = None
    category: str | None = None
    name: str | None = None
    at: int | None = None


class Result(Struct, frozen=True, omit_defaults=True):
    """What became of one event."""

    id: str | None
    status: Status
    errors: tuple[EventError, ...] | UnsetType = UNSET


class Receipt(Struct, frozen=True):
    """What became of the events of one request, in the order sent."""

    accepted: int
    duplicates: int
    failed: int
    results: list[Result]


class StoredEvent(Struct, frozen=True):
    """An event as it was sent, and when which application sent it."""

    id: str
    session_id: str
    category: str
    name: str
    data: Data
    timestamp: str
    received_at: str
    application: str


class EventList(Struct, frozen=True):
    """A page of events, by timestamp and then arrival."""

    events: list[StoredEvent]


class Session(Struct, frozen=True):
    """What one session of an application did, from its first event to its last."""

    session_id: str
    application: str
    first: str
    last: str
    number_of_events: int
    events: list[StoredEvent]


class FailedEvent(Struct, frozen=True):
    """An event that broke its contract: as it was sent, and what was wrong with it."""

    id: str
    event: Raw
    errors: list[EventError]
    received_at: str
    application: str


class FailedList(Struct, frozen=True):
    """A page of failed events, by arrival."""

    failed: list[FailedEvent]


class Count(Struct, frozen=True):
    """How many there are of one kind."""

    value: str
    events: int


class Stats(Struct, frozen=True):
    """Counts by what was asked for, in its order."""

    by: str
    counts: list[Count]


def encode_errors(errors: tuple[EventError, ...]) -> str:
    """Errors as they are stored."""
    return msgspec.json.encode(errors).decode()
