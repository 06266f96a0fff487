"""Inserts of many rows, by the fastest way of each database."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Dialect, Insert, Table, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.engines import SQLITE

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
        sql = _compiled(statement, connection.dialect)
        await connection.exec_driver_sql(sql, list(rows))


async def append_rows(
    connection: AsyncConnection, table: Table, rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert rows that do not exist yet, by the fastest way of each database.

    After an error, the transaction must be rolled back.
    """
    if not rows or connection.dialect.name == SQLITE:
        await insert_rows(connection, _insert_into(table), rows)
        return
    # COPY costs both sides a third less than INSERT. SQLAlchemy has no COPY, and begins
    # its transaction with its first statement.
    await connection.exec_driver_sql("SELECT 1")
    raw = await connection.get_raw_connection()
    driver: asyncpg.Connection = raw.driver_connection
    await driver.copy_records_to_table(
        table.name, records=rows, columns=table.columns.keys()
    )


@lru_cache(maxsize=64)
def _insert_into(table: Table) -> Insert:
    # Without OR FAIL, SQLite saves pages before each row, to undo its triggers. That
    # costs more than the triggers.
    return insert(table).prefix_with("OR FAIL", dialect=SQLITE)


@lru_cache(maxsize=64)
def _compiled(statement: Insert, dialect: Dialect) -> str:
    return str(statement.compile(dialect=dialect))
