"""Options with which ADBC opens the database, for a process that exports many rows.

ADBC contains a copy of SQLite. Two copies in one process release each other's locks on
a file, so a process with an open `Database` must not load ADBC.
"""

import math
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import Struct
from sqlalchemy.engine import URL, make_url

from service.settings import StorageSettings
from service.storage.engines import APPLICATION, SCHEMA, SQLITE

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
"""Names of libpq for parameters of asyncpg; the other parameters have none."""


class AdbcOptions(Struct, frozen=True):
    """Options for opening a database; `uri` may contain the password."""

    driver: Literal["sqlite", "postgresql"]
    uri: str
    set_up: list[str]
    """Statements that each connection executes first."""


def adbc_options_of(settings: StorageSettings) -> AdbcOptions:
    """Return the options for the database of `storage.url`, opened read-only."""
    url = make_url(settings.url)
    if url.get_backend_name() == SQLITE:
        wait_ms = int(settings.lock_timeout_s * MS_PER_S)
        return AdbcOptions(
            "sqlite", _file_uri(url), [f"PRAGMA busy_timeout = {wait_ms}"]
        )
    return AdbcOptions("postgresql", _conninfo(url, settings), list(_statements(url)))


def _file_uri(url: URL) -> str:
    """Return a read-only URI, so that a missing file is not created."""
    name = _arguments(url)[0][0]
    uri = name if name.startswith("file:") else Path(name).absolute().as_uri()
    return f"{uri}{'&' if '?' in uri else '?'}{READ_ONLY}"


def _conninfo(url: URL, settings: StorageSettings) -> str:
    arguments = _arguments(url.difference_update_query([SCHEMA]))[1]
    values = {
        LIBPQ_NAMES[name]: value
        for name, value in arguments.items()
        if name in LIBPQ_NAMES
    }
    values["connect_timeout"] = math.ceil(settings.timeout_s)
    values["application_name"] = APPLICATION
    return " ".join(f"{name}={_quoted(value)}" for name, value in values.items())


def _statements(url: URL) -> list[str]:
    schema = url.query.get(SCHEMA)
    statements = [
        "SET default_transaction_read_only = on",
        # The export writes literals, in which a backslash must be no escape.
        "SET standard_conforming_strings = on",
    ]
    if isinstance(schema, str):
        quoted = schema.replace('"', '""')
        statements.append(f'SET search_path TO "{quoted}"')
    return statements


def _arguments(url: URL) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments with which SQLAlchemy connects the driver."""
    positional, named = url.get_dialect()().create_connect_args(url)
    return list(positional), dict(named)


def _quoted(value: object) -> str:
    """Return a value of libpq's connection string; hosts and ports may be lists."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
