"""Retention: events go when they have been kept long enough since their arrival.

They go a batch at a time, each in a transaction of its own, so that no writer waits
long. Of many processes any may do it; doing it twice is doing it once.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from sqlalchemy import Table, bindparam, delete, func, select

from service import metrics
from service.events.tables import events, failed_events
from service.instants import US_PER_S, now_us
from service.settings import Events as EventSettings
from service.storage.database import Database
from service.storage.errors import StorageError

BATCH_ROWS: Final = 5_000

log = structlog.get_logger()


class Retention:
    """Removes what has been kept long enough."""

    def __init__(
        self,
        settings: EventSettings,
        database: Database,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self._keep_us = int(settings.retention_s * US_PER_S)
        self._interval_s = settings.retention_interval_s
        self._database = database
        self._clock = clock

    @property
    def is_on(self) -> bool:
        """Whether anything is ever removed."""
        return self._keep_us > 0

    async def run(self) -> None:
        """Remove from time to time; a failure is logged, and the next time comes."""
        while True:
            try:
                await self.remove()
            except StorageError as error:
                log.warning("events.retention_failed", reason=str(error))
            await asyncio.sleep(self._interval_s)

    async def remove(self) -> int:
        """Remove what is old by now; says how many events, failed ones too."""
        before = self._clock() - self._keep_us
        removed = 0
        for table in (events, failed_events):
            while batch := await self._remove_batch(table, before):
                removed += batch
        if removed:
            log.info("events.removed", events=removed)
            metrics.events_removed(removed)
        return removed

    async def _remove_batch(self, table: Table, before: int) -> int:
        """Remove the oldest: up to the arrival of the 5,000th, or all before."""
        arrival = table.c.received_at
        last = (
            select(arrival)
            .where(arrival < bindparam("before"))
            .order_by(arrival)
            .limit(BATCH_ROWS)
            .subquery()
        )
        until = select(func.max(last.c.received_at)).scalar_subquery()
        async with self._database.writing() as connection:
            result = await connection.execute(
                delete(table).where(arrival <= until), {"before": before}
            )
        return int(result.rowcount)
