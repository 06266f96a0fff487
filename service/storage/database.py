"""The database: SQLite in a file, or PostgreSQL, behind the same few functions.

One transaction at a time writes to SQLite, through a connection of its own that takes
the lock when it begins: readers never wait, and a writer that would have to is refused
at once and not in its middle. A commit is on disk when it returns, on both.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import asyncpg
from sqlalchemy import Dialect, Insert, Table, event, insert
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from service.settings import Storage
from service.storage.errors import StorageError, StorageUnusable
from service.storage.migrations import is_in_shape, upgrade
from service.storage.translation import translated

SQLITE: Final = "sqlite"
SQLITE_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    # A commit is on disk before it is answered; NORMAL could lose the last ones.
    "PRAGMA synchronous = FULL",
    # On macOS, the one way to have the disk itself write; elsewhere without effect.
    "PRAGMA fullfsync = ON",
    "PRAGMA foreign_keys = ON",
    "PRAGMA cache_size = -65536",
)
SCHEMA: Final = "schema"
"""What a URL of PostgreSQL may say beyond SQLAlchemy's own: `?schema=usage`."""
APPLICATION: Final = "copilot-usage"
ON_DISK: Final = (
    # Only "off" answers before the disk does; the other values say where else to wait.
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') = 'off'"
)


class Database:
    """Reads and writes; `open_database` makes one and closes it."""

    def __init__(self, url: URL, writer: AsyncEngine, reader: AsyncEngine) -> None:
        self._url = url
        self._writer = writer
        self._reader = reader

    def __str__(self) -> str:
        """Where it is, as people may know it."""
        return self._url.render_as_string(hide_password=True)

    @property
    def file(self) -> Path | None:
        """Where SQLite keeps it; None for a server, and for a URI of SQLite's own."""
        name = self._url.database or ""
        is_file = self.is_sqlite and not name.startswith("file:")
        return Path(name) if is_file else None

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file of ours, and not a server."""
        return self._url.get_backend_name() == SQLITE

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is on disk when this ends, or undone where it raises.

        Raises `StorageError`.
        """
        with translated():
            async with self._writer.begin() as connection:
                yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """One consistent look; raises `StorageError`."""
        with translated():
            async with self._reader.connect() as connection:
                yield connection

    async def close(self) -> None:
        """Let all connections go."""
        await self._writer.dispose()
        if self._reader is not self._writer:
            await self._reader.dispose()


@asynccontextmanager
async def open_database(
    settings: Storage, *, must_exist: bool = False, is_checked: bool = False
) -> AsyncIterator[Database]:
    """The database of `storage.url`, in the shape that this version needs.

    SQLite is brought into shape here, and its file made, unless it `must_exist`;
    elsewhere `copilot-usage migrate` does it. Raises `StorageUnusable`. One that
    `is_checked` was opened here before, and is not looked at.
    """
    async with _connected(settings, settings.timeout_s) as database:
        if not is_checked:
            with _named(database):
                await _prepare(database, must_exist=must_exist)
        yield database


async def migrate(settings: Storage) -> str:
    """Bring the database into the shape that this version needs; gives its name.

    Raises `StorageUnusable`.
    """
    # A step may rewrite a table of any size: no time is too long for it.
    async with _connected(settings, statement_s=None) as database:
        with _named(database):
            return await _upgrade(database)


