"""The database: SQLite in a file, or PostgreSQL, behind the same functions.

A commit is on disk when it returns, on both. Each use has connections of its own. In
SQLite there is one connection for writing, before which `WriteOrder` lets events go
first; its transactions take the lock when they begin. So readers never wait, and a
writer that cannot get the lock fails before its first statement.
"""

import asyncio
import sqlite3
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
)
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection

from service.settings import StorageSettings
from service.storage import free_space, metrics
from service.storage.breaker import StorageBreaker
from service.storage.bulk_inserts import run_in_thread
from service.storage.engines import (
    SQLITE,
    Connections,
    Engines,
    PoolState,
    pool_state,
    postgresql_engines,
    probe_engine,
    sqlite_engines,
    watch,
)
from service.storage.errors import (
    CircuitOpen,
    ConnectionLost,
    StorageError,
    StorageTimeout,
    StorageUnavailable,
    StorageUnusable,
)
from service.storage.migrations import (
    build,
    current,
    downgrade,
    is_current,
    upgrade,
    upgrades_to,
)
from service.storage.transactions import (
    connected,
    counted,
    discarded_if_broken,
    log_failure,
    transaction,
    within,
)
from service.storage.translation import translate, translated
from service.storage.uses import (
    COMMAND,
    Use,
    UseLimits,
    connections_of,
)
from service.storage.write_order import WriteOrder

FILE_MODE: Final = 0o600
"""Only the user of the service may read events; SQLite's other files have this too."""
CLOSE_S: Final = 1.0
"""Time limit for closing connections; those of a hanging database are aborted."""

T = TypeVar("T")


