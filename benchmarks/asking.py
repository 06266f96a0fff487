"""Asking among ten million events: a session, the first page of a day, and counts.

The tables are filled by the database itself, as no client could in so short a time. A
session's events lie far apart, as they would where many sessions run at once. What is
asked for is different each time; the plans are printed once.
"""

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg
from msgspec.structs import replace
from rich.console import Console
from sqlalchemy import Select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from benchmarks.events import QUICK
from benchmarks.report import Result, maximum, unmeasured
from benchmarks.tools import POSTGRESQL
from service.events.count_statements import HOUR_US
from service.events.counting import Counting
from service.events.model import Stats
from service.events.queries import EventQueries
from service.events.statements import (
    CountedBy,
    EventFilter,
    select_events,
    select_session,
)
from service.events.tables import events
from service.instants import US_PER_S, format_instant
from service.settings import load
from service.storage.database import Database, migrate, open_database
from service.storage.errors import StorageError

EVENTS: Final = 100_000 if QUICK else 10_000_000
SESSIONS: Final = EVENTS // 20
CATEGORIES: Final = 20
DAYS: Final = 30
DAY_US: Final = 86_400 * US_PER_S
BEGIN_US: Final = 19_844 * DAY_US
STEP_US: Final = DAYS * DAY_US // EVENTS
ASKED: Final = 20 if QUICK else 200
PAGE: Final = 100
SESSION_MS: Final = 10.0
DAY_MS: Final = 20.0
COUNTS_MS: Final = 200.0
FILL_S: Final = 1_800.0
SCHEMA: Final = "bench_asking"

_DATA: Final = '{"host": "www.example.com", "path": "/", "referrer": "/prices"}'
_FILL: Final = {
    "sqlite": """
        WITH RECURSIVE numbers(n) AS (
            SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :events
        )
        INSERT INTO events
        SELECT randomblob(16), 'shop', printf('%032x', n), randomblob(16),
               'session ' || (n % :sessions), 'category ' || (n % :categories),
               'name ' || (n % 7), :begin + n * :step, '2024-05-01T00:00:00.000000Z',
               :data, :begin + n * :step
        FROM numbers""",
    "postgresql": """
        INSERT INTO events
        SELECT decode(md5(n::text), 'hex'), 'shop', md5(n::text),
               decode(md5(n::text), 'hex'), 'session ' || (n % :sessions),
               'category ' || (n % :categories), 'name ' || (n % 7),
               :begin + n * :step, '2024-05-01T00:00:00.000000Z', :data,
               :begin + n * :step
        FROM generate_series(0::bigint, :events - 1) AS numbers(n)""",
}

COUNTED: Final[tuple[CountedBy, ...]] = ("category", "name", "hour")

console: Final = Console()


def run() -> list[Result]:
    """Measure both queries on both databases; report a database that is unavailable."""
    results = asyncio.run(_measure("SQLite", _sqlite))
    try:
        results += asyncio.run(_measure("PostgreSQL", _postgresql))
    except (OSError, asyncpg.PostgresError, StorageError) as error:
        results.append(unmeasured("PostgreSQL", error))
    return results


async def explain(connection: AsyncConnection, query: Select[Any]) -> list[str]:
    """Return the query plan of the database, line by line."""
    dialect = connection.dialect
    sql = query.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    how = "EXPLAIN QUERY PLAN" if dialect.name == "sqlite" else "EXPLAIN"
    rows = await connection.exec_driver_sql(f"{how} {sql}")
    return [str(row[-1]) for row in rows]


