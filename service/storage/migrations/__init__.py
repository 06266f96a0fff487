"""Migrations: the database's shape, step by step, with Alembic.

Each step is a file in `versions/`, and can be taken back.
"""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select

from service.storage.errors import StorageUnusable

CONNECTION: Final = "connection"
LOCK: Final = 0x636F70696C6F74
"""The advisory lock of PostgreSQL that one migration at a time holds: "copilot"."""

_FOLDER: Final = Path(__file__).parent


def upgrade(connection: Connection, revision: str = "head") -> str:
    """Take every step up to a revision, inside the connection's transaction.

    Gives the revision that the database has then. Raises `StorageUnusable`.
    """
    _lock(connection)
    _refuse_unknown(connection)
    command.upgrade(_config(connection), revision)
    return str(_current(connection))


def downgrade(connection: Connection, revision: str) -> None:
    """Take back every step down to a revision; `base` is an empty database."""
    _lock(connection)
    command.downgrade(_config(connection), revision)


def is_in_shape(connection: Connection) -> bool:
    """Whether the database is as this version needs it.

    Raises `StorageUnusable` where it has a shape that this version does not know.
    """
    _refuse_unknown(connection)
    return _current(connection) == _scripts().get_current_head()


def revisions() -> list[str]:
    """Every revision, from the first to the last."""
    return [each.revision for each in reversed(list(_scripts().walk_revisions()))]


def _lock(connection: Connection) -> None:
    """Migrate one at a time; a writer of SQLite has the whole file already."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(LOCK)))


def _refuse_unknown(connection: Connection) -> None:
    """A newer version's database is left alone."""
    current = _current(connection)
    if current is not None and current not in revisions():
        raise StorageUnusable(
            f"it has the shape {current}, which this version does not know; "
            "a newer one made it"
        )


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(_FOLDER))


def _config(connection: Connection) -> Config:
    config = Config()
    # Alembic's configuration has % as a sign of its own.
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes[CONNECTION] = connection
    return config
