"""Engines of SQLAlchemy, configured for SQLite and for PostgreSQL.

Each use has a pool of its own. In SQLite all uses write through one connection.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakSet

from sqlalchemy import NullPool, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from service.settings import StorageSettings
from service.storage import interruption
from service.storage.uses import TIMED_BY_CALLER, Use

if TYPE_CHECKING:
    import asyncpg

SQLITE: Final = "sqlite"
SQLITE_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    # Each commit is synced to the disk; NORMAL could lose the last ones.
    "PRAGMA synchronous = FULL",
    # macOS syncs the cache of the disk itself only so; elsewhere it has no effect.
    "PRAGMA fullfsync = ON",
    "PRAGMA foreign_keys = ON",
    "PRAGMA cache_size = -65536",
    # The default of 1,000 pages copies most pages to the file several times in a second
    # of many events. 16,384 pages of 4 KiB are the limit below.
    "PRAGMA wal_autocheckpoint = 16384",
    # The log shrinks to that after a checkpoint, whatever a large transaction needed.
    "PRAGMA journal_size_limit = 67108864",
)
SHRINKABLE: Final = "PRAGMA auto_vacuum = INCREMENTAL"
"""Lets a file shrink in steps, if it is set before the file has any page."""
BEGIN_WRITING: Final = "BEGIN IMMEDIATE"
"""Takes the lock at once, so that a later statement cannot fail for want of it."""
SCHEMA: Final = "schema"
"""Parameter of a URL of PostgreSQL that SQLAlchemy does not know: `?schema=usage`."""
APPLICATION: Final = "copilot-usage"
MS_PER_S: Final = 1_000
IDLE_LIMIT: Final = "idle_in_transaction_session_timeout"
LOCK_LIMIT: Final = "lock_timeout"
EVENTS_LOCK_MS: Final = 100
"""Wait of events for the lock of another transaction, unless `wait_for_locks`.

A wait keeps the locks of the events before. PostgreSQL looks only after a second
whether two transactions wait for each other.
"""
ON_DISK: Final = (
    # Only "off" returns before the disk is synced; other values also wait for replicas.
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') = 'off'"
)

END_UNWANTED: Final = (
    # By default, PostgreSQL notices a lost client only between statements. A statement
    # whose connection was aborted would run to its end, and keep its locks. A request
    # to cancel it has no effect if it comes too early. So PostgreSQL checks its client
    # each second. The setting exists since version 14, and not on all systems.
    "SELECT set_config(name, '1s', false) FROM pg_settings "
    "WHERE name = 'client_connection_check_interval' AND setting = '0' "
    "AND version() LIKE '%linux%'"
)


class Engines(NamedTuple):
    """The engines by use; SQLite has the same writer for all of them."""

    readers: Mapping[Use, AsyncEngine]
    writers: Mapping[Use, AsyncEngine]

    def all(self) -> set[AsyncEngine]:
        """Return each engine once."""
        return {*self.readers.values(), *self.writers.values()}


class PoolState(NamedTuple):
    """The connections of a pool, and the transactions that wait for one."""

    size: int
    in_use: int
    waiting: int


def pool_state(engine: AsyncEngine, waiting: int) -> PoolState:
    """Return the state of an engine's pool."""
    pool: Any = engine.pool
    return PoolState(pool.size(), pool.checkedout(), waiting)


# --- PostgreSQL ---------------------------------------------------------------------


class Connections:
    """The open connections to PostgreSQL, which can be ended all at once."""

    def __init__(self) -> None:
        self._connections: WeakSet[asyncpg.Connection] = WeakSet()

    def add(self, connection: "asyncpg.Connection") -> None:
        """Add a connection that has just been opened."""
        self._connections.add(connection)

    def terminate(self) -> None:
        """End all connections without waiting; statements in progress fail."""
        for connection in list(self._connections):
            connection.terminate()


