"""Inserts of many rows, by the fastest way of each database."""

import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from sqlalchemy import Dialect, Insert, Table, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.engines import SQLITE
from service.storage.interruption import InterruptibleConnection
from service.storage.tables import ASSIGNED

MAX_INSERT_ROWS: Final = 1_000
"""Rows of one statement; SQLite permits 32,766 values in all of them."""

T = TypeVar("T")

if TYPE_CHECKING:
    import asyncpg


def insert_by(dialect: str, table: Table) -> Any:
    """Return the INSERT of a dialect, which has its ON CONFLICT clauses."""
    if dialect == SQLITE:
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)


async def insert_rows(
    connection: AsyncConnection, statement: Insert, rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert rows, whose values are in the order of the table's columns."""
    # Directly by the driver: SQLAlchemy's handling of parameters would take as long as
    # the database itself.
    if rows:
        sql = compiled(statement, connection.dialect)
        await connection.exec_driver_sql(sql, list(rows))


async def append_rows(
    connection: AsyncConnection, table: Table, rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert rows that do not exist yet, by the fastest way of each database.

    After an error, the transaction must be rolled back.
    """
    if not rows:
        return
    if connection.dialect.name == SQLITE:
        work = partial(append_to_sqlite, table=table, rows=rows)
        await run_in_thread(connection, work)
        return
    # COPY costs both sides a third less than INSERT. SQLAlchemy has no COPY, and begins
    # its transaction with its first statement.
    await connection.exec_driver_sql("SELECT 1")
    raw = await connection.get_raw_connection()
    server = cast("asyncpg.Connection", raw.driver_connection)
    await server.copy_records_to_table(
        table.name, records=rows, columns=written_columns(table)
    )


async def run_in_thread(
    connection: AsyncConnection, work: Callable[[sqlite3.Connection], T]
) -> T:
    """Return the result of statements of SQLite, in one call of its thread."""
    raw = await connection.get_raw_connection()
    return await cast(InterruptibleConnection, raw.driver_connection).run(work)


def append_to_sqlite(
    connection: sqlite3.Connection, table: Table, rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert rows that do not exist yet, in the thread of a connection to SQLite.

    After an error, the transaction must be rolled back.
    """
    # A thread gives the interpreter up for each statement, and then waits for it.
    start = 0
    while start < len(rows):
        size = _rows_of_next(len(rows) - start)
        values = chain.from_iterable(rows[start : start + size])
        connection.execute(_insert_into(table, size), tuple(values))
        start += size


def upsert_into_sqlite(
    connection: sqlite3.Connection, statement: Insert, rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert or update rows by one statement, in the thread of a connection to SQLite.

    Their values are in the order of the table's columns, and at most 32,766 in all.
    """
    sql = _upsert_of(statement, len(rows))
    connection.execute(sql, tuple(chain.from_iterable(rows)))


@lru_cache(maxsize=128)
def _upsert_of(statement: Insert, rows: int) -> str:
    """Return the SQL of an insert with ON CONFLICT for this number of rows."""
    head, keyword, rest = compiled_for_sqlite(statement).partition(" VALUES ")
    row, conflict, clause = rest.partition(" ON CONFLICT ")
    return head + keyword + ", ".join([row] * rows) + conflict + clause


def _rows_of_next(rows: int) -> int:
    """Return how many of the rows the next statement inserts: 700 of 789.

    So a group takes few statements, and the driver keeps all 28 of them prepared.
    """
    unit: int = 10 ** (len(str(rows)) - 1)
    return min(rows // unit * unit, MAX_INSERT_ROWS)


@lru_cache(maxsize=64)
def _insert_into(table: Table, rows: int) -> str:
    """Return the statement that inserts this number of rows into SQLite."""
    # Without OR FAIL, SQLite saves pages before each row, to undo its triggers. That
    # costs more than the triggers.
    values = dict.fromkeys(written_columns(table))
    one_row = insert(table).prefix_with("OR FAIL").values(values)
    head, keyword, row = compiled_for_sqlite(one_row).partition(" VALUES ")
    return head + keyword + ", ".join([row] * rows)


def written_columns(table: Table) -> list[str]:
    """Return the columns of a table that the database does not assign, in order."""
    return [each.name for each in table.columns if each.info != ASSIGNED]


@lru_cache(maxsize=64)
def compiled(statement: Insert, dialect: Dialect) -> str:
    """Return the SQL of an insert, with the placeholders of the driver."""
    return str(statement.compile(dialect=dialect))


@lru_cache(maxsize=64)
def compiled_for_sqlite(statement: Insert) -> str:
    """Return the SQL of an insert, for the driver of SQLite."""
    from sqlalchemy.dialects import sqlite

    return compiled(statement, sqlite.dialect())
