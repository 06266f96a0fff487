"""Helpers of the tests of exports: tables of any size, clients, and parsed files."""

import io
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from aiohttp import ClientResponse, ClientSession
from sqlalchemy import text
from structlog.typing import EventDict

from service.settings import StorageSettings
from service.storage.database import open_database
from service.vehicles.parquet import BLOCK_ROWS, BLOCKS_AHEAD
from tests.conftest import Client
from tests.leftovers import child_pids
from tests.patience import GIVE_UP_S

PATH: Final = "/vehicles/export"
IN_SANDBOX: Final = {"enabled": True, "messages": 0, "reports": 0}
"""Settings of an application whose vehicles are those that `fill` keeps."""

SCHEMA: Final = pa.schema(
    [
        *((name, pa.string()) for name in ("vin", "make", "model", "model_year")),
        ("body_class", pa.string()),
        ("fetched_at", pa.timestamp("us", "UTC")),
    ]
)
WIDE_ROWS: Final = 20_000
"""So many rows of 1,216 chance digits do not fit between a child and its caller."""

MANY: Final = (BLOCKS_AHEAD + 2) * BLOCK_ROWS
"""So many rows are written in part before the last of them are read."""

_COLUMNS: Final = (
    "source, vin, is_decoded, make, model, model_year, body_class, fetched_at, "
    "removed_at, removals"
)
_FILL: Final = {
    "sqlite": """
        WITH RECURSIVE numbers(n) AS (
            SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :rows
        )
        INSERT INTO vehicles ({columns})
        SELECT :source, printf('%017d', n), 1, 'MAKE', 'Model', '1999',
               CASE WHEN :wide THEN hex(randomblob(608)) ELSE 'Van' END,
               :first + n, NULL, 0
        FROM numbers""",
    "postgresql": """
        INSERT INTO vehicles ({columns})
        SELECT :source, lpad(n::text, 17, '0'), true, 'MAKE', 'Model', '1999',
               CASE WHEN :wide THEN (
                   SELECT string_agg(md5(n || '-' || m), '')
                   FROM generate_series(1, 38) AS parts(m)
               ) ELSE 'Van' END,
               :first + n, NULL, 0
        FROM generate_series(0::bigint, :rows - 1) AS numbers(n)""",
}
FIRST_US: Final = 1_700_000_000_000_000


async def fill(
    storage: StorageSettings,
    rows: int,
    *,
    source: str = "sandbox",
    is_wide: bool = False,
) -> None:
    """Keep so many vehicles, whose VINs are their numbers."""
    given = {"source": source, "rows": rows, "first": FIRST_US, "wide": is_wide}
    async with open_database(storage) as database, database.writing() as connection:
        fill = _FILL[connection.dialect.name].format(columns=_COLUMNS)
        await connection.execute(text(fill), given)


def row(vin: str, *texts: str, at: int) -> dict[str, Any]:
    """A row as it is read back; `at` is in microseconds."""
    names = ("make", "model", "model_year", "body_class")
    fetched_at = datetime.fromtimestamp(at // 1_000_000, UTC)
    fetched_at = fetched_at.replace(microsecond=at % 1_000_000)
    told = dict(zip(names, texts, strict=True))
    return {"vin": vin, **told, "fetched_at": fetched_at}


def table_of(file: bytes) -> pa.Table:
    """The table in a file; raises where the file is not whole."""
    return pq.read_table(io.BytesIO(file))


def spoil(file: Path) -> None:
    """Break some pages of a database, of which only the last rows lie there."""
    # The connections that wrote the rows may still be closing.
    with closing(sqlite3.connect(file, timeout=GIVE_UP_S)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size * 9 // 10)
        opened.write(bytes(65_536))


# --- callers ------------------------------------------------------------------------


async def read_table(client: Client | ClientSession) -> list[dict[str, Any]]:
    """The rows that are exported."""
    async with client.get(PATH) as answer:
        assert answer.status == 200
        table = table_of(await answer.read())
    assert table.schema == SCHEMA
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


async def begin(
    client: Client | ClientSession, address: str = "192.0.2.9"
) -> tuple[ClientResponse, int]:
    """Read no more than the beginning; the answer, and who makes the rest of it."""
    before = child_pids()
    answer = await client.get(PATH, headers={"X-Forwarded-For": address})
    assert answer.status == 200
    assert (await answer.content.readexactly(4)) == b"PAR1"
    (child,) = child_pids() - before
    return answer, child


def named(entries: list[EventDict], event: str) -> list[EventDict]:
    """Return the log entries of one event."""
    return [each for each in entries if each["event"] == event]


def failures(entries: list[EventDict]) -> list[tuple[str, str]]:
    """The types and reasons of all that have failed."""
    failed = named(entries, "vehicle.export.failed")
    return [(each["error.type"], each["reason"]) for each in failed]
