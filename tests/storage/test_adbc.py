"""Options of ADBC for the database of `storage.url`."""

from pathlib import Path
from typing import Final

import pytest
from msgspec.structs import replace

from service.storage.adbc import adbc_options_of
from tests.conftest import storage_at

HERE: Final = Path.cwd().as_uri()
SQLITE_URIS: Final = {
    "sqlite+aiosqlite:///var/a.db": f"{HERE}/var/a.db?mode=ro",
    "sqlite+aiosqlite:////var/a.db": "file:///var/a.db?mode=ro",
    "sqlite+aiosqlite:////a b%3F%23%25é.db": "file:///a%20b%3F%23%25%C3%A9.db?mode=ro",
    "sqlite+aiosqlite:///file:/a.db?uri=true": "file:/a.db?mode=ro",
    "sqlite+aiosqlite:///file:/a.db?uri=true&vfs=unix": "file:/a.db?vfs=unix&mode=ro",
}
CONNINFOS: Final = {
    "h/d": "host='h' dbname='d'",
    "u:p@h:1/d": "host='h' dbname='d' user='u' password='p' port='1'",
    "u:a%20b%27c%5Cd%40@h/d": r"host='h' dbname='d' user='u' password='a b\'c\\d@'",
    "u@/d?host=/run/postgresql": "dbname='d' user='u' host='/run/postgresql'",
    "u@/d?host=a:1&host=b:2": "dbname='d' user='u' host='a,b' port='1,2'",
    "h/d?ssl=verify-full": "host='h' dbname='d' sslmode='verify-full'",
    "h/d?schema=a&statement_cache_size=0": "host='h' dbname='d'",
}
ALWAYS: Final = " connect_timeout='5' application_name='copilot-usage'"


@pytest.mark.parametrize("url, uri", SQLITE_URIS.items(), ids=SQLITE_URIS)
def test_a_file_is_opened_for_reading_alone(url: str, uri: str) -> None:
    """It is the service's file, from its working directory, and waits as long."""
    opening = adbc_options_of(replace(storage_at(url), lock_timeout_s=1.5))

    assert (opening.driver, opening.uri) == ("sqlite", uri)
    assert opening.set_up == ["PRAGMA busy_timeout = 1500"]


@pytest.mark.parametrize("url, conninfo", CONNINFOS.items(), ids=CONNINFOS)
def test_a_server_is_named_as_libpq_has_it(url: str, conninfo: str) -> None:
    """Parameters of libpq are quoted; those of asyncpg alone are left out."""
    opening = adbc_options_of(storage_at(f"postgresql+asyncpg://{url}"))

    assert (opening.driver, opening.uri) == ("postgresql", conninfo + ALWAYS)


def test_a_schema_is_quoted() -> None:
    """`?schema=` is where the tables are looked for, whatever its name."""
    opening = adbc_options_of(storage_at("postgresql+asyncpg://h/d?schema=a%22b"))

    assert opening.set_up[-1] == 'SET search_path TO "a""b"'