async def _measure(
    name: str, opened: Callable[[], AbstractAsyncContextManager[Database]]
) -> list[Result]:
    async with opened() as database:
        started = time.perf_counter()
        await _fill(database)
        note = f"{EVENTS:,} events, filled in {time.perf_counter() - started:.0f} s"
        console.print(f"{name}: {note}")
        await _show_plans(database)
        queries = EventQueries(database)
        session_ms = await _median_ms(
            lambda n: queries.session("shop", f"session {n % SESSIONS}")
        )
        day_ms = await _median_ms(lambda n: queries.events(_a_day(n), PAGE))
        counts_ms = [
            (by, await _median_ms(partial(_count, queries, by))) for by in COUNTED
        ]
    return [
        *(
            maximum(f"{name}: counts by {by}, ms", counts[0], COUNTS_MS, counts[1])
            for by, counts in counts_ms
        ),
        maximum(f"{name}: one session, ms", session_ms[0], SESSION_MS, session_ms[1]),
        maximum(f"{name}: a day of a category, ms", day_ms[0], DAY_MS, day_ms[1]),
    ]


def _a_day(number: int) -> EventFilter:
    since = BEGIN_US + number % DAYS * DAY_US
    category = f"category {number % CATEGORIES}"
    return EventFilter("shop", category=category, since=since, until=since + DAY_US)


def _count(queries: EventQueries, by: CountedBy, number: int) -> Awaitable[Stats]:
    return queries.count(by, _hours(number), 1_000)


def _hours(number: int) -> EventFilter:
    """Return a filter for all times, or for whole hours of most days."""
    hours = number % (DAYS * 12)
    if not hours:
        return EventFilter("shop")
    return EventFilter("shop", since=BEGIN_US + hours * HOUR_US)


async def _median_ms(ask: Callable[[int], Awaitable[Any]]) -> tuple[float, str]:
    """Return the median and the longest time of different queries."""
    chosen = random.Random(1)  # each run asks the same
    taken = []
    for _ in range(ASKED):
        number = chosen.randrange(EVENTS)
        started = time.perf_counter()
        await ask(number)
        taken.append((time.perf_counter() - started) * 1000)
    p99 = statistics.quantiles(taken, n=100)[98]
    return statistics.median(taken), f"median of {ASKED}; p99 {p99:.1f} ms"


async def _fill(database: Database) -> None:
    """Insert without indexes, which are made at the end: all is there much sooner."""
    values = {
        "events": EVENTS,
        "sessions": SESSIONS,
        "categories": CATEGORIES,
        "begin": BEGIN_US,
        "step": STEP_US,
        "data": _DATA,
    }
    indexes = sorted(events.indexes, key=lambda index: str(index.name))
    async with database.writing() as connection:
        for index in indexes:
            await connection.run_sync(index.drop)
        await connection.execute(text(_FILL[connection.dialect.name]), values)
        for index in indexes:
            await connection.run_sync(index.create)
        # Only PostgreSQL plans by what it knows of the rows; soon it would by itself.
        if not database.is_sqlite:
            await connection.execute(text("ANALYZE events"))
    await Counting(database).add_changes()


async def _show_plans(database: Database) -> None:
    day = _a_day(0)
    assert day.since is not None
    queries = {
        "one session": select_session("shop", "session 1"),
        f"{format_instant(day.since)[:10]} of one category": select_events(day, PAGE),
    }
    async with database.reading() as connection:
        for name, query in queries.items():
            console.print(f"  {name}", highlight=False)
            for line in await explain(connection, query):
                console.print(f"    {line}", highlight=False, markup=False)


@asynccontextmanager
async def _sqlite() -> AsyncIterator[Database]:
    with tempfile.TemporaryDirectory(prefix="asking-") as folder:
        url = f"sqlite+aiosqlite:///{Path(folder) / 'events.db'}"
        async with open_database(replace(load().settings.storage, url=url)) as database:
            yield database


@asynccontextmanager
async def _postgresql() -> AsyncIterator[Database]:
    """A schema of its own, dropped at the end."""
    connection = await asyncpg.connect(POSTGRESQL)
    await connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    await connection.execute(f"CREATE SCHEMA {SCHEMA}")
    try:
        url = f"{POSTGRESQL.replace('://', '+asyncpg://', 1)}?schema={SCHEMA}"
        # Filling is one statement, which takes longer than any of the service may.
        storage = replace(load().settings.storage, url=url, timeout_s=FILL_S)
        await migrate(storage)
        async with open_database(storage) as database:
            yield database
    finally:
        await connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
        await connection.close()
