"""Writing events: a group of events in one transaction, each event exactly once.

The unique key of the table decides which event came first, between processes too. A
group is inserted as if it had no duplicates, which is nearly always true. Only after a
collision are the stored keys looked up, and the duplicates left out.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, Final, NamedTuple

from msgspec.structs import astuple
from sqlalchemy import bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.events.errors import FailedEventNotFound, ReplayRefused
from service.events.model import Event, EventFailure, encode_errors
from service.events.tables import events, failed_events
from service.events.validation import conflict_of
from service.storage.bulk_inserts import append_rows, insert_by, insert_rows
from service.storage.database import Database
from service.storage.errors import Collided, ConnectionLost, StorageUnavailable
from service.storage.uses import Use

MAX_COLLISIONS: Final = 20
"""Collisions of one group with other processes after which it is refused."""

_FIND_DIGESTS: Final = select(events.c.key, events.c.digest).where(
    events.c.key.in_(bindparam("keys", expanding=True))
)


class ReceivedEvent(NamedTuple):
    """An event or a failure, and its time of arrival in microseconds since 1970."""

    item: Event | EventFailure
    received_at: int


class Stored(NamedTuple):
    """The outcome for one event: new, a duplicate, or a conflict with a stored one."""

    is_new: bool
    conflict: EventFailure | None = None


NEW: Final = Stored(is_new=True)
DUPLICATE: Final = Stored(is_new=False)


class EventStore:
    """Writes events and failures to the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def check(self) -> None:
        """Raise `CircuitOpen` if the database would not be asked."""
        self._database.check()

    async def store(self, received: Sequence[ReceivedEvent]) -> list[Stored]:
        """Store a group, all or nothing; it is on disk when this returns.

        A lost connection is replaced once. If it was lost during the commit, the events
        may be stored already, and are duplicates then. Returns one `Stored` for each
        event, in their order. Raises `StorageError`.
        """
        was_lost = False
        # Only a second attempt needs the stored keys.
        for attempt in range(MAX_COLLISIONS):
            try:
                async with self._database.writing(Use.EVENTS) as connection:
                    known = await _digests(connection, received) if attempt else {}
                    return await _insert(connection, received, known)
            except Collided:
                continue
            except ConnectionLost:
                if was_lost:
                    raise
                was_lost = True
        raise StorageUnavailable("other processes store the same events all the time")

    async def replay(self, failed_id: str, received: ReceivedEvent) -> Stored:
        """Store a failed event that is valid now, and delete the failed event.

        Raises `FailedEventNotFound`, also if another request replays it first. Raises
        `ReplayRefused` if another event has its id, and `StorageError`.
        """
        for _ in range(MAX_COLLISIONS):
            try:
                async with self._database.writing() as connection:
                    return await _replay(connection, failed_id, received)
            except Collided:
                continue
        raise StorageUnavailable("other processes store the same event all the time")


async def _replay(
    connection: AsyncConnection, failed_id: str, received: ReceivedEvent
) -> Stored:
    # The delete comes first: its row count decides which of two requests replays.
    statement = delete(failed_events).where(failed_events.c.id == failed_id)
    if not (await connection.execute(statement)).rowcount:
        raise FailedEventNotFound(f"no failed event {failed_id!r}")
    known = await _digests(connection, [received])
    (stored,) = await _insert(connection, [received], known)
    if stored.conflict is not None:
        raise ReplayRefused("another event has this id")
    return stored


async def _digests(
    connection: AsyncConnection, received: Iterable[ReceivedEvent]
) -> dict[bytes, bytes]:
    """Return the digests of the events that are stored already, by key."""
    keys = [each.item.key for each in received if isinstance(each.item, Event)]
    rows = await connection.execute(_FIND_DIGESTS, {"keys": keys})
    return {row.key: row.digest for row in rows}


async def _insert(
    connection: AsyncConnection,
    received: Sequence[ReceivedEvent],
    known: dict[bytes, bytes],
) -> list[Stored]:
    stored = _compare(received, known)
    new_rows = [
        _event_row(item, received_at)
        for (item, received_at), outcome in zip(received, stored, strict=True)
        if isinstance(item, Event) and outcome.is_new
    ]
    failed_rows = [
        _failed_row(failure, received_at)
        for (item, received_at), outcome in zip(received, stored, strict=True)
        if isinstance(failure := outcome.conflict or item, EventFailure)
    ]
    # Sorted by key, so that two processes with the same events cannot deadlock.
    await append_rows(connection, events, sorted(new_rows))
    statement = _insert_failures(connection.dialect.name)
    await insert_rows(connection, statement, sorted(failed_rows, key=itemgetter(0)))
    return stored


@cache
def _insert_failures(dialect: str) -> Any:
    # A failure that is sent again has the same id and adds no row.
    return insert_by(dialect, failed_events).on_conflict_do_nothing()


def _compare(
    received: Iterable[ReceivedEvent], known: dict[bytes, bytes]
) -> list[Stored]:
    """Compare events with the stored digests and with the events before them."""
    digests = dict(known)
    stored: list[Stored] = []
    for item, _ in received:
        if isinstance(item, EventFailure):
            stored.append(NEW)
            continue
        first = digests.get(item.key)
        if first is None:
            digests[item.key] = item.digest
            stored.append(NEW)
        elif first == item.digest:
            stored.append(DUPLICATE)
        else:
            stored.append(Stored(is_new=False, conflict=conflict_of(item)))
    return stored


def _event_row(event: Event, received_at: int) -> tuple[Any, ...]:
    # The last field, `source`, is no column of the table.
    return (*astuple(event)[:-1], received_at)


def _failed_row(failure: EventFailure, received_at: int) -> tuple[Any, ...]:
    return (
        failure.id,
        failure.application,
        failure.session_id,
        failure.category,
        failure.name,
        failure.at,
        failure.event,
        ",".join(sorted({error.code for error in failure.errors})),
        encode_errors(failure.errors),
        received_at,
    )
