"""Writing events: a group of events in one transaction, each event exactly once.

The unique indexes of the table decide which event came first, between processes too. A
group is inserted as if it had no duplicates, which is nearly always true. Only after a
collision are the stored events looked up, and the duplicates left out.

In PostgreSQL, a group that waits for another transaction keeps its own events locked.
Two groups with the same ids at other times would wait for each other. So a wait is
short at first. Then the group is inserted in the order of the indexes, in which no two
groups can wait for each other, and waits as long as it must.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from operator import itemgetter
from typing import Any, Final, NamedTuple

from msgspec.structs import astuple
from sqlalchemy.ext.asyncio import AsyncConnection

from service.events.model import Event, EventFailure, encode_errors
from service.events.stored_digests import StoredDigests, find_digests
from service.events.tables import events, failed_events
from service.events.validation import conflict_of
from service.storage.bulk_inserts import (
    append_rows,
    append_to_sqlite,
    compiled_for_sqlite,
    insert_by,
    insert_rows,
    written_columns,
)
from service.storage.database import Database
from service.storage.errors import (
    Collided,
    ConnectionLost,
    Locked,
    StorageUnavailable,
)
from service.storage.transactions import wait_for_locks
from service.storage.uses import Use

MAX_COLLISIONS: Final = 20
"""Collisions of one group with other processes after which it is refused."""

_COLUMNS: Final = written_columns(events)
_ID: Final = _COLUMNS.index("id")
_APPLICATION: Final = _COLUMNS.index("application")
_DIGEST: Final = _COLUMNS.index("digest")
_AT: Final = _COLUMNS.index("at")
_SENT_AT: Final = _COLUMNS.index("sent_at")
_SOURCE: Final = Event.__struct_fields__.index("source")
_ORIGIN: Final = Event.__struct_fields__.index("origin")


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
    """Writes events and failures to the database.

    With `keeps_order`, the feed has events of one group in the order given, which must
    then be the same in every process that may store the same events.
    """

    def __init__(self, database: Database, *, keeps_order: bool = False) -> None:
        self._database = database
        self._keeps_order = keeps_order

    def check(self) -> None:
        """Raise `CircuitOpen` if the database would not be asked."""
        self._database.check()

    async def store(self, received: Sequence[ReceivedEvent]) -> list[Stored]:
        """Store a group, all or nothing; it is on disk when this returns.

        A lost connection is replaced once. If it was lost during the commit, the events
        may be stored already, and are duplicates then. Returns one `Stored` for each
        event, in their order. Raises `StorageError`.
        """
        was_lost = waits = False
        # Only a second attempt needs the stored events.
        for attempt in range(MAX_COLLISIONS):
            try:
                if not attempt and self._database.is_sqlite:
                    return await self._store_at_once(received)
                return await self._store(received, is_first=not attempt, waits=waits)
            except Locked:
                waits = True
            except Collided:
                continue
            except ConnectionLost:
                if was_lost:
                    raise
                was_lost = True
        raise StorageUnavailable("other processes store the same events all the time")

    async def _store(
        self, received: Sequence[ReceivedEvent], *, is_first: bool, waits: bool
    ) -> list[Stored]:
        """Store a group, after a look at the stored events unless it `is_first`.

        Only with `waits` may it wait for other transactions without a limit.
        """
        async with self._database.writing(Use.EVENTS) as connection:
            if waits:
                await wait_for_locks(connection)
            known = None if is_first else await digests_of(connection, received)
            order = _by_index if waits else _by_sent_time
            return await insert_received(
                connection, received, known, None if self._keeps_order else order
            )

    async def _store_at_once(self, received: Sequence[ReceivedEvent]) -> list[Stored]:
        """Store a group in SQLite as if none of its events were stored."""
        stored = compare(received, None)
        work = partial(
            _insert_into_sqlite,
            new_rows=list(_new_rows(received, stored)),
            failed_rows=_failed_rows(received, stored),
        )
        await self._database.write_in_thread(Use.EVENTS, work)
        return stored


async def digests_of(
    connection: AsyncConnection, received: Iterable[ReceivedEvent]
) -> StoredDigests:
    """Return the digests of the events that are stored already."""
    items = (each.item for each in received)
    wanted = [item for item in items if isinstance(item, Event)]
    return await find_digests(connection, wanted)


def _by_sent_time(row: tuple[Any, ...]) -> tuple[int, str]:
    """Return the key of an order in which processes with the same events insert them.

    So they do not wait for each other. Rows in the order of time also cost the indexes
    least, and the feed has them in this order.
    """
    sent_at = row[_SENT_AT]
    return (row[_AT] if sent_at is None else sent_at), row[_ID]


def _by_index(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the key of the order of the unique indexes, one after the other.

    Processes do not wait for each other either if their events have the same ids and
    other times.
    """
    has_content_id = row[_ID] == row[_DIGEST].hex()
    place = _by_sent_time(row) if has_content_id else row[_ID : _ID + 1]
    return not has_content_id, *place, row[_APPLICATION]


