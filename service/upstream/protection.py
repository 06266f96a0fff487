"""What stands between our calls and upstream: slots, the circuit, the retry budget.

Each is shared by all calls of a client, so that together they never ask more of
upstream than it can bear.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog

from service import metrics
from service.settings import Settings
from service.upstream import errors
from service.upstream.breaker import CircuitBreaker, Clock
from service.upstream.budget import RetryBudget
from service.upstream.retries import Backoff

log = structlog.get_logger()


class Protection:
    """Decides which tries of a client may be made, and when."""

    def __init__(self, settings: Settings, clock: Clock = time.monotonic) -> None:
        self.breaker = CircuitBreaker(settings.breaker, clock)
        self.breaker.on_change = metrics.breaker_changed
        metrics.breaker_changed(self.breaker.state)
        self._budget = RetryBudget(settings.upstream, clock)
        self._slots = asyncio.Semaphore(settings.upstream.concurrency)

    @asynccontextmanager
    async def around_try(self, number: int) -> AsyncIterator[None]:
        """Hold a slot for try `number` of a call, counted from 1.

        Raises `CircuitOpen`. The circuit is asked before the wait for a slot, to
        refuse at once, and again after it, as it may have opened meanwhile.
        """
        self.breaker.refuse_if_open()
        async with self._slots, self.breaker.guard():
            if number == 1:
                self._budget.record_call()
            yield

    def check_retry(self, failure: errors.UpstreamError) -> None:
        """Return if a retry may be made now; else raise `failure`, the last try's."""
        if self.breaker.refuses_for_s:
            reason = "circuit"
        elif not self._budget.take_retry():
            reason = "budget"
        else:
            return
        metrics.retry_refused(reason)
        log.warning("upstream.retry_refused", reason=reason)
        raise failure


class ProtectedBackoff(Backoff):
    """The retries of one call, as far as its client's protection lets it make them."""

    def __init__(self, settings: Settings, protection: Protection) -> None:
        super().__init__(settings.upstream)
        self._protection = protection

    def get_timeout(self, attempt: int, response: Any = None) -> float:
        """Seconds to wait; raises the last try's error where no retry may be made.

        aiohttp-retry asks this once before each retry and at no other time, so what
        is raised here ends the call.
        """
        if self.failure is not None:
            self._protection.check_retry(self.failure)
        return super().get_timeout(attempt, response)