def postgresql_engines(
    url: URL,
    settings: StorageSettings,
    sizes: Mapping[Use, int],
    statement_s: float | None,
) -> Engines:
    """Create the engines of PostgreSQL.

    `statement_s` is the time limit of statements, unless the caller of a use has its
    own.
    """
    engines = {}
    for use, size in sizes.items():
        limit_s = None if use in TIMED_BY_CALLER else statement_s
        options = _connect_args(url, settings, limit_s)
        if use is Use.EVENTS:
            # A process that stalls, or a machine that is lost, would keep the keys of
            # its events locked, and another one could not store the same events.
            limit_ms = int(settings.timeout_s * MS_PER_S)
            options["server_settings"][IDLE_LIMIT] = str(limit_ms)
            options["server_settings"][LOCK_LIMIT] = str(EVENTS_LOCK_MS)
        engines[use] = _postgresql_engine(
            url,
            options,
            pool_size=size,
            max_overflow=0,
            pool_timeout=settings.lock_timeout_s,
        )
    return Engines(engines, engines)


def probe_engine(url: URL, settings: StorageSettings) -> AsyncEngine:
    """Create an engine of PostgreSQL that opens a new connection for each use."""
    options = _connect_args(url, settings, settings.timeout_s)
    return _postgresql_engine(url, options, poolclass=NullPool)


def _postgresql_engine(
    url: URL, connect_args: dict[str, Any], **pool: Any
) -> AsyncEngine:
    engine = create_async_engine(
        url.difference_update_query([SCHEMA]), connect_args=connect_args, **pool
    )

    @event.listens_for(engine.sync_engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        _execute(connection, ON_DISK)
        _execute(connection, END_UNWANTED)
        connection.commit()

    return engine


def _connect_args(
    url: URL, settings: StorageSettings, statement_s: float | None
) -> dict[str, Any]:
    return {
        "timeout": settings.timeout_s,
        "command_timeout": statement_s,
        "server_settings": _server_settings(url),
    }


def watch(
    engine: AsyncEngine, connections: Connections, before_connect: Callable[[], None]
) -> None:
    """Keep an engine's connections, and replace those that the server has closed.

    `before_connect` may raise to refuse a new connection.
    """

    @event.listens_for(engine.sync_engine, "do_connect")
    def check(*_: object) -> None:
        before_connect()

    @event.listens_for(engine.sync_engine, "connect")
    def add(connection: Any, _record: object) -> None:
        connections.add(connection.driver_connection)

    @event.listens_for(engine.sync_engine, "checkout")
    def replace_closed(connection: Any, *_: object) -> None:
        # The server closes connections when it restarts, or when they are terminated.
        if connection.driver_connection.is_closed():
            raise DisconnectionError


def _server_settings(url: URL) -> dict[str, str]:
    settings = {"application_name": APPLICATION}
    schema = url.query.get(SCHEMA)
    if isinstance(schema, str):
        quoted = schema.replace('"', '""')
        settings["search_path"] = f'"{quoted}"'
    return settings


# --- SQLite -------------------------------------------------------------------------


def sqlite_engines(
    url: URL, settings: StorageSettings, sizes: Mapping[Use, int]
) -> Engines:
    """Create the engines of SQLite."""
    # Every transaction ends before its connection is returned, so that a rollback then
    # would only cost another call of the thread.
    writer = _sqlite_engine(url, settings, connections=1, pool_reset_on_return=None)
    event.listen(writer.sync_engine, "begin", _begin_writing)
    readers = {}
    for use, size in sizes.items():
        readers[use] = _sqlite_engine(url, settings, connections=size)
        event.listen(readers[use].sync_engine, "begin", _begin_reading)
    return Engines(readers, dict.fromkeys(sizes, writer))


def _sqlite_engine(
    url: URL, settings: StorageSettings, *, connections: int, **pool: Any
) -> AsyncEngine:
    wait_s = settings.lock_timeout_s
    engine = create_async_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=wait_s,
        **pool,
        connect_args={
            "timeout": wait_s,
            "isolation_level": None,
            "async_creator_fn": interruption.connect,
        },
    )
    event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: object) -> None:
    # On a file with pages it would write, and wait for a lock.
    if not _execute(connection, "PRAGMA page_count"):
        _execute(connection, SHRINKABLE)
    for pragma in SQLITE_PRAGMAS:
        _execute(connection, pragma)


def _begin_writing(connection: Any) -> None:
    connection.exec_driver_sql(BEGIN_WRITING)


def _begin_reading(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN")


def _execute(connection: Any, statement: str) -> Any:
    """Execute on a driver's connection, outside of SQLAlchemy's transactions.

    Returns the first value of the result, or None.
    """
    cursor = connection.cursor()
    cursor.execute(statement)
    row = cursor.fetchone() if cursor.description else None
    cursor.close()
    return row[0] if row else None
