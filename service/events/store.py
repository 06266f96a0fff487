"""Writing events: a group of requests' events in one transaction, each exactly once.

The unique key of the table decides who was first, between processes too. A group is
inserted as if none of it were there, which is nearly always so; only where the database
says otherwise are those that are there looked up, and left out.
"""

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

from msgspec.structs import astuple
from sqlalchemy import bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from service.events.errors import FailedEventNotFound, ReplayRefused
from service.events.model import Event, Failure, encode_errors
from service.events.reading import conflict_of
from service.events.tables import events, failed_events
from service.storage.database import Database, append_rows, insert_rows
from service.storage.errors import Collided, StorageUnavailable

MOST_RACES: Final = 20
"""How often a group may meet the same ids in other processes before it gives up."""

_INSERT_FAILURES: Final = {
    "sqlite": sqlite.insert(failed_events).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(failed_events).on_conflict_do_nothing(),
}
_FIND_DIGESTS: Final = select(events.c.key, events.c.digest).where(
    events.c.key.in_(bindparam("keys", expanding=True))
)


class Arrival(NamedTuple):
    """An event or a failure, and when it came: microseconds since 1970."""

    item: Event | Failure
    received_at: int


class Stored(NamedTuple):
    """What became of an event: whether it is new, or conflicts with an earlier one."""

    is_new: bool
    conflict: Failure | None = None


NEW: Final = Stored(is_new=True)
DUPLICATE: Final = Stored(is_new=False)


class EventStore:
    """Writes events and failures to the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def store(self, arrivals: Sequence[Arrival]) -> list[Stored]:
        """Store a group, all or nothing; on disk when this returns.

        One `Stored` for each arrival, in their order. Raises `StorageError`.
        """
        for attempt in range(MOST_RACES):
            try:
                async with self._database.writing() as connection:
                    known = await _digests(connection, arrivals) if attempt else {}
                    return await _insert(connection, arrivals, known)
            except Collided:
                continue
        raise StorageUnavailable("other processes store the same events all the time")

    async def replay(self, failed_id: str, arrival: Arrival) -> Stored:
        """Store a failed event that keeps its contract now; it has failed no more.

        Of many who try at once one does it; the others get `FailedEventNotFound`.
        `ReplayRefused` where another event has its id.
        """
        gone = delete(failed_events).where(failed_events.c.id == failed_id)
        for _ in range(MOST_RACES):
            try:
                async with self._database.writing() as connection:
                    if not (await connection.execute(gone)).rowcount:
                        raise FailedEventNotFound(f"no failed event {failed_id!r}")
                    known = await _digests(connection, [arrival])
                    (stored,) = await _insert(connection, [arrival], known)
                    if stored.conflict is not None:
                        raise ReplayRefused("another event has this id")
                    return stored
            except Collided:
                continue
        raise StorageUnavailable("other processes store the same event all the time")


async def _digests(
    connection: AsyncConnection, arrivals: Iterable[Arrival]
) -> dict[bytes, bytes]:
    """The digests of those events that are stored, by key."""
    keys = [each.item.key for each in arrivals if isinstance(each.item, Event)]
    rows = await connection.execute(_FIND_DIGESTS, {"keys": keys})
    return {row.key: row.digest for row in rows}


async def _insert(
    connection: AsyncConnection, arrivals: Sequence[Arrival], known: dict[bytes, bytes]
) -> list[Stored]:
    digests = dict(known)
    stored: list[Stored] = []
    new_rows: list[tuple[Any, ...]] = []
    failed_rows: list[tuple[Any, ...]] = []
    for item, received_at in arrivals:
        if isinstance(item, Failure):
            failed_rows.append(_failed_row(item, received_at))
            stored.append(NEW)
            continue
        first = digests.get(item.key)
        if first is None:
            digests[item.key] = item.digest
            new_rows.append(_event_row(item, received_at))
            stored.append(NEW)
        elif first == item.digest:
            stored.append(DUPLICATE)
        else:
            conflict = conflict_of(item)
            failed_rows.append(_failed_row(conflict, received_at))
            stored.append(Stored(is_new=False, conflict=conflict))
    # In the order of their keys: processes with the same events wait for one another,
    # and never both for the other.
    await append_rows(connection, events, sorted(new_rows))
    statement = _INSERT_FAILURES[connection.dialect.name]
    await insert_rows(connection, statement, sorted(failed_rows, key=itemgetter(0)))
    return stored


def _event_row(event: Event, received_at: int) -> tuple[Any, ...]:
    return (*astuple(event)[:-1], received_at)


def _failed_row(failure: Failure, received_at: int) -> tuple[Any, ...]:
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
