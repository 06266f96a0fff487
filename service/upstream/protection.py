"""What stands between our calls and upstream: pace, slots, circuit, retry budget.

Each is shared by all calls of a client, so that together they never ask more of
upstream than it can bear.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import structlog
from aiolimiter import AsyncLimiter

from service import metrics
from service.settings import Breaker, Upstream
from service.upstream import errors
from service.upstream.breaker import CircuitBreaker, Clock
from service.upstream.peers import COPILOT, Peer
from service.upstream.retries import RetryBudget

log = structlog.get_logger()


class Protection:
    """Decides which tries of a client may be made, and when."""

    def __init__(
        self,
        upstream: Upstream,
        breaker: Breaker,
        clock: Clock = time.monotonic,
        peer: Peer = COPILOT,
    ) -> None:
        self.peer = peer
        self.breaker = CircuitBreaker(breaker, clock, peer.name)
        self.breaker.on_change = partial(metrics.breaker_changed, peer.name)
        metrics.breaker_changed(peer.name, self.breaker.state)
        self._pace = _pace(peer.requests_per_s)
        self._waiting = 0
        self._budget = RetryBudget(upstream, clock)
        self._slots = asyncio.Semaphore(upstream.concurrency)

    @asynccontextmanager
    async def around_try(self, number: int) -> AsyncIterator[None]:
        """Hold a slot for try `number` of a call, counted from 1.

        Raises `CircuitOpen` and `TooManyWait`. An open circuit refuses before the wait
        for a slot, and again after it, as it may have opened meanwhile.
        """
        if self._pace is not None or self._slots.locked():
            self.breaker.refuse_if_open()
        turn = self._slots if self._pace is None else self._paced_slot(self._pace)
        async with turn, self.breaker.guard():
            if number == 1:
                self._budget.record_call()
            yield

    @asynccontextmanager
    async def _paced_slot(self, pace: AsyncLimiter) -> AsyncIterator[None]:
        """Hold a slot within the pace. Waiting comes first: permits cannot be saved up.

        A try that would wait longer than `patience_s` is refused at once. Else, where
        more tries come than the pace allows, each would wait only to be given up.
        """
        wait_s = self._waiting / self.peer.requests_per_s
        if wait_s > self.peer.patience_s:
            raise errors.TooManyWait(wait_s)
        self._waiting += 1
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._slots)
                self.breaker.refuse_if_open()
                await pace.acquire()
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
