"""Expiry: removal of stored VINs that vPIC could not decode, after `missing_ttl_s`.

A look-up in progress may have read an expired row, and its result must not undo a
removal. So an expired row first becomes a marker, as after an announcement (see
`store`). A marker is deleted when no look-up that has read it can be in progress.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog
from sqlalchemy import Select, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.instants import US_PER_S, now_us
from service.settings import VehiclesSettings
from service.storage.database import Database
from service.storage.maintenance import Batches, Work, repeat_logged
from service.storage.uses import Use
from service.vehicles.store import DELETE_MARKERS, KEY, MARKER_S
from service.vehicles.tables import NOT_DECODED, vehicles

EVERY_S: Final = 600.0
FIRST_AFTER_S: Final = 60.0
"""Time after the start, which has other work to do."""
SHARE: Final = 0.2
"""Share of the time for removals; nobody waits for them."""
MIN_ROWS: Final = 100

log = structlog.get_logger()


class Expiry:
    """Removes expired rows of VINs that vPIC could not decode, of any source."""

    def __init__(
        self,
        settings: VehiclesSettings,
        database: Database,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self._ttl_us = int(settings.missing_ttl_s * US_PER_S)
        self._database = database
        self._batches = Batches(database, SHARE, MIN_ROWS)
        self._clock = clock

    async def run(self) -> None:
        """Remove expired rows at every interval; a failure is logged and retried."""
        await asyncio.sleep(FIRST_AFTER_S)
        await repeat_logged("vehicle.expiry_failed", self.remove, EVERY_S)

    async def remove(self) -> None:
        """Make expired rows markers, and delete old markers; raises `StorageError`."""
        now = self._clock()
        expired = select(vehicles.c.source, vehicles.c.vin).where(
            NOT_DECODED,
            vehicles.c.removed_at.is_(None),
            vehicles.c.fetched_at < now - self._ttl_us,
        )
        markers = select(vehicles.c.vin).where(
            vehicles.c.removed_at < now - MARKER_S * US_PER_S
        )
        number = await self._repeat(expired, _marking(expired, now))
        if number:
            log.info("vehicle.expired", vins=number)
        await self._repeat(markers, _deletion(now - MARKER_S * US_PER_S))

    async def _repeat(self, rows: Select[Any], work: Work) -> int:
        """Run batches while there are rows; return the number of rows."""
        total = limit = number = 0
        # A full batch may have been the last: an empty one would lock for nothing.
        while number >= limit and await self._exist(rows):
            limit = self._batches.rows
            number = await self._batches.run(work)
            total += number
        return total

    async def _exist(self, rows: Select[Any]) -> bool:
        async with self._database.reading(Use.RETENTION) as connection:
            return (await connection.execute(rows.limit(1))).first() is not None


def _marking(expired: Select[Any], now: int) -> Work:
    async def mark(connection: AsyncConnection, limit: int) -> int:
        # Rows that another transaction has locked are left for the next interval.
        first = expired.limit(limit).with_for_update(skip_locked=True)
        statement = update(vehicles).where(KEY.in_(first)).values(removed_at=now)
        return int((await connection.execute(statement)).rowcount)

    return mark


def _deletion(before: int) -> Work:
    async def delete(connection: AsyncConnection, limit: int) -> int:
        bound = {"before": before, "limit": limit}
        return int((await connection.execute(DELETE_MARKERS, bound)).rowcount)

    return delete