async def insert_rows(
    connection: AsyncConnection, statement: Insert, rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert many rows; their values are in the order of the table's columns.

    It goes past SQLAlchemy's handling of each single parameter, which would take as
    long as the database does.
    """
    if rows:
        sql = _compiled(statement, connection.dialect)
        await connection.exec_driver_sql(sql, list(rows))


async def append_rows(
    connection: AsyncConnection, table: Table, rows: Sequence[tuple[Any, ...]]
) -> None:
    """The same for new rows of any table, by the fastest way that each database has.

    It is COPY on PostgreSQL: it costs both sides a third less than INSERT.
    """
    if not rows or connection.dialect.name == SQLITE:
        await insert_rows(connection, _insert_into(table), rows)
        return
    # SQLAlchemy begins a transaction with its first statement, and knows of no COPY.
    await connection.exec_driver_sql("SELECT 1")
    raw = await connection.get_raw_connection()
    driver: asyncpg.Connection = raw.driver_connection
    await driver.copy_records_to_table(
        table.name, records=rows, columns=table.columns.keys()
    )


@lru_cache(maxsize=64)
def _insert_into(table: Table) -> Insert:
    return insert(table)


@lru_cache(maxsize=64)
def _compiled(statement: Insert, dialect: Dialect) -> str:
    return str(statement.compile(dialect=dialect))


@contextmanager
def _named(database: Database) -> Iterator[None]:
    """Name the setting and the database in what keeps us from starting."""
    try:
        yield
    except StorageError as error:
        raise StorageUnusable(f"storage.url: {database}: {error}") from error


@asynccontextmanager
async def _connected(
    settings: Storage, statement_s: float | None
) -> AsyncIterator[Database]:
    url = make_url(settings.url)
    if url.get_backend_name() == SQLITE:
        database = _sqlite(url, settings)
    else:
        database = _postgresql(url, settings, statement_s)
    try:
        yield database
    finally:
        await database.close()


async def _prepare(database: Database, *, must_exist: bool) -> None:
    if must_exist and database.file and not await _exists(database.file):
        raise StorageUnusable("there is no such file")
    await _make_folder(database)
    async with database.reading() as connection:
        if await connection.run_sync(is_in_shape):
            return
    if not database.is_sqlite:
        raise StorageUnusable("it is not in shape; run: copilot-usage migrate")
    await _upgrade(database)


async def _upgrade(database: Database) -> str:
    await _make_folder(database)
    async with database.writing() as connection:
        return await connection.run_sync(upgrade)


async def _exists(file: Path) -> bool:
    return await asyncio.to_thread(file.exists)


async def _make_folder(database: Database) -> None:
    if database.file:
        with translated():
            await asyncio.to_thread(
                database.file.parent.mkdir, parents=True, exist_ok=True
            )


# --- PostgreSQL ---------------------------------------------------------------------


def _postgresql(url: URL, settings: Storage, statement_s: float | None) -> Database:
    engine = create_async_engine(
        url.difference_update_query([SCHEMA]),
        pool_size=settings.connections,
        max_overflow=0,
        pool_timeout=settings.lock_timeout_s,
        connect_args={
            "timeout": settings.timeout_s,
            "command_timeout": statement_s,
            "server_settings": _server_settings(url),
        },
    )

    @event.listens_for(engine.sync_engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        _execute(connection, ON_DISK)
        connection.commit()

    return Database(url, engine, engine)


def _server_settings(url: URL) -> dict[str, str]:
    settings = {"application_name": APPLICATION}
    schema = url.query.get(SCHEMA)
    if isinstance(schema, str):
        quoted = schema.replace('"', '""')
        settings["search_path"] = f'"{quoted}"'
    return settings


# --- SQLite -------------------------------------------------------------------------


def _sqlite(url: URL, settings: Storage) -> Database:
    writer = _sqlite_engine(url, settings, connections=1)
    reader = _sqlite_engine(url, settings, connections=settings.connections)
    event.listen(writer.sync_engine, "begin", _begin_writing)
    event.listen(reader.sync_engine, "begin", _begin_reading)
    return Database(url, writer, reader)


def _sqlite_engine(url: URL, settings: Storage, *, connections: int) -> AsyncEngine:
    wait_s = settings.lock_timeout_s
    engine = create_async_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=wait_s,
        connect_args={"timeout": wait_s, "isolation_level": None},
    )
    event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: object) -> None:
    for pragma in SQLITE_PRAGMAS:
        _execute(connection, pragma)


def _begin_writing(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_reading(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN")


def _execute(connection: Any, statement: str) -> None:
    """Execute on a driver's connection, outside of SQLAlchemy's transactions."""
    cursor = connection.cursor()
    cursor.execute(statement)
    cursor.close()
