"""The look-up of stored events after a collision, by the unique indexes.

SQLAlchemy's `IN` of several columns is no help: SQLite scans an index for it, and
PostgreSQL permits 32,767 values.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.events.model import Event
from service.events.tables import HAS_CONTENT_ID, HAS_OWN_ID
from service.storage.bulk_inserts import run_in_thread
from service.storage.engines import SQLITE

_CONTENT: Final = ("at", "digest", "application")
_OWN: Final = ("id", "application")
_TYPES: Final = {
    "at": "BIGINT",
    "digest": "BYTEA",
    "id": "TEXT",
    "application": "TEXT",
}


def _in_sqlite(columns: Sequence[str], condition: object) -> str:
    wanted = " AND ".join(f"{column} = ?" for column in columns)
    # Without the condition, the index is not used, because it has not all events.
    return f"SELECT key, digest FROM events WHERE {wanted} AND {condition}"


def _in_postgresql(columns: Sequence[str], condition: object) -> TextClause:
    arrays = (f"CAST(:{column} AS {_TYPES[column]}[])" for column in columns)
    wanted = " AND ".join(f"events.{column} = wanted.{column}" for column in columns)
    # The limit changes no result. It lets the planner look up each event in the index,
    # instead of joining all events.
    return text(
        f"SELECT found.key, found.digest FROM unnest({', '.join(arrays)}) "
        f"AS wanted ({', '.join(columns)}), LATERAL (SELECT key, digest FROM events "
        f"WHERE {wanted} AND {condition} LIMIT 1) AS found"
    )


_SQLITE_CONTENT: Final = _in_sqlite(_CONTENT, HAS_CONTENT_ID["sqlite"])
_SQLITE_OWN: Final = _in_sqlite(_OWN, HAS_OWN_ID["sqlite"])
_POSTGRESQL: Final = (
    (_CONTENT, _in_postgresql(_CONTENT, HAS_CONTENT_ID["postgresql"])),
    (_OWN, _in_postgresql(_OWN, HAS_OWN_ID["postgresql"])),
)


async def find_digests(
    connection: AsyncConnection, wanted: Sequence[Event]
) -> dict[bytes, bytes]:
    """Return the digests of those events that are stored already, by key."""
    if connection.dialect.name == SQLITE:
        return await run_in_thread(connection, partial(_find_in_sqlite, wanted=wanted))
    by_columns: dict[Sequence[str], list[Event]] = {_CONTENT: [], _OWN: []}
    for event in wanted:
        by_columns[_CONTENT if _has_content_id(event) else _OWN].append(event)
    found: dict[bytes, bytes] = {}
    for columns, statement in _POSTGRESQL:
        events = by_columns[columns]
        arrays = {name: [getattr(each, name) for each in events] for name in columns}
        found.update(map(tuple, await connection.execute(statement, arrays)))
    return found


def _find_in_sqlite(
    connection: sqlite3.Connection, wanted: Iterable[Event]
) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for event in wanted:
        values: tuple[Any, ...] = (event.id, event.application)
        statement = _SQLITE_OWN
        if _has_content_id(event):
            values = (event.at, event.digest, event.application)
            statement = _SQLITE_CONTENT
        found.update(connection.execute(statement, values))
    return found


def _has_content_id(event: Event) -> bool:
    return event.id == event.digest.hex()
