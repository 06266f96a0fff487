"""Completion of rows that an older version has stored, while vPIC has nothing to do.

They lack vPIC's codes and most values. A pass goes through the rows in the order of
their keys, and asks vPIC for a batch whenever no look-up has needed it for a while.
"""

import asyncio
from typing import Final

import structlog

from service.storage.maintenance import repeat_logged
from service.vehicles.lookup import Lookups
from service.vehicles.model import Vin
from service.vehicles.store import VehicleStore
from service.vehicles.vpic import MAX_BATCH

EVERY_S: Final = 3_600.0
FIRST_AFTER_S: Final = 120.0
"""Time after the start, which has other work to do."""
PAGE_ROWS: Final = 1_000
POLL_S: Final = 0.5

log = structlog.get_logger()


class Completion:
    """Completes the rows of a source; there is one in each process."""

    def __init__(self, store: VehicleStore, lookups: Lookups) -> None:
        self._store = store
        self._lookups = lookups

    async def run(self) -> None:
        """Complete rows at every interval; a failure is logged and retried."""
        await asyncio.sleep(FIRST_AFTER_S)
        await repeat_logged("vehicle.completion_failed", self.complete, EVERY_S)

    async def complete(self) -> None:
        """Complete all rows, or those before vPIC fails. Raises `StorageError`."""
        completed = 0
        after, waiting = Vin(""), list[Vin]()
        while page := await self._store.page(after, PAGE_ROWS):
            after = page[-1].vin
            waiting += [each.vin for each in page if not each.is_whole]
            while len(waiting) >= MAX_BATCH:
                batch, waiting = waiting[:MAX_BATCH], waiting[MAX_BATCH:]
                if not await self._complete_when_idle(batch):
                    return
                completed += len(batch)
        if waiting and await self._complete_when_idle(waiting):
            completed += len(waiting)
        if completed:
            log.info("vehicle.completed", vins=completed)

    async def _complete_when_idle(self, vins: list[Vin]) -> bool:
        """Return whether vPIC has answered."""
        # Look-ups need no signal for this: nobody waits for a completion.
        while not self._lookups.is_idle:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        return await self._lookups.complete(vins)
