"""Exporting a million vehicles, against pyarrow alone writing the same table.

The service, the child that makes the file, who takes it and, with PostgreSQL, the
server share this machine's cores. The vehicles were looked up in no order, as they
would be.
"""

import asyncio
import io
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from http.client import HTTPConnection
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import asyncpg
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import text

from benchmarks.events import NO_UPSTREAM, QUICK, UNMEASURED, postgresql
from benchmarks.load.processes import CORES, Missing, Server, resident_bytes, service
from benchmarks.report import Result, interleaved, maximum, unmeasured
from benchmarks.tools import POSTGRESQL
from service.instants import US_PER_S, now_us
from service.settings import load
from service.storage.bulk_inserts import append_rows
from service.storage.database import migrate, open_database
from service.vehicles.tables import vehicles

VEHICLES: Final = 50_000 if QUICK else 1_000_000
ROUNDS: Final = 3 if QUICK else 7
FILL_ROWS: Final = 50_000
WANTED_RATIOS: Final = {"SQLite": 2.5, "PostgreSQL": 6.5}
WANTED_BYTES: Final = 150_000_000
WANTED_MS: Final = 50.0
ASK_S: Final = 2.0 if QUICK else 10.0
ASK_PER_S: Final = 100
SAMPLE_S: Final = 0.01
CALL_S: Final = 120.0

EXPORT: Final = "/vehicles/export"
LIVE: Final = "/health/live"
SOURCE: Final = "https://vpic.example/api"
ROWS: Final = (
    "SELECT vin, make, model, model_year, body_class, fetched_at FROM vehicles "
    "WHERE source = $1 AND is_decoded AND removed_at IS NULL ORDER BY vin"
)
FILLED: Final = (
    *("source", "vin", "is_decoded", "make", "model", "model_year", "body_class"),
    *("fetched_at", "removals"),
)
"""Columns that have values; the others are null."""
LETTERS: Final = "0123456789ABCDEFGHJKLMNPRSTUVWXYZ"
CHECK_DIGITS: Final = "0123456789X"
BODIES: Final = (
    "Truck-Tractor",
    "Sedan/Saloon",
    "Pickup",
    "Trailer",
    "Sport Utility Vehicle (SUV)/Multi-Purpose Vehicle (MPV)",
)
WEEK_US: Final = 7 * 86_400 * US_PER_S
"""Fresh enough for nobody to be asked."""


class Measured(NamedTuple):
    """Duration of an export, and its effect on other requests."""

    write_s: float
    export_s: float
    file_bytes: int
    grown_bytes: int
    idle_ms: float
    busy_ms: float
    copy_s: float | None
    """What PostgreSQL takes to send the same rows to one who drops them."""


def run() -> list[Result]:
    """Both databases; one that cannot be had is said so."""
    results: list[Result] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        databases: dict[str, AbstractContextManager[str]] = {
            "SQLite": _sqlite(folder),
            "PostgreSQL": postgresql(),
        }
        for name, database in databases.items():
            try:
                with database as url:
                    results += _judge(name, _measure(url, folder))
            except UNMEASURED as error:
                results.append(unmeasured(name, error))
    return results


def _judge(name: str, measured: Measured) -> Iterator[Result]:
    size = f"{measured.file_bytes / 1e6:.0f} MB"
    copied = f"; COPY alone {measured.copy_s:.2f} s" if measured.copy_s else ""
    yield maximum(
        f"{name}: {VEHICLES:,} vehicles, to pyarrow writing their table",
        measured.export_s / measured.write_s,
        WANTED_RATIOS[name],
        f"{measured.export_s:.2f} s of {measured.write_s:.2f} s for {size}, "
        f"on {len(CORES)} cores with all who take part{copied}",
    )
    yield maximum(
        f"{name}: memory over idle, its child's too, to {WANTED_BYTES / 1e6:.0f} MB",
        measured.grown_bytes / WANTED_BYTES,
        1,
        f"{measured.grown_bytes / 1e6:.0f} MB",
    )
    yield maximum(
        f"{name}: p99 of other requests meanwhile, to {WANTED_MS:g} ms",
        measured.busy_ms / WANTED_MS,
        1,
        f"{measured.busy_ms:.1f} ms at {ASK_PER_S} a second; {measured.idle_ms:.1f} ms "
        "without exports",
    )


def _measure(url: str, folder: Path) -> Measured:
    vin = asyncio.run(_fill(url))
    with service(
        NO_UPSTREAM,
        cores=CORES,
        storage__url=url,
        vehicles__enabled="true",
        vehicles__base_url=SOURCE,
        logging__access="false",
    ) as server:
        paths = [f"/vehicles/lookup?vin={vin}", LIVE]
        for path in paths:
            _get(_connect(server), path)
        idle_ms = _ask(server, paths)
        idle_bytes = resident_bytes(server.pid)
        file = _take(server)
        table = _table_of(file)
        write_s, export_s = interleaved(
            lambda: pq.write_table(table, folder / "table.parquet"),
            lambda: _take(server),
            rounds=ROUNDS,
        )
        with _exporting(server):
            peak_bytes = _peak_bytes(server.pid)
        with _exporting(server):
            busy_ms = _ask(server, paths)
    return Measured(
        write_s,
        export_s,
        len(file),
        peak_bytes - idle_bytes,
        idle_ms,
        busy_ms,
        copy_s=None if "sqlite" in url else asyncio.run(_copy_s(url)),
    )


