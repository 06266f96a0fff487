"""The same database, as ADBC opens it, for a process of its own that reads much.

ADBC brings a copy of SQLite. Two copies in one process undo each other's locks on a
file, so it may never be loaded where a `Database` is open.
"""

import math
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import Struct
from sqlalchemy.engine import URL, make_url

from service.settings import Storage
from service.storage.database import APPLICATION, SCHEMA, SQLITE

READ_ONLY: Final = "mode=ro"
MS_PER_S: Final = 1_000

LIBPQ_NAMES: Final = {
    "host": "host",
    "port": "port",
    "user": "user",
    "password": "password",
    "database": "dbname",
    "ssl": "sslmode",
    "passfile": "passfile",
    "krbsrvname": "krbsrvname",
    "target_session_attrs": "target_session_attrs",
}
"""What a URL may say to asyncpg, and libpq's name for it; the rest is asyncpg's own."""


class Opening(Struct, frozen=True):
    """How ADBC opens a database for reading. It has the password in it."""

    driver: Literal["sqlite", "postgresql"]
    uri: str
    set_up: list[str]
    """What each connection executes first."""


def opening_of(settings: Storage) -> Opening:
    """How the database of `storage.url` is opened."""
    url = make_url(settings.url)
    if url.get_backend_name() == SQLITE:
        wait_ms = int(settings.lock_timeout_s * MS_PER_S)
        return Opening("sqlite", _file_uri(url), [f"PRAGMA busy_timeout = {wait_ms}"])
    return Opening("postgresql", _conninfo(url, settings), list(_statements(url)))


def _file_uri(url: URL) -> str:
    """Read-only: a file that is not there is not made."""
    name = _arguments(url)[0][0]
    uri = name if name.startswith("file:") else Path(name).absolute().as_uri()
    return f"{uri}{'&' if '?' in uri else '?'}{READ_ONLY}"


def _conninfo(url: URL, settings: Storage) -> str:
    given = _arguments(url.difference_update_query([SCHEMA]))[1]
    values = {
        LIBPQ_NAMES[name]: value for name, value in given.items() if name in LIBPQ_NAMES
    }
    values["connect_timeout"] = math.ceil(settings.timeout_s)
    values["application_name"] = APPLICATION
    return " ".join(f"{name}={_quoted(value)}" for name, value in values.items())


def _statements(url: URL) -> list[str]:
    schema = url.query.get(SCHEMA)
    statements = [
        "SET default_transaction_read_only = on",
        # Without it, a backslash in a literal would not stand for itself.
        "SET standard_conforming_strings = on",
    ]
    if isinstance(schema, str):
        quoted = schema.replace('"', '""')
        statements.append(f'SET search_path TO "{quoted}"')
    return statements


def _arguments(url: URL) -> tuple[list[Any], dict[str, Any]]:
    """What SQLAlchemy itself would have the driver connect with."""
    positional, named = url.get_dialect()().create_connect_args(url)
    return list(positional), dict(named)


def _quoted(value: object) -> str:
    """A value of libpq's connection string; of many hosts, or ports, a list."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