class Database:
    """Transactions for reading and writing; created and closed by `open_database`."""

    def __init__(
        self,
        settings: StorageSettings,
        limits: UseLimits = COMMAND,
        *,
        statement_s: float | None,
    ) -> None:
        self._url = make_url(settings.url)
        self._settings = settings
        self._logs_failures = limits.logs_failures
        self._connections = Connections()
        self._breaker = StorageBreaker(
            self._probe, self._connections.terminate, settings.timeout_s
        )
        self._engines = self._make_engines(limits, statement_s)
        waits = dict.fromkeys(Use, limits.queue_wait_s)
        self._order = WriteOrder({**waits, Use.EVENTS: settings.lock_timeout_s})

    def __str__(self) -> str:
        """The URL without the password."""
        return self._url.render_as_string(hide_password=True)

    @property
    def file(self) -> Path | None:
        """The file of SQLite; None for PostgreSQL, and for a `file:` URI."""
        return sqlite_file(self._url)

    @property
    def is_sqlite(self) -> bool:
        """True for SQLite, False for PostgreSQL."""
        return self.dialect == SQLITE

    @property
    def dialect(self) -> str:
        """The name of the SQL dialect: `sqlite` or `postgresql`."""
        return self._url.get_backend_name()

    @property
    def breaker(self) -> StorageBreaker:
        """The circuit of all transactions."""
        return self._breaker

    def pools(self) -> Iterator[tuple[str, PoolState]]:
        """Yield the connections of each use, and those that write to SQLite."""
        for use, engine in self._engines.readers.items():
            yield use, pool_state(engine, metrics.waiting(use))
        if self.is_sqlite:
            yield "writes", pool_state(self._engines.writers[Use.EVENTS], 0)

    def check(self) -> None:
        """Raise `CircuitOpen` if transactions are refused."""
        self._breaker.check()

    @asynccontextmanager
    async def writing(self, use: Use = Use.OTHER) -> AsyncIterator[AsyncConnection]:
        """Open a transaction; it is committed at the end, or rolled back on an error.

        Raises `StorageError`.
        """
        async with self._writer(use) as connection:
            await connection.begin()
            yield connection
            await connection.commit()

    async def write_in_thread(
        self, use: Use, work: Callable[[sqlite3.Connection], T]
    ) -> T:
        """Return the result of a transaction of SQLite, without a switch of threads.

        Raises `StorageError`; then nothing was written.
        """
        async with self._writer(use) as connection:
            return await run_in_thread(connection, partial(transaction, work=work))

    @asynccontextmanager
    async def _writer(self, use: Use) -> AsyncIterator[AsyncConnection]:
        """Open a connection for writing, when it is the turn of this use."""
        async with AsyncExitStack() as stack:
            stack.enter_context(self._judged(use, "write"))
            with counted(use, "waiting"):
                if self.is_sqlite:
                    await stack.enter_async_context(self._order.turn(use))
                connection = await stack.enter_async_context(
                    connected(self._engines.writers[use])
                )
            stack.enter_context(counted(use, "running"))
            async with discarded_if_broken(connection):
                yield connection

    @asynccontextmanager
    async def reading(self, use: Use = Use.OTHER) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that reads one consistent state; raise `StorageError`."""
        async with AsyncExitStack() as stack:
            stack.enter_context(self._judged(use, "read"))
            with counted(use, "waiting"):
                connection = await stack.enter_async_context(
                    connected(self._engines.readers[use])
                )
            stack.enter_context(counted(use, "running"))
            async with discarded_if_broken(connection):
                yield connection

    async def within(self, use: Use, limit_s: float, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of a transaction; raise `StorageTimeout` after `limit_s`.

        The transaction is then cancelled, but not waited for. Raises what it raises.
        """
        started = self._breaker.now()
        try:
            return await within(limit_s, work)
        except TimeoutError as error:
            metrics.failed(use, StorageTimeout.__name__)
            # A file has no server that could be silent: other writes took too long.
            if not self.is_sqlite:
                self._breaker.gave_up(started)
            raise translate(error) from error

    async def make_shrinkable(self) -> bool:
        """Rewrite the file of SQLite unless it can shrink; return True if it was.

        Raises `StorageError`.
        """
        if not self.is_sqlite:
            return False
        async with self.reading(Use.SCHEMA) as connection:
            if await free_space.is_shrinkable(connection):
                return False
        with translated():
            await free_space.rewrite(self._engines.writers[Use.SCHEMA])
        return True

    async def close(self) -> None:
        """Close all connections, and abort those of a hanging database."""
        await self._breaker.close()
        closing = [engine.dispose() for engine in self._engines.all()]
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await asyncio.gather(*closing, return_exceptions=True)
        self._connections.terminate()

    def _make_engines(self, limits: UseLimits, statement_s: float | None) -> Engines:
        sizes = connections_of(self._settings, limits)
        if self.is_sqlite:
            return sqlite_engines(self._url, self._settings, sizes)
        engines = postgresql_engines(self._url, self._settings, sizes, statement_s)
        for use, engine in engines.readers.items():
            watch(engine, self._connections, partial(self._breaker.check, use))
        return engines

    async def _probe(self) -> None:
        engine = probe_engine(self._url, self._settings)
        with translated():
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))

    @contextmanager
    def _judged(self, use: Use, operation: str) -> Iterator[None]:
        """Translate the failure of a transaction, log it, and count it."""
        self._breaker.check(use)
        try:
            with translated():
                yield
        except CircuitOpen:
            raise  # counted, and logged once when it opened
        except StorageError as error:
            metrics.failed(use, type(error).__name__)
            if self._logs_failures:
                log_failure(use, operation, error)
            if isinstance(error, StorageUnavailable):
                self._breaker.failed()
            if isinstance(error, StorageTimeout):
                self._breaker.timed_out()
            raise
        self._breaker.succeeded()


def sqlite_file(url: URL) -> Path | None:
    """Return the file of SQLite; None for PostgreSQL, and for a `file:` URI."""
    name = url.database or ""
    is_file = url.get_backend_name() == SQLITE and not name.startswith("file:")
    return Path(name) if is_file else None


