"""Statements end with their task, and the connection is of use afterwards."""

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine
from typing import Any, Final

import asyncpg
import pytest
from sqlalchemy import text

from service.storage.breaker import MAX_TIMEOUTS
from service.storage.database import Database
from service.storage.errors import (
    CircuitOpen,
    StorageError,
    StorageTimeout,
    StorageUnusable,
)
from service.storage.uses import Use
from tests.conftest import POSTGRESQL
from tests.metric_samples import Read
from tests.patience import GIVE_UP_S
from tests.running import LOOK_AGAIN_S

ENDLESS: Final = (
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT 1 - x FROM n) "
    "SELECT {} FROM n WHERE x > {}"
)
ACTIVE: Final = (
    "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' "
    "AND query LIKE '%RECURSIVE n(x)%' AND pid <> pg_backend_pid()"
)
FAILURES: Final = "copilot_usage_storage_failures_total"
DELAYS_S: Final = (0.0, 0.001, 0.01, 0.1)


async def count(database: Database) -> None:
    """Run a statement that never ends."""
    async with database.reading(Use.EVENT_QUERIES) as connection:
        await connection.execute(text(ENDLESS.format("count(*)", 1)))


async def sleep(database: Database) -> None:
    """Run a statement that lasts longer than its time limit."""
    async with database.reading(Use.VEHICLES) as connection:
        # If its cancellation comes too early, migrations of other tests wait for it.
        await connection.execute(text("SELECT pg_sleep(5)"))


async def stream(database: Database) -> None:
    """Fetch rows without end."""
    statement = text(ENDLESS.format("x", 0))
    async with (
        database.reading(Use.EVENT_QUERIES) as connection,
        connection.stream(statement) as result,
    ):
        async for _ in result.partitions(100):
            pass


async def write(database: Database) -> None:
    """Run a write that never ends."""
    async with database.writing(Use.EVENTS) as connection:
        await connection.execute(text("CREATE TABLE never (x INTEGER)"))
        statement = "INSERT INTO never " + ENDLESS.format("x", 1)
        await connection.execute(text(statement))


async def until_active(expected: int) -> None:
    """Wait until this number of endless statements runs in PostgreSQL."""
    observer = await asyncpg.connect(POSTGRESQL)
    try:
        async with asyncio.timeout(GIVE_UP_S):
            while await observer.fetchval(ACTIVE) != expected:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_AGAIN_S)
    finally:
        await observer.close()


@pytest.mark.parametrize("run", [count, stream, write])
async def test_a_cancelled_task_ends_its_statement(
    database: Database, run: Callable[[Database], Coroutine[Any, Any, None]]
) -> None:
    """Whenever it is cancelled, the one connection of its use is free at once."""
    for delay_s in DELAYS_S:
        task = asyncio.create_task(run(database))
        await asyncio.wait([task], timeout=delay_s)
        task.cancel()
        await asyncio.wait([task], timeout=GIVE_UP_S)
        assert task.cancelled()
    async with database.reading(Use.EVENT_QUERIES) as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    if not database.is_sqlite:
        await until_active(0)
    async with database.writing(Use.EVENTS) as connection:
        # The cancelled writes were rolled back.
        await connection.execute(text("CREATE TABLE never (x INTEGER)"))


@pytest.mark.services
@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
async def test_a_statement_ends_with_its_connection(database: Database) -> None:
    """PostgreSQL sees that nobody waits; otherwise it would keep its locks for ever."""
    task = asyncio.create_task(write(database))
    await until_active(1)
    # The circuit opens, which ends the connections without a word to the server.
    for _ in range(MAX_TIMEOUTS):
        database.breaker.timed_out()
    with pytest.raises(StorageError):
        await task
    await until_active(0)


def write_without_end(connection: sqlite3.Connection) -> None:
    """Run a write that never ends, in the thread of the connection."""
    connection.execute("CREATE TABLE never (x INTEGER)")
    connection.execute("INSERT INTO never " + ENDLESS.format("x", 1))


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
async def test_a_cancelled_task_ends_its_transaction_in_the_thread(
    database: Database,
) -> None:
    """Whenever it is cancelled, the transaction is undone and the lock is free."""
    for delay_s in DELAYS_S:
        work = database.write_in_thread(Use.EVENTS, write_without_end)
        task = asyncio.create_task(work)
        await asyncio.wait([task], timeout=delay_s)
        task.cancel()
        await asyncio.wait([task], timeout=GIVE_UP_S)
        assert task.cancelled()
    created = "CREATE TABLE never (x INTEGER)"
    await database.write_in_thread(Use.EVENTS, lambda file: file.execute(created))
    with pytest.raises(StorageUnusable, match="already exists"):
        await database.write_in_thread(Use.EVENTS, lambda file: file.execute(created))
    async with database.writing(Use.EVENTS) as connection:
        await connection.execute(text("INSERT INTO never VALUES (1)"))


@pytest.mark.services
@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
async def test_only_time_limits_of_their_own_open_the_circuit(
    database: Database, added: Read
) -> None:
    """Callers that leave early do not, however many; calls without an answer do."""
    async with database.reading() as connection:
        await connection.execute(text("SELECT 1"))
    for _ in range(2 * MAX_TIMEOUTS):
        waiting = asyncio.create_task(
            database.within(Use.VEHICLES, 60, sleep(database))
        )
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    database.check()
    assert added(FAILURES, use="vehicles", error="StorageTimeout") == 0

    for _ in range(MAX_TIMEOUTS):
        database.check()
        with pytest.raises(StorageTimeout):
            await database.within(Use.VEHICLES, 0.01, sleep(database))
    with pytest.raises(CircuitOpen):
        database.check()
    assert added(FAILURES, use="vehicles", error="StorageTimeout") == MAX_TIMEOUTS
