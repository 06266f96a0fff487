"""The look-up of stored events after a collision, by the unique indexes.

SQLAlchemy's `IN` of several columns is no help: SQLite scans an index for it, and
PostgreSQL permits 32,767 values.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.events.model import Event
from service.events.tables import HAS_CONTENT_ID, HAS_OWN_ID
from service.storage.bulk_inserts import run_in_thread
from service.storage.engines import SQLITE

Digests = dict[Any, bytes]


class StoredDigests(NamedTuple):
    """The digests of stored events."""

    by_index: Digests
    """By application, id, and whether the id is the digest."""
    by_key: Digests | None
    """By key, if the unique index of the previous version has refused an event."""

    def find(self, event: Event) -> bytes | None:
        """Return the digest of the stored event that has the place of this one."""
        # By key at last: a downgrade changes the key of an event that shares an id.
        place = event.application, event.id, _has_content_id(event)
        found = self.by_index.get(place)
        if found is None and self.by_key is not None:
            return self.by_key.get(event.key)
        return found


_CONTENT: Final = ("at", "digest", "application")
_OWN: Final = ("id", "application")
_FOUND: Final = "application, id, digest"
_TYPES: Final = {
    "at": "BIGINT",
    "digest": "BYTEA",
    "id": "TEXT",
    "application": "TEXT",
}


def _in_sqlite(columns: Sequence[str], condition: object) -> str:
    wanted = " AND ".join(f"{column} = ?" for column in columns)
    # Without the condition, the index is not used, because it has not all events.
    return f"SELECT {_FOUND} FROM events WHERE {wanted} AND {condition}"


def _in_postgresql(columns: Sequence[str], condition: object) -> TextClause:
    arrays = (f"CAST(:{column} AS {_TYPES[column]}[])" for column in columns)
    wanted = " AND ".join(f"events.{column} = wanted.{column}" for column in columns)
    # The limit changes no result. It lets the planner look up each event in the index,
    # instead of joining all events.
    return text(
        f"SELECT found.* FROM unnest({', '.join(arrays)}) "
        f"AS wanted ({', '.join(columns)}), LATERAL (SELECT {_FOUND} FROM events "
        f"WHERE {wanted} AND {condition} LIMIT 1) AS found"
    )


_SQLITE_CONTENT: Final = _in_sqlite(_CONTENT, HAS_CONTENT_ID["sqlite"])
_SQLITE_OWN: Final = _in_sqlite(_OWN, HAS_OWN_ID["sqlite"])
_POSTGRESQL: Final = (
    (_CONTENT, _in_postgresql(_CONTENT, HAS_CONTENT_ID["postgresql"])),
    (_OWN, _in_postgresql(_OWN, HAS_OWN_ID["postgresql"])),
)


_SQLITE_KEY: Final = "SELECT key, digest FROM events WHERE key = ?"
_POSTGRESQL_KEY: Final = text(
    "SELECT key, digest FROM events WHERE key = ANY(CAST(:keys AS BYTEA[]))"
)


async def find_digests(
    connection: AsyncConnection, wanted: Sequence[Event], *, by_key: bool
) -> StoredDigests:
    """Return the digests of those events that are stored already.

    With `by_key` also of events with their keys, which the previous version's index of
    keys refuses; without this index, all events would be read.
    """
    if connection.dialect.name == SQLITE:
        work = partial(_find_in_sqlite, wanted=wanted, by_key=by_key)
        return await run_in_thread(connection, work)
    by_columns: dict[Sequence[str], list[Event]] = {_CONTENT: [], _OWN: []}
    for event in wanted:
        by_columns[_CONTENT if _has_content_id(event) else _OWN].append(event)
    found = StoredDigests({}, {} if by_key else None)
    for columns, statement in _POSTGRESQL:
        events = by_columns[columns]
        arrays = {name: [getattr(each, name) for each in events] for name in columns}
        found.by_index.update(_by_index(await connection.execute(statement, arrays)))
    if found.by_key is not None:
        keys = {"keys": [each.key for each in wanted]}
        rows = await connection.execute(_POSTGRESQL_KEY, keys)
        found.by_key.update(map(tuple, rows))
    return found


def _find_in_sqlite(
    connection: sqlite3.Connection, wanted: Iterable[Event], *, by_key: bool
) -> StoredDigests:
    found = StoredDigests({}, {} if by_key else None)
    for event in wanted:
        values: tuple[Any, ...] = (event.id, event.application)
        statement = _SQLITE_OWN
        if _has_content_id(event):
            values = (event.at, event.digest, event.application)
            statement = _SQLITE_CONTENT
        found.by_index.update(_by_index(connection.execute(statement, values)))
        if found.by_key is not None:
            found.by_key.update(connection.execute(_SQLITE_KEY, (event.key,)))
    return found


def _by_index(rows: Iterable[Any]) -> Iterator[tuple[Any, bytes]]:
    for application, event_id, digest in rows:
        yield (application, event_id, event_id == digest.hex()), digest


def _has_content_id(event: Event) -> bool:
    return event.id == event.digest.hex()
