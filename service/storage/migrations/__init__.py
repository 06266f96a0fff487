"""Migrations of the database's schema, with Alembic.

Each revision is a file in `versions/`, and can be reverted. Only a migration loads
Alembic: a start that finds the newest revision does without.
"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, column, func, inspect, literal, select, table
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.errors import StorageUnusable, UnknownRevision

if TYPE_CHECKING:
    from alembic.config import Config

CONNECTION: Final = "connection"
LOCK: Final = 0x636F70696C6F74
"""Key of the advisory lock of PostgreSQL for migrations: "copilot" in ASCII."""
BUILD_LOCK: Final = 0x6275696C64
"""Another one for `build`: "build" in ASCII. It is only tried, never waited for."""
NEEDED: Final = "0019"
"""The oldest revision that this version can use."""
BUILD_POLL_S: Final = 0.1
BASE: Final = "base"
"""The revision of a database without our tables."""
DERIVED: Final = {"event_changes", "category_counts", "name_counts"}
"""Tables that an upgrade fills from the events."""

_TABLE: Final = table("alembic_version", column("version_num"))
"""The table in which Alembic keeps the revision of the database."""
_FOLDER: Final = Path(__file__).parent


def upgrade(connection: Connection, revision: str = "head") -> str:
    """Upgrade to a revision, inside the connection's transaction.

    Returns the revision of the database. Raises `StorageUnusable`.
    """
    from alembic import command

    _lock(connection)
    _refuse_unknown(connection)
    command.upgrade(_config(connection), revision)
    return current(connection)


async def build(connection: AsyncConnection, revision: str) -> None:
    """Build what an upgrade of PostgreSQL needs, outside of a transaction.

    Raises `StorageError`.
    """
    module = _module(revision)
    if not hasattr(module, "build"):
        return
    await connection.execution_options(isolation_level="AUTOCOMMIT")
    # Another process that builds must not be waited for in the database, because the
    # build itself waits for all transactions. The end of the connection unlocks, too.
    locked = select(func.pg_try_advisory_lock(BUILD_LOCK))
    while not await connection.scalar(locked):  # noqa: ASYNC110 - by another process
        await asyncio.sleep(BUILD_POLL_S)
    await connection.run_sync(module.build)
    await connection.execute(select(func.pg_advisory_unlock(BUILD_LOCK)))


def downgrade(connection: Connection, revision: str, *, drop_rows: bool = False) -> str:
    """Downgrade to a revision, inside the connection's transaction.

    Returns the revision of the database. Raises `StorageUnusable` if rows would be lost
    that no upgrade can fill in again, unless `drop_rows`.
    """
    from alembic import command

    _lock(connection)
    filled = _filled_tables(connection)
    command.downgrade(_config(connection), revision)
    lost = filled - _tables(connection)
    if lost and not drop_rows:
        raise StorageUnusable(
            f"revision {revision} has no place for the rows of "
            f"{', '.join(sorted(lost))}; --drop-rows drops them for ever"
        )
    return current(connection)


def upgrades_to(connection: Connection, revision: str | None) -> list[str] | None:
    """Return the upgrades to a revision, in order; None if it needs a downgrade.

    Without a revision, it is the newest. Raises `UnknownRevision`, or `StorageUnusable`
    for the database of a newer version.
    """
    _refuse_unknown(connection)
    known = [BASE, *revisions()]
    if revision is not None and revision not in known:
        raise UnknownRevision(f"--to {revision}: expected one of {', '.join(known)}")
    start = known.index(current(connection))
    end = known.index(revision or known[-1])
    return None if end < start else known[start + 1 : end + 1]


def current(connection: Connection) -> str:
    """Return the revision of the database."""
    if not inspect(connection).has_table(_TABLE.name):
        return BASE
    return connection.scalar(select(_TABLE)) or BASE


def is_current(connection: Connection) -> bool:
    """Return True if the database has a revision that this version can use.

    Raises `StorageUnusable` if this version does not know the revision.
    """
    _refuse_unknown(connection)
    return current(connection) in revisions()[revisions().index(NEEDED) :]


def revisions() -> list[str]:
    """Return every revision, from the first to the last."""
    files = (_FOLDER / "versions").glob("[0-9]*.py")
    return sorted(each.name.partition("_")[0] for each in files)


def _lock(connection: Connection) -> None:
    # A transaction that writes to SQLite has already locked the whole file.
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(LOCK)))


def _refuse_unknown(connection: Connection) -> None:
    """Refuse the database of a newer version."""
    revision = current(connection)
    if revision not in {BASE, *revisions()}:
        raise StorageUnusable(
            f"it has revision {revision}, which this version does not know; "
            "it was migrated by a newer version"
        )


def _tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def _filled_tables(connection: Connection) -> set[str]:
    """Return the tables that have rows, but for those that are derived."""
    return {
        name
        for name in _tables(connection) - DERIVED
        if connection.scalar(select(literal(1)).select_from(table(name)).limit(1))
    }


def _module(revision: str) -> Any:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(_FOLDER)).get_revision(revision).module


def _config(connection: Connection) -> "Config":
    from alembic.config import Config

    config = Config()
    # % has a meaning in the configuration of Alembic.
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes[CONNECTION] = connection
    return config
