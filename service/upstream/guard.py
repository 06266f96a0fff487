"""Protection of an upstream: rate limit, concurrency, circuit breaker, retry budget.

All calls of a client share them, so that together they do not overload the upstream.
A `Retry-After` of upstream holds all calls, or those of the endpoint that has sent it.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Protocol

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

log = structlog.get_logger()


class SharedHolds(Protocol):
    """Waits that an upstream has asked for, known to all processes."""

    async def read(self, endpoint: str) -> float:
        """Return the seconds left of the wait of an endpoint; 0 for none."""

    async def write(self, endpoint: str, wait_s: float) -> None:
        """Let the other processes wait too."""

    def clear(self) -> None:
        """End all waits."""


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
        self._breaker_settings = breaker
        self._clock = clock
        self._max_wait_s = upstream.retry_after_max_s
        self._max_hold_s = min(breaker.max_open_s, profile.max_hold_s)
        self._shared: SharedHolds | None = None
        self.breaker = self._new_circuit(profile.name, is_judging=True)
        self._endpoints: dict[str, CircuitBreaker] = {}
        self._pauses: dict[str, float] = {}
        self._rate_limit = _rate_limit(profile.requests_per_s)
        self._budget = RetryBudget(upstream, clock)
        self._slots = asyncio.Semaphore(upstream.concurrency)

    def share(self, holds: SharedHolds) -> None:
        """Let processes share the waits that upstream has asked for."""
        self._shared = holds

    @asynccontextmanager
    async def around_try(
        self, endpoint: str, number: int, slot: AsyncExitStack | None = None
    ) -> AsyncIterator[None]:
        """Occupy a slot for try `number` of a call of an endpoint, counted from 1.

        It may have been reserved. Raises `CircuitOpen`.
        """
        async with slot or await self.reserve(endpoint):
            # Again, as the circuit may have opened during the wait for the slot.
            await self._wait_out(endpoint)
            async with self._guarded(endpoint):
                # The budget is a share of the calls: retries are not counted here.
                if number == 1:
                    self._budget.record_call()
                yield

    async def reserve(self, endpoint: str) -> AsyncExitStack:
        """Wait for a slot and for the rate limit; return the slot, to be closed.

        Raises `CircuitOpen`.
        """
        # Before the wait too, so that an open circuit answers at once.
        await self._wait_out(endpoint)
        async with AsyncExitStack() as stack:
            # The slot comes first: a permit that waits for a slot would let later tries
            # exceed the rate.
            await stack.enter_async_context(self._slots)
            # The circuit may be open now. A refused try must not use up a permit, and
            # one that waits must not take a slot from the other endpoints.
            while await self._pause_left_s(endpoint):
                await stack.aclose()
                await self._wait_out(endpoint)
                await stack.enter_async_context(self._slots)
            if self._rate_limit is not None:
                await self._rate_limit.acquire()
            return stack.pop_all()

    def refuses_for_s(self, endpoint: str) -> float:
        """Return the seconds for which calls of an endpoint are still refused."""
        return max(each.refuses_for_s for each in self._circuits(endpoint))

    def force(self, state: CircuitState | None) -> None:
        """Keep the circuit open or closed; None closes it and judges calls again.

        The waits that upstream has asked for end too, in all processes.
        """
        self.breaker.force(state)
        self._pauses.clear()
        for each in self._endpoints.values():
            each.force(None)
        if self._shared is not None:
            self._shared.clear()

    def blocked_endpoints(self) -> dict[str, float]:
        """Return the endpoints that upstream has closed, and the seconds left."""
        held = {name: each.refuses_for_s for name, each in self._endpoints.items()}
        return {name: left_s for name, left_s in held.items() if left_s}

    def _circuits(self, endpoint: str) -> tuple[CircuitBreaker, ...]:
        """Return the circuits that a call of an endpoint must pass."""
        held = self._circuit_of(endpoint)
        return (self.breaker,) if held is self.breaker else (self.breaker, held)

    def _circuit_of(self, endpoint: str) -> CircuitBreaker:
        """Return the circuit that a `Retry-After` of an endpoint opens."""
        if not self.profile.holds_endpoints:
            return self.breaker
        if endpoint not in self._endpoints:
            self._endpoints[endpoint] = self._new_circuit(
                f"{self.profile.name} {endpoint}", is_judging=False
            )
        return self._endpoints[endpoint]

    def _new_circuit(self, name: str, *, is_judging: bool) -> CircuitBreaker:
        circuit = CircuitBreaker(
            self._breaker_settings, self._clock, name, is_judging=is_judging
        )
        circuit.on_change = partial(_report_state, name, circuit)
        # `on_change` reports changes only, and without one the gauge would be absent.
        _report_state(name, circuit, circuit.state)
        return circuit

    async def _wait_out(self, endpoint: str) -> None:
        """Wait while upstream has asked for a short wait.

        Raises `CircuitOpen` for a long one, and if too many calls have failed.
        """
        # No event ends the wait, only time.
        while left_s := await self._pause_left_s(endpoint):  # noqa: ASYNC110
            await asyncio.sleep(left_s)

    async def _pause_left_s(self, endpoint: str) -> float:
        """Return the seconds left of a short wait; raise `CircuitOpen` for a long one.

        A wait of upstream that other processes know counts too.
        """
        if self._shared is not None:
            self._hold(endpoint, await self._shared.read(self._holder(endpoint)))
        for each in self._circuits(endpoint):
            each.refuse_if_open()
        until_s = self._pauses.get(self._holder(endpoint), 0.0)
        return max(0.0, until_s - self._clock())

    def _hold(self, endpoint: str, wait_s: float) -> bool:
        """Let calls of an endpoint wait; return True if a circuit opens for it."""
        if self.breaker.is_forced:
            return False
        if wait_s > self._max_wait_s:
            return self._circuit_of(endpoint).hold(wait_s)
        if wait_s:
            name, until_s = self._holder(endpoint), self._clock() + wait_s
            self._pauses[name] = max(until_s, self._pauses.get(name, 0.0))
        return False

    def _holder(self, endpoint: str) -> str:
        """Return the name under which the waits of an endpoint are kept."""
        return endpoint if self.profile.holds_endpoints else ""

    @asynccontextmanager
    async def _guarded(self, endpoint: str) -> AsyncIterator[None]:
        """Count the outcome of a try, and obey its `Retry-After`."""
        try:
            async with AsyncExitStack() as stack:
                for each in self._circuits(endpoint):
                    await stack.enter_async_context(each.guard())
                yield
        except errors.CircuitOpen:
            raise
        except errors.UpstreamError as failure:
            # After the outcome was counted: a failed probe opens it for `open_s`.
            await self._obey(endpoint, failure)
            raise

    async def _obey(self, endpoint: str, failure: errors.UpstreamError) -> None:
        """Let all calls wait for the time that upstream has asked for."""
        if not failure.retry_after_s:
            return
        wait_s = min(failure.retry_after_s, self._max_hold_s)
        # A short wait is in the log line of the retry.
        if self._hold(endpoint, wait_s):
            log.warning(
                "upstream.breaker.held",
                upstream=self.profile.name,
                endpoint=endpoint,
                reason=failure.error_type,
                open_s=round(wait_s, 3),
            )
        if self._shared is not None:
            await self._shared.write(self._holder(endpoint), wait_s)

    def check_retry(self, endpoint: str, failure: errors.UpstreamError) -> None:
        """Raise `failure`, that of the last try, unless a retry may be made now."""
        # The budget last: `take_retry` counts a retry, which must then be made.
        reason = self._reason_against(endpoint, failure)
        if reason is None and not self._budget.take_retry():
            reason = "budget"
        if reason is None:
            return
        metrics.retry_refused(self.profile.name, reason)
        log.warning("upstream.retry_refused", upstream=self.profile.name, reason=reason)
        raise failure

    def _reason_against(
        self, endpoint: str, failure: errors.UpstreamError
    ) -> str | None:
        """Return why no retry of a failure may succeed now, or None."""
        if self.refuses_for_s(endpoint):
            return "circuit"
        if (failure.retry_after_s or 0.0) > self._max_wait_s:
            return "retry_after"
        if isinstance(failure, errors.TryTimedOut):
            return None if self.profile.repeats_timeouts else "timeout"
        return None


def _report_state(name: str, circuit: CircuitBreaker, state: CircuitState) -> None:
    # Until an operator gives it back, which no time does.
    refuses_for_s = math.inf if circuit.is_forced else circuit.refuses_for_s
    metrics.breaker_changed(name, state, refuses_for_s)


def _rate_limit(per_s: float) -> AsyncLimiter | None:
    """Return a limit whose bursts are the tries of one second, or one try."""
    if not per_s:
        return None
    # aiolimiter gives no permit if the capacity is less than one permit.
    return AsyncLimiter(per_s, 1.0) if per_s >= 1 else AsyncLimiter(1, 1 / per_s)
