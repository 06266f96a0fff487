"""Requests on 36 closed periods of a database, each with nothing cached.

Each request has a reader of its own, and the file leaves the system's cache before it.
So all that it needs is read and decoded.
"""

import os
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvloop

from service.settings import Settings, load
from service.storage.database import Database, open_database
from service.usage.periods.reading.reader import KeptSnapshots, KeptView
from service.usage.snapshots.cursors import MessageCursor
from service.usage.snapshots.formats import JSON
from service.usage.snapshots.selection import Selection

PERIODS: Final = 36
PAGE_ROWS: Final = 100
REQUESTS: Final = 200
SUMS: Final = 50
WALKED_ROWS: Final = 1_000
WALKED_PAGES: Final = 100

COPIES: Final = (
    """INSERT INTO usage_periods (number, period, status, revision, plan, first_at,
    last_at, messages, hundredths, degraded, fetched_at, chunks, closed_at)
    SELECT number + :by, period || '-' || (:by + 1), 'closed', revision, plan, first_at,
    last_at, messages, hundredths, degraded, fetched_at, chunks, fetched_at
    FROM usage_periods WHERE number = 1""",
    """INSERT INTO usage_chunks (period_number, digest, content)
    SELECT period_number + :by, digest, content
    FROM usage_chunks WHERE period_number = 1""",
    """INSERT INTO usage_outlines (period_number, revision, content)
    SELECT period_number + :by, revision, content
    FROM usage_outlines WHERE period_number = 1""",
)


class Taken(NamedTuple):
    """Seconds of each request, and the size of what was asked."""

    pages: list[float]
    daily: list[float]
    messages: int


def copy_period(file: Path) -> None:
    """Close the first period of a database, and copy it to the others."""
    with closing(sqlite3.connect(file)) as connection:
        with connection:
            connection.execute(
                "UPDATE usage_periods SET status = 'closed', closed_at = fetched_at"
            )
        for by in range(1, PERIODS):
            with connection:
                for copy in COPIES:
                    connection.execute(copy, {"by": by})
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def measure(file: Path) -> Taken:
    """Return how long cold requests on the periods take."""
    options: dict[str, dict[str, Any]] = {
        "storage": {"url": f"sqlite+aiosqlite:///{file}"},
        "periods": {"enabled": True},
        "logging": {"level": "error"},
    }
    return uvloop.run(_measure(load(options=options).settings, file))


async def _measure(settings: Settings, file: Path) -> Taken:
    chosen = random.Random(36)
    async with open_database(settings.storage) as database:
        with _reader(settings, database) as kept:
            listed = await kept.store.newest(None, PERIODS)
            cursors = await _walk(await kept.view(listed[0].period, None))

        async def cold(ask: Callable[[KeptView], Awaitable[object]]) -> float:
            _drop_cached(file)
            with _reader(settings, database) as kept:
                started = time.perf_counter()
                view = await kept.view(chosen.choice(listed).period, None)
                await ask(view)
                return time.perf_counter() - started

        async def cold_page() -> float:
            # Periods are equal, so a cursor continues in each of them.
            page = Selection(limit=PAGE_ROWS, cursor=chosen.choice(cursors))
            return await cold(lambda view: view.extract(JSON, page))

        async def cold_days() -> float:
            return await cold(lambda view: view.daily("Asia/Kolkata"))

        pages = [await cold_page() for _ in range(REQUESTS)]
        daily = [await cold_days() for _ in range(SUMS)]
    return Taken(pages, daily, listed[0].messages)


@contextmanager
def _reader(settings: Settings, database: Database) -> Iterator[KeptSnapshots]:
    """Yield a reader that has nothing cached; it needs no worker."""
    yield KeptSnapshots(settings, database)


async def _walk(view: KeptView) -> list[MessageCursor | None]:
    """Return the cursors of some pages."""
    cursors: list[MessageCursor | None] = [None]
    while len(cursors) < WALKED_PAGES:
        selection = Selection(limit=WALKED_ROWS, cursor=cursors[-1])
        page = await view.extract(JSON, selection)
        if page.next is None:
            break
        cursors.append(page.next)
    return cursors


def _drop_cached(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
