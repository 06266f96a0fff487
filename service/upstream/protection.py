"""What stands between our calls and upstream: pace, slots, circuit, retry budget.

Each is shared by all calls of a client, so that together they never ask more of
upstream than it can bear.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import structlog
from aiolimiter import AsyncLimiter

from service import metrics
from service.settings import Settings
from service.upstream import errors
from service.upstream.breaker import CircuitBreaker, Clock
from service.upstream.budget import RetryBudget
from service.upstream.peers import COPILOT, Peer
from service.upstream.retries import Backoff

log = structlog.get_logger()


class Protection:
    """Decides which tries of a client may be made, and when."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock = time.monotonic,
        peer: Peer = COPILOT,
    ) -> None:
        self.peer = peer
        self.breaker = CircuitBreaker(settings.breaker, clock, peer.name)
        self.breaker.on_change = partial(metrics.breaker_changed, peer.name)
        metrics.breaker_changed(peer.name, self.breaker.state)
        self._pace = _pace(peer.requests_per_s)
        self._waiting = 0
        self._budget = RetryBudget(settings.upstream, clock)
        self._slots = asyncio.Semaphore(settings.upstream.concurrency)

    @asynccontextmanager
    async def around_try(self, number: int) -> AsyncIterator[None]:
        """Hold a slot for try `number` of a call, counted from 1.

        Raises `CircuitOpen` and `TooManyWait`. The circuit is asked before the wait
        for a slot, to refuse at once, and again after it, as it may have opened
        meanwhile.
        """
        self.breaker.refuse_if_open()
        async with self._turn(), self.breaker.guard():
            if number == 1:
                self._budget.record_call()
            yield

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Hold a slot, within the pace: waited for with it, or leave would be saved up.

        Who would wait beyond all patience is refused at once. Else, where more comes
        than the pace lets through, every try would begin just to be given up.
        """
        if self._pace is None:
            async with self._slots:
                yield
            return
        wait_s = self._waiting / self.peer.requests_per_s
        if wait_s > self.peer.patience_s:
            raise errors.TooManyWait(wait_s)
        self._waiting += 1
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._slots)
                self.breaker.refuse_if_open()
                await self._pace.acquire()
            finally:
                self._waiting -= 1
            yield

    def check_retry(self, failure: errors.UpstreamError) -> None:
        """Return if a retry may be made now; else raise `failure`, the last try's."""
        if self.breaker.refuses_for_s:
            reason = "circuit"
        elif not self._budget.take_retry():
            reason = "budget"
        else:
            return
        metrics.retry_refused(self.peer.name, reason)
        log.warning("upstream.retry_refused", upstream=self.peer.name, reason=reason)
        raise failure


def _pace(per_s: float) -> AsyncLimiter | None:
    """Room for a second's tries at once, where a second has more than one."""
    if not per_s:
        return None
    return AsyncLimiter(per_s, 1.0) if per_s >= 1 else AsyncLimiter(1, 1 / per_s)


class ProtectedBackoff(Backoff):
    """The retries of one call, as far as its client's protection lets it make them."""

    def __init__(self, settings: Settings, protection: Protection) -> None:
        super().__init__(settings.upstream, protection.peer)
        self._protection = protection

    def get_timeout(self, attempt: int, response: Any = None) -> float:
        """Seconds to wait; raises the last try's error where no retry may be made.

        aiohttp-retry asks this once before each retry and at no other time, so what
        is raised here ends the call.
        """
        if self.failure is not None:
            self._protection.check_retry(self.failure)
        return super().get_timeout(attempt, response)