def _take(server: Server) -> bytes:
    """The whole file."""
    return _get(_connect(server), EXPORT)


def _table_of(file: bytes) -> pa.Table:
    """The same table in memory; `Missing` where it is not all there."""
    table = pq.read_table(io.BytesIO(file))
    if table.num_rows != VEHICLES:
        raise Missing(f"{table.num_rows:,} of {VEHICLES:,} vehicles were exported")
    return table


async def _copy_s(url: str) -> float:
    """The median of what COPY takes."""

    async def drop(_data: bytes) -> None:
        pass

    schema = url.rpartition("=")[2]
    connection = await asyncpg.connect(POSTGRESQL)
    taken_s = []
    try:
        await connection.execute(f"SET search_path TO {schema}")
        for _ in range(ROUNDS):
            started = time.perf_counter()
            await connection.copy_from_query(ROWS, SOURCE, output=drop, format="binary")
            taken_s.append(time.perf_counter() - started)
    finally:
        await connection.close()
    return statistics.median(taken_s)


@contextmanager
def _exporting(server: Server) -> Iterator[None]:
    """One export after the other, as long as this lasts."""
    is_over = threading.Event()
    failures: list[Exception] = []

    def export() -> None:
        try:
            while not is_over.is_set():
                _take(server)
        except UNMEASURED as error:
            failures.append(error)

    thread = threading.Thread(target=export)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    if failures:
        raise failures[0]


def _peak_bytes(pid: int) -> int:
    """The most that a process and its children hold in a while."""
    until = time.perf_counter() + ASK_S
    peak = 0
    while time.perf_counter() < until:
        peak = max(peak, resident_bytes(pid))
        time.sleep(SAMPLE_S)
    return peak


def _ask(server: Server, paths: list[str]) -> float:
    """The 99th percentile in milliseconds, from when each request was due."""
    connection = _connect(server)
    taken_ms = []
    started = time.perf_counter()
    for number, path in enumerate(islice(cycle(paths), int(ASK_PER_S * ASK_S))):
        due = started + number / ASK_PER_S
        time.sleep(max(0.0, due - time.perf_counter()))
        _get(connection, path)
        taken_ms.append((time.perf_counter() - due) * 1_000)
    return statistics.quantiles(taken_ms, n=100)[-1]


def _connect(server: Server) -> HTTPConnection:
    return HTTPConnection(server.url.removeprefix("http://"), timeout=CALL_S)


def _get(connection: HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise Missing(f"{path} is answered with {answer.status}")
    return body


# --- what is exported ---------------------------------------------------------------


async def _fill(url: str) -> str:
    """Keep that many vehicles; gives the VIN of one."""
    storage = load(options={"storage": {"url": url}}).settings.storage
    await migrate(storage)
    rows = list(_made_up())
    async with open_database(storage) as database:
        for at in range(0, len(rows), FILL_ROWS):
            async with database.writing() as connection:
                await append_rows(connection, vehicles, rows[at : at + FILL_ROWS])
        async with database.writing() as connection:
            # Soon it would do so by itself.
            await connection.execute(text("ANALYZE vehicles"))
    return str(rows[0][1])


def _made_up() -> Iterator[tuple[Any, ...]]:
    """Rows of 40 makers with 400 models, in no order; serial numbers are distinct."""
    random = Random(1)
    makers = [_chance(random, 3) for _ in range(40)]
    models = [_chance(random, 5) for _ in range(400)]
    serials = random.sample(range(10_000_000), VEHICLES)
    now = now_us()
    for serial in serials:
        make, model, year = (random.randrange(most) for most in (40, 400, 30))
        vin = (
            f"{makers[make]}{models[model]}{random.choice(CHECK_DIGITS)}"
            f"{LETTERS[year + 1]}{serial:07}"
        )
        told_at = now - random.randrange(WEEK_US)
        body = BODIES[model % len(BODIES)]
        texts = (f"MAKER {make}", f"Model {model}", str(1990 + year), body)
        filled = zip(FILLED, (SOURCE, vin, True, *texts, told_at, 0), strict=True)
        yield tuple(map(dict(filled).get, vehicles.columns.keys()))


def _chance(random: Random, characters: int) -> str:
    return "".join(random.choices(LETTERS, k=characters))


@contextmanager
def _sqlite(folder: Path) -> Iterator[str]:
    yield f"sqlite+aiosqlite:///{folder}/vehicles.db"
