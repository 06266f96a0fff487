"""Refreshes for budgets while no request asks for the period.

Every process looks, at times that differ, whether a fresh snapshot was compared with
all budgets lately. So usually one process alone refreshes.
"""

import asyncio
import random
from contextlib import suppress
from typing import Final

from service.instants import US_PER_S, now_us
from service.storage.maintenance import repeat_logged
from service.usage.budgets.store import BudgetStore
from service.usage.cache import SnapshotCache
from service.usage.errors import RefreshFailed

LOOKS: Final = 5
"""Looks in the time after which a refresh is due."""


class BudgetChecks:
    """Refreshes the period when budgets were not compared for `refresh_s`."""

    def __init__(
        self, store: BudgetStore, cache: SnapshotCache, refresh_s: float
    ) -> None:
        self._store = store
        self._cache = cache
        self._refresh_s = refresh_s

    async def run(self) -> None:
        """Look again and again, until it is cancelled; 0 s means never."""
        if self._refresh_s:
            every_s = self._refresh_s / LOOKS
            # Processes that start together look at different times.
            await asyncio.sleep(every_s * random.random())  # noqa: S311 - no secret
            await repeat_logged("budget.check_failed", self._look, every_s)

    async def _look(self) -> None:
        now = now_us()
        due_before = now - self._refresh_s * US_PER_S
        found = await self._store.list()
        # A time in the future is from a clock that was wrong.
        if any(not due_before < each.checked_at <= now for each in found):
            with suppress(RefreshFailed):  # which is logged
                await asyncio.shield(self._cache.start_refresh())
