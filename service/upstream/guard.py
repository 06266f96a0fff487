"""Protection of an upstream: rate limit, concurrency, circuit breaker, retry budget.

All calls of a client share them, so that together they do not overload the upstream.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)

import structlog
from aiolimiter import AsyncLimiter

from service.settings import BreakerSettings, UpstreamSettings
from service.upstream import errors, metrics
from service.upstream.circuit_breaker import (
    CircuitBreaker,
    CircuitState,
    MonotonicClock,
)
from service.upstream.profiles import COPILOT, UpstreamProfile
from service.upstream.retries import RetryBudget

Turn = Callable[[], AbstractAsyncContextManager[None]]
"""Waits for the turn of a try to wait for the rate limit, and gives it up again.

Without turns, the rate limit is first come, first served.
"""

log = structlog.get_logger()


class UpstreamGuard:
    """Decides which tries of a client are made, and when."""

    def __init__(
        self,
        upstream: UpstreamSettings,
        breaker: BreakerSettings,
        clock: MonotonicClock = time.monotonic,
        profile: UpstreamProfile = COPILOT,
    ) -> None:
        self.profile = profile
        self.breaker = CircuitBreaker(breaker, clock, profile.name)
        self.breaker.on_change = self._report_state
        # `on_change` reports changes only, and without one the gauge would be absent.
        self._report_state(self.breaker.state)
        self._rate_limit = _rate_limit(profile.requests_per_s)
        self._budget = RetryBudget(upstream, clock)
        self._slots = asyncio.Semaphore(upstream.concurrency)

    @asynccontextmanager
    async def around_try(
        self, number: int, turn: Turn = nullcontext
    ) -> AsyncIterator[None]:
        """Occupy a slot for try `number` of a call, counted from 1.

        Raises `CircuitOpen`, and the errors of `turn`.
        """
        # Twice, as the circuit may open during the wait for a slot.
        if self._rate_limit is not None or self._slots.locked():
            self.breaker.refuse_if_open()
        async with self._slot(turn), self.breaker.guard():
            # The budget is a share of the calls, so retries are not counted here.
            if number == 1:
                self._budget.record_call()
            yield

    def _report_state(self, state: CircuitState) -> None:
        breaker = self.breaker
        # Until an operator gives it back, which no time does.
        refuses_for_s = math.inf if breaker.is_forced else breaker.refuses_for_s
        metrics.breaker_changed(self.profile.name, state, refuses_for_s)

    def _slot(self, turn: Turn) -> AbstractAsyncContextManager[None]:
        if self._rate_limit is None:
            return self._slots
        return self._rate_limited_slot(self._rate_limit, turn)

    @asynccontextmanager
    async def _rate_limited_slot(
        self, rate_limit: AsyncLimiter, turn: Turn
    ) -> AsyncIterator[None]:
        """Occupy a slot when the rate limit permits a try."""
        async with AsyncExitStack() as stack:
            async with turn():
                # The slot comes first: a permit that waits for a slot would let
                # later tries exceed the rate.
                await stack.enter_async_context(self._slots)
                # The circuit may be open now. A refused try must not use up a permit.
                self.breaker.refuse_if_open()
                await rate_limit.acquire()
            yield

    def check_retry(self, failure: errors.UpstreamError) -> None:
        """Raise `failure`, that of the last try, unless a retry may be made now."""
        # The circuit first: `take_retry` counts a retry, which must then be made.
        if self.breaker.refuses_for_s:
            reason = "circuit"
        elif not self._budget.take_retry():
            reason = "budget"
        else:
            return
        metrics.retry_refused(self.profile.name, reason)
        log.warning("upstream.retry_refused", upstream=self.profile.name, reason=reason)
        raise failure


def _rate_limit(per_s: float) -> AsyncLimiter | None:
    """Return a limit whose bursts are the tries of one second, or one try."""
    if not per_s:
        return None
    # aiolimiter gives no permit if the capacity is less than one permit.
    return AsyncLimiter(per_s, 1.0) if per_s >= 1 else AsyncLimiter(1, 1 / per_s)
