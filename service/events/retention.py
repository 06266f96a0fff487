"""Retention: removal of events `events.retention_s` after their arrival.

Events are removed in short transactions with pauses, so writers hardly wait for them.
Every process may run it: a process that finds another one at work leaves it to it.
"""

import time
from collections.abc import Callable
from typing import Final

import structlog
from sqlalchemy import Table, delete, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.events import metrics
from service.events.tables import events, failed_events
from service.instants import US_PER_S, now_us
from service.settings import EventsSettings
from service.storage import free_space
from service.storage.database import Database
from service.storage.maintenance import Batches, Work, repeat_logged
from service.storage.uses import Use

SHARE: Final = 0.3
"""Share of the time for removals: they must keep up with the events that arrive."""
MIN_ROWS: Final = 100
"""Each row changes a page of most indexes, which takes longer than to insert it."""
LOG_EVERY_S: Final = 10.0

# By the place of each row: any number of rows may have the same time of arrival.
_IS_FIRST: Final = {
    "sqlite": """rowid IN (
        SELECT rowid FROM {table} WHERE received_at BETWEEN :since AND :until
        ORDER BY received_at LIMIT :limit
    )""",
    "postgresql": """ctid = ANY(ARRAY(
        SELECT ctid FROM {table} WHERE received_at BETWEEN :since AND :until
        ORDER BY received_at LIMIT :limit
    ))""",
}

log = structlog.get_logger()


class Retention:
    """Removes expired events."""

    def __init__(
        self,
        settings: EventsSettings,
        database: Database,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self._retention_us = int(settings.retention_s * US_PER_S)
        self._interval_s = settings.retention_interval_s
        self._database = database
        self._batches = Batches(database, SHARE, MIN_ROWS)
        self._clock = clock

    @property
    def is_on(self) -> bool:
        """True if events expire at all."""
        return self._retention_us > 0

    async def run(self) -> None:
        """Remove expired events at every interval; a failure is logged and retried."""
        await repeat_logged("events.retention_failed", self.remove, self._interval_s)

    async def remove(self) -> int:
        """Remove the expired events, failed ones too; return their number.

        Then give free space of SQLite back to the disk. Raises `StorageError`.
        """
        before = self._clock() - self._retention_us
        progress = Progress()
        try:
            # An event that supersedes a failed one must not be removed before it.
            for table in (failed_events, events):
                await self._remove_from(table, before, progress)
            metrics.removal_behind(0.0)
        finally:
            progress.log()
        if self._database.is_sqlite:
            await self._release_space()
        return progress.total

    async def _remove_from(
        self, table: Table, before: int, progress: "Progress"
    ) -> None:
        """Remove the expired rows, until a batch has fewer rows than it may have.

        Then none is left, or another process is removing them.
        """
        since = 0
        limit = number = 0
        while number >= limit:
            limit = self._batches.rows
            arrivals = await self._arrivals(table, since, before, limit)
            if arrivals is None:
                return
            first, last = arrivals
            progress.is_behind((before - first) / US_PER_S)
            number = await self._batches.run(_removal(table, since, last))
            progress.add(number)
            since = last

    async def _arrivals(
        self, table: Table, since: int, before: int, limit: int
    ) -> tuple[int, int] | None:
        """Return the arrivals of a batch's first and last row; None without rows.

        It locks nothing.
        """
        arrival = table.c.received_at
        first = (
            select(arrival)
            .where(arrival >= since, arrival < before)
            .order_by(arrival)
            .limit(limit)
            .subquery()
        )
        async with self._database.reading(Use.RETENTION) as connection:
            arrivals = first.c.received_at
            query = select(func.min(arrivals), func.max(arrivals))
            row = (await connection.execute(query)).one()
        return None if row[0] is None else (row[0], row[1])

    async def _release_space(self) -> None:
        async with self._database.reading(Use.RETENTION) as connection:
            if not await free_space.is_shrinkable(connection):
                return
        batches = Batches(self._database, SHARE, MIN_ROWS)
        while await batches.run(free_space.release):
            pass


class Progress:
    """The number of removed events, logged and counted while they are removed."""

    def __init__(self) -> None:
        self.total = 0
        self._unlogged = 0
        self._behind_s = 0.0
        self._logged_at = time.monotonic()

    def is_behind(self, behind_s: float) -> None:
        """Set the time since the next event to remove has expired, in seconds."""
        self._behind_s = max(behind_s, self._behind_s)
        metrics.removal_behind(behind_s)

    def add(self, number: int) -> None:
        """Count a batch."""
        self.total += number
        self._unlogged += number
        metrics.events_removed(number)
        if time.monotonic() - self._logged_at > LOG_EVERY_S:
            self.log()

    def log(self) -> None:
        """Log the number of events since the last line, if there are any."""
        if self._unlogged:
            behind_s = round(self._behind_s, 3)
            log.info("events.removed", events=self._unlogged, behind_s=behind_s)
        self._unlogged = 0
        self._behind_s = 0.0
        self._logged_at = time.monotonic()


def _removal(table: Table, since: int, until: int) -> Work:
    """Return the work that removes rows of these arrivals, up to the limit."""

    async def remove(connection: AsyncConnection, limit: int) -> int:
        is_first = _IS_FIRST[connection.dialect.name].format(table=table.name)
        result = await connection.execute(
            delete(table).where(text(is_first)),
            {"since": since, "until": until, "limit": limit},
        )
        return int(result.rowcount)

    return remove
