"""The watermark: the last position of the feed before which nothing can still appear.

In PostgreSQL a transaction may commit later than another one with higher positions.
`docs/decisions/events.md` explains how the end of these transactions is found. SQLite
commits in the order of positions.
"""

import asyncio
import sqlite3
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from service.events import feed_metrics as metrics
from service.events.feed_statements import LAST_POSTGRESQL, LAST_SQLITE, WRITERS
from service.storage.bulk_inserts import run_in_thread
from service.storage.database import Database
from service.storage.engines import SQLITE
from service.storage.uses import Use

MAX_WAIT_S: Final = 0.2
"""Wait for the end of writers in one look; they mostly need some milliseconds."""
LOOK_AGAIN_S: Final = 0.01


class Watermark:
    """Finds the watermark, with what earlier looks have found."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._position = 0
        self._last = 0
        self._next: tuple[int, frozenset[Any]] | None = None
        """A later position, and the writers that must end before it."""
        self._blocked_at: float | None = None
        # The writers of a look must have been read after those of the look before.
        self._lock = asyncio.Lock()

    async def look(self) -> tuple[int, int]:
        """Return the watermark, and the last position; raises `StorageError`."""
        async with self._lock, self._database.reading(Use.FEED) as connection:
            return await self._look(connection)

    async def _look(self, connection: AsyncConnection) -> tuple[int, int]:
        if connection.dialect.name == SQLITE:
            last = await _last_position(connection)
            return last, last
        loop = asyncio.get_running_loop()
        deadline = loop.time() + MAX_WAIT_S
        # What is committed before the look is before this position.
        wanted = await _last_position(connection)
        await self._advance(connection)
        # If the last look was in vain, this one does not wait.
        may_wait = self._blocked_at is None
        while may_wait and self._position < wanted and loop.time() < deadline:
            await asyncio.sleep(LOOK_AGAIN_S)
            await self._advance(connection)
        self._measure(loop.time(), is_blocked=self._position < wanted)
        return self._position, self._last

    async def _advance(self, connection: AsyncConnection) -> None:
        last = await _last_position(connection)
        writers = frozenset(await connection.scalars(WRITERS))
        if self._next is not None:
            position, before = self._next
            left = before & writers
            self._next = (position, left) if left else None
            if not left:
                self._position = position
        if not writers:
            self._position, self._next = last, None
        elif self._next is None and last > self._position:
            self._next = (last, writers)
        self._last = last

    def _measure(self, now: float, *, is_blocked: bool) -> None:
        if not is_blocked:
            self._blocked_at = None
        elif self._blocked_at is None:
            self._blocked_at = now
        since = now if self._blocked_at is None else self._blocked_at
        metrics.feed_blocked(now - since)


async def _last_position(connection: AsyncConnection) -> int:
    if connection.dialect.name == SQLITE:
        # Without a transaction, it is one call of the thread instead of ten.
        return await run_in_thread(connection, _last_of_sqlite)
    return int(await connection.scalar(LAST_POSTGRESQL) or 0)


def _last_of_sqlite(connection: sqlite3.Connection) -> int:
    row = connection.execute(LAST_SQLITE).fetchone()
    return int(row[0]) if row else 0
