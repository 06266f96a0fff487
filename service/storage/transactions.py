"""Parts of a transaction: its connection, its metrics and the log of its failure."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.storage import metrics
from service.storage.engines import BEGIN_WRITING, LOCK_LIMIT, SQLITE
from service.storage.errors import (
    Collided,
    ConnectionLost,
    StorageError,
    StorageTimeout,
)
from service.storage.translation import translate
from service.storage.uses import LOGGED_BY_CALLER, Use

DISCARD_S: Final = 0.5
"""Time limit for cancelling a statement in the server, before its connection ends."""

T = TypeVar("T")

log = structlog.get_logger()


@asynccontextmanager
async def connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Check a connection out of the pool of an engine."""
    async with engine.connect() as connection:
        yield connection


@asynccontextmanager
async def discarded_if_broken(connection: AsyncConnection) -> AsyncIterator[None]:
    """End the connection after a failure that leaves it busy or closed."""
    try:
        yield
    except asyncio.CancelledError:
        await _discard(connection)
        raise
    except Exception as error:
        # A rollback would wait for the server again.
        if isinstance(translate(error), ConnectionLost | StorageTimeout):
            await _discard(connection)
        raise


async def wait_for_locks(connection: AsyncConnection) -> None:
    """Let a transaction of PostgreSQL wait for locks without a limit of their own."""
    if connection.dialect.name != SQLITE:
        await connection.exec_driver_sql(f"SET LOCAL {LOCK_LIMIT} = 0")


async def _discard(connection: AsyncConnection) -> None:
    """End a connection, also if the server does not answer."""
    # SQLAlchemy has ended it already if a statement was cancelled.
    if connection.closed or connection.invalidated:
        return
    if connection.dialect.name != SQLITE:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        # This cancels the running statement; in a failure the connection is aborted.
        with suppress(Exception):
            await driver.close(timeout=DISCARD_S)
    await connection.invalidate()


def transaction(
    connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]
) -> T:
    """Return the result of a transaction, in the thread of a connection to SQLite."""
    connection.execute(BEGIN_WRITING)
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise
    return result


async def within(limit_s: float, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of a transaction; raise `TimeoutError` after `limit_s`.

    The transaction is then cancelled, but not waited for.
    """
    # The rollback on a connection that hangs may take as long as the transaction.
    task = asyncio.create_task(work)
    _tasks.add(task)
    task.add_done_callback(_discard_task)
    try:
        await asyncio.wait([task], timeout=limit_s)
        if task.done():
            return task.result()
    finally:
        task.cancel()
    raise TimeoutError


_tasks: Final = set[asyncio.Task[Any]]()
"""References to the tasks, of which the event loop keeps none."""


def _discard_task(task: asyncio.Task[Any]) -> None:
    _tasks.discard(task)
    if not task.cancelled():
        task.exception()  # otherwise asyncio would log that of an abandoned task


@contextmanager
def counted(use: Use, state: str) -> Iterator[None]:
    """Count a transaction as `waiting` or `running`."""
    metrics.changed(use, state, 1)
    try:
        yield
    finally:
        metrics.changed(use, state, -1)


def log_failure(use: Use, operation: str, error: StorageError) -> None:
    """Log the failure of a transaction, unless its caller does."""
    # A collision is no failure: the transaction is repeated. A lost connection may be
    # replaced, so that its caller has no failure to log.
    is_lost = isinstance(error, ConnectionLost)
    if isinstance(error, Collided) or (use in LOGGED_BY_CALLER and not is_lost):
        return
    log.error(
        "storage.failed",
        use=use,
        operation=operation,
        reason=str(error),
        **{"error.type": type(error).__name__},
    )
