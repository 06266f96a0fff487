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


class StoredDigests:
    """The digests of stored events, by application, id and unique index."""

    def __init__(self) -> None:
        self._found: dict[Any, bytes] = {}

    def add(self, rows: Iterable[Any]) -> None:
        """Add rows of application, id and digest."""
        for application, event_id, digest in rows:
            self._found[application, event_id, event_id == digest.hex()] = digest

    def find(self, event: Event) -> bytes | None:
        """Return the digest of the stored event that has the place of this one."""
        return self._found.get((event.application, event.id, _has_content_id(event)))


_CONTENT: Final = ("sent_at", "digest", "application")
_OWN: Final = ("id", "application")
_FOUND: Final = "application, id, digest"
_TYPES: Final = {
    "sent_at": "BIGINT",
    "digest": "BYTEA",
    "id": "TEXT",
    "application": "TEXT",
}


def _indexed(column: str) -> str:
    """Return the expression of a column in its unique index."""
    table = column.removesuffix("sent_at")
    return column if table == column else f"coalesce({table}sent_at, {table}at)"


def _in_sqlite(columns: Sequence[str], condition: object) -> str:
    wanted = " AND ".join(f"{_indexed(column)} = ?" for column in columns)
    # Without the condition, the index is not used, because it has not all events.
    return f"SELECT {_FOUND} FROM events WHERE {wanted} AND {condition}"


def _in_postgresql(columns: Sequence[str], condition: object) -> TextClause:
    arrays = (f"CAST(:{column} AS {_TYPES[column]}[])" for column in columns)
    wanted = " AND ".join(
        f"{_indexed(f'events.{column}')} = wanted.{column}" for column in columns
    )
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


async def find_digests(
    connection: AsyncConnection, wanted: Sequence[Event]
) -> StoredDigests:
    """Return the digests of those events that are stored already."""
    if connection.dialect.name == SQLITE:
        work = partial(_find_in_sqlite, wanted=wanted)
        return await run_in_thread(connection, work)
    by_columns: dict[Sequence[str], list[Event]] = {_CONTENT: [], _OWN: []}
    for event in wanted:
        by_columns[_CONTENT if _has_content_id(event) else _OWN].append(event)
    found = StoredDigests()
    for columns, statement in _POSTGRESQL:
        events = by_columns[columns]
        arrays = {name: [_value(each, name) for each in events] for name in columns}
        found.add(await connection.execute(statement, arrays))
    return found


def _find_in_sqlite(
    connection: sqlite3.Connection, wanted: Iterable[Event]
) -> StoredDigests:
    found = StoredDigests()
    for event in wanted:
        has_content_id = _has_content_id(event)
        columns = _CONTENT if has_content_id else _OWN
        values = tuple(_value(event, name) for name in columns)
        statement = _SQLITE_CONTENT if has_content_id else _SQLITE_OWN
        found.add(connection.execute(statement, values))
    return found


def _value(event: Event, column: str) -> Any:
    value = getattr(event, column)
    return event.at if value is None else value


def _has_content_id(event: Event) -> bool:
    return event.id == event.digest.hex()
