"""Turns of clients at vPIC, so that one client cannot use up its rate limit.

A call occupies one of `vehicles.concurrency` slots, and each of its tries waits for the
rate limit. Clients take turns at both. One client never has all slots.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Final

from service.settings import Settings
from service.vehicles.errors import LookupsFull
from service.web.lane_metrics import LaneMetrics
from service.web.lanes import Displaced, FairQueue, LaneLimits

LANE: Final = "vpic_calls"


class VpicTurns:
    """The queues in front of vPIC; there is one in each process."""

    def __init__(self, settings: Settings) -> None:
        vehicles, limits = settings.vehicles, settings.limits
        self._per_s = vehicles.requests_per_s / settings.server.workers
        self._max_wait_s = limits.queue_wait_s
        self._calls = FairQueue(
            LaneLimits(
                vehicles.concurrency, limits.max_queue, limits.queue_wait_s, math.inf
            )
        )
        # At most `concurrency` calls are at their tries, so this queue is never full.
        self._tries = FairQueue(LaneLimits(1, vehicles.concurrency, math.inf, math.inf))
        self._metrics = LaneMetrics(LANE)

    @asynccontextmanager
    async def call(self, client: Hashable, *, is_first: bool) -> AsyncIterator[None]:
        """Occupy a slot for a call.

        The first call of a request is refused if it would wait longer than
        `limits.queue_wait_s`; the others may wait until the deadline of the request.
        Raises `LookupsFull`.
        """
        calls, loop = self._calls, asyncio.get_running_loop()
        arrived = loop.time()
        if is_first:
            self._refuse_long_wait(client)
        if not calls.try_start(client):
            await self._wait(client, self._max_wait_s if is_first else None)
        self._metrics.started(loop.time() - arrived, calls.running)
        try:
            yield
        finally:
            calls.release(client)
            self._metrics.ended(calls.running)

    @asynccontextmanager
    async def try_(self, client: Hashable) -> AsyncIterator[None]:
        """Have the turn to wait for the rate limit."""
        if not self._tries.try_start(client):
            await self._tries.wait(client)
        try:
            yield
        finally:
            self._tries.release(client)

    def _refuse_long_wait(self, client: Hashable) -> None:
        if not self._per_s:
            return
        queues = (self._calls, self._tries)
        before = sum(each.requests_before(client) for each in queues)
        wait_s = before / self._per_s
        if wait_s > self._max_wait_s:
            raise self._full("expected_wait", wait_s)

    async def _wait(self, client: Hashable, max_wait_s: float | None) -> None:
        calls = self._calls
        if not calls.make_room(client):
            raise self._full("queue_full", self._max_wait_s)
        self._metrics.waiting(calls.waiting + 1)
        try:
            async with asyncio.timeout(max_wait_s):
                await calls.wait(client)
        except TimeoutError:
            raise self._full("waited", self._max_wait_s) from None
        except Displaced:
            raise self._full("displaced", self._max_wait_s) from None
        finally:
            self._metrics.waiting(calls.waiting)

    def _full(self, reason: str, wait_s: float) -> LookupsFull:
        self._metrics.refused(reason)
        calls = self._calls
        detail = f"{LANE}: {calls.running} run and {calls.waiting} wait"
        return LookupsFull(detail, max(1.0, wait_s))