async def insert_received(
    connection: AsyncConnection,
    received: Sequence[ReceivedEvent],
    known: StoredDigests | None,
    order: Callable[[tuple[Any, ...]], Any] | None = _by_sent_time,
) -> list[Stored]:
    stored = compare(received, known)
    new_rows = list(_new_rows(received, stored))
    if order is not None:
        new_rows.sort(key=order)
    await append_rows(connection, events, new_rows)
    statement = _insert_failures(connection.dialect.name)
    await insert_rows(connection, statement, _failed_rows(received, stored))
    return stored


def _insert_into_sqlite(
    connection: sqlite3.Connection,
    new_rows: Sequence[tuple[Any, ...]],
    failed_rows: Sequence[tuple[Any, ...]],
) -> None:
    append_to_sqlite(connection, events, new_rows)
    if failed_rows:
        failures = compiled_for_sqlite(_insert_failures("sqlite"))
        connection.executemany(failures, failed_rows)


def _new_rows(
    received: Iterable[ReceivedEvent], stored: Iterable[Stored]
) -> Iterator[tuple[Any, ...]]:
    for (item, received_at), outcome in zip(received, stored, strict=True):
        if isinstance(item, Event) and outcome.is_new:
            # `source` and `origin` are no columns of the table.
            fields = astuple(item)
            yield (*fields[:_SOURCE], received_at, *fields[_SOURCE + 1 : _ORIGIN])


def _failed_rows(
    received: Iterable[ReceivedEvent], stored: Iterable[Stored]
) -> list[tuple[Any, ...]]:
    """Return the rows of failures and conflicts, in the order of their ids."""
    failed = (
        _failed_row(failure, received_at)
        for (item, received_at), outcome in zip(received, stored, strict=True)
        if isinstance(failure := outcome.conflict or item, EventFailure)
    )
    return sorted(failed, key=itemgetter(0))


@cache
def _insert_failures(dialect: str) -> Any:
    # A failure that is sent again has the same id and adds no row.
    return insert_by(dialect, failed_events).on_conflict_do_nothing()


def compare(
    received: Iterable[ReceivedEvent], known: StoredDigests | None
) -> list[Stored]:
    """Compare events with the stored ones and with the events before them."""
    digests: dict[Any, bytes] = {}
    stored: list[Stored] = []
    for item, _ in received:
        if isinstance(item, EventFailure):
            stored.append(NEW)
            continue
        place: Any = item.key
        first = digests.get(place)
        if first is not None and _are_apart(item, first):
            place = item.key, "other index"
            first = digests.get(place)
        if first is None and known is not None:
            first = known.find(item)
        if first is None:
            digests[place] = item.digest
            stored.append(NEW)
        elif first == item.digest:
            stored.append(DUPLICATE)
        else:
            stored.append(Stored(is_new=False, conflict=conflict_of(item)))
    return stored


def _are_apart(event: Event, first: bytes) -> bool:
    """Return whether the first event with this key is in another unique index."""
    # The id is the digest of one of them, and the own id of the other.
    digests = event.digest, first
    return digests[0] != digests[1] and event.id in map(bytes.hex, digests)


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
        failure.origin.format,
        failure.origin.skew_us or None,
        failure.event_id,
        failure.digest,
    )