async def retry_lost(read: Callable[[], Awaitable[T]]) -> T:
    """Return the result of a transaction that reads; raises `StorageError`.

    It is repeated once if its connection was lost.
    """
    try:
        return await read()
    except ConnectionLost:
        return await read()


@asynccontextmanager
async def open_database(
    settings: StorageSettings,
    limits: UseLimits = COMMAND,
    *,
    must_exist: bool = False,
    is_checked: bool = False,
    may_migrate: bool = True,
) -> AsyncIterator[Database]:
    """Open the database of `storage.url`, with the schema that this version needs.

    SQLite is migrated here, and its file created unless it `must_exist`; PostgreSQL is
    migrated by `copilot-usage migrate`. With `is_checked`, the schema is not checked
    again; without `may_migrate`, it is checked only. Raises `StorageUnusable`.
    """
    database = Database(settings, limits, statement_s=settings.timeout_s)
    async with _closed(database):
        if not is_checked:
            with _naming(database):
                await _prepare(database, must_exist=must_exist, may_migrate=may_migrate)
        yield database


class Migrated(NamedTuple):
    """The revision of a database after a migration."""

    revision: str
    is_rewritten: bool = False
    """The file of SQLite was rewritten, so that it can shrink from now on."""


async def migrate(
    settings: StorageSettings, revision: str | None = None, *, drop_rows: bool = False
) -> Migrated:
    """Upgrade or downgrade the database to a revision; without one, to the newest.

    Raises `UnknownRevision`, and `StorageUnusable`, also if a downgrade would lose rows
    that no upgrade can fill in again, unless `drop_rows`.
    """
    # A migration may rewrite a table of any size, so statements have no time-out.
    database = Database(settings, statement_s=None)
    async with _closed(database):
        with _naming(database):
            reached = await _move(database, revision, drop_rows=drop_rows)
            is_rewritten = revision is None and await database.make_shrinkable()
            return Migrated(reached, is_rewritten)


@contextmanager
def _naming(database: Database) -> Iterator[None]:
    """Name the setting and the database in errors that prevent the start."""
    try:
        yield
    except StorageError as error:
        raise StorageUnusable(f"storage.url: {database}: {error}") from error


@asynccontextmanager
async def _closed(database: Database) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await database.close()


async def _prepare(database: Database, *, must_exist: bool, may_migrate: bool) -> None:
    if must_exist and database.file and not await _exists(database.file):
        raise StorageUnusable("there is no such file")
    await _make_file(database)
    async with database.reading(Use.SCHEMA) as connection:
        if await connection.run_sync(is_current):
            return
    if not database.is_sqlite:
        raise StorageUnusable("it must be migrated; run: copilot-usage migrate")
    if may_migrate:
        await _move(database)


async def _move(
    database: Database, revision: str | None = None, *, drop_rows: bool = False
) -> str:
    await _make_file(database)
    async with database.reading(Use.SCHEMA) as connection:
        reached = await connection.run_sync(current)
        upgrades = await connection.run_sync(upgrades_to, revision)
    if upgrades is None:
        async with database.writing(Use.SCHEMA) as connection:
            down = partial(downgrade, revision=str(revision), drop_rows=drop_rows)
            return await connection.run_sync(down)
    # Each has a transaction of its own: the locks of one are released, and its triggers
    # are in force, before the next one reads whole tables.
    for each in upgrades:
        if not database.is_sqlite:
            async with database.reading(Use.SCHEMA) as connection:
                await build(connection, each)
        async with database.writing(Use.SCHEMA) as connection:
            reached = await connection.run_sync(upgrade, each)
    return reached


async def _exists(file: Path) -> bool:
    return await asyncio.to_thread(file.exists)


async def _make_file(database: Database) -> None:
    """Create the file of SQLite and its folder, unless they exist."""
    if database.file and not await _exists(database.file):
        with translated():
            await asyncio.to_thread(_create, database.file)


def _create(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # SQLite takes an empty file for a new database.
    file.touch(FILE_MODE)
