"""Circuit breaker: while an upstream is failing, calls fail at once.

A closed circuit counts the last calls. If too many failed or were slow, it opens and
refuses all calls for `open_s`. Then it is half-open and permits a few calls as probes,
which close it or open it again. A `Retry-After` of upstream opens it for that time.
docs/decisions/breaker.md explains each choice.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from http import HTTPStatus
from typing import Final, NewType

import structlog

from service.settings import BreakerSettings
from service.upstream import errors
from service.upstream.profiles import COPILOT
from service.upstream.retries import is_retried

MonotonicClock = Callable[[], float]
"""Returns the seconds since a fixed moment."""

Permit = NewType("Permit", int)
"""Permission for one call: the number of the period in which it was given.

Each change of the state begins a period.
"""

HOLD_TOLERANCE_S: Final = 0.05
"""Part of a wait that makes no new wait: it is known already, but less exactly."""
PROBE_S: Final = 1.0
"""`Retry-After` of refused calls while probes are in flight."""

log = structlog.get_logger()


class CircuitState(StrEnum):
    """State of a circuit."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """One circuit, shared by all calls of a client, in one thread.

    An open circuit becomes half-open at the first call after `open_s`, so `state` stays
    `OPEN` without calls. `on_change` is called with each new state. With `is_judging`
    false, failures never open it while it is closed.
    """

    def __init__(
        self,
        settings: BreakerSettings,
        clock: MonotonicClock = time.monotonic,
        upstream: str = COPILOT.name,
        *,
        is_judging: bool = True,
    ) -> None:
        self.is_forced = False
        """True while an operator has set the state, which no call changes."""
        self.on_change: Callable[[CircuitState], None] | None = None
        self._upstream = upstream
        self._settings = settings
        self._clock = clock
        self._is_judging = is_judging
        self._state = CircuitState.CLOSED
        self._since_s = self._until_s = clock()
        self._is_held = False
        self._probes = settings.half_open_calls
        self._period = 0
        self._probes_in_flight = 0
        self._calls = _RecentCalls(settings.window_calls)
        self._probe_possible = asyncio.Event()

    @property
    def state(self) -> CircuitState:
        """The current state."""
        return self._state

    def force(self, state: CircuitState | None) -> None:
        """Keep the circuit open or closed; None closes it and judges calls again."""
        self.is_forced = state is not None
        self._is_held = False
        self._enter(state or CircuitState.CLOSED, self._settings.window_calls)

    def hold(self, wait_s: float) -> bool:
        """Refuse calls for the time that upstream has asked for, then permit a probe.

        Return True if it was not held for so long already. A circuit that is open for
        longer, or that an operator has set, stays as it is.
        """
        until_s = self._clock() + wait_s
        left_s = self.refuses_for_s
        if self.is_forced or wait_s <= left_s + HOLD_TOLERANCE_S:
            return False
        was_held = left_s > 0 and self._is_held
        self._is_held = True
        self._until_s = until_s
        self._enter(CircuitState.OPEN, self._settings.window_calls)
        return not was_held

    @asynccontextmanager
    async def guard(self) -> AsyncIterator[None]:
        """Guard one call: wait for a permit or raise `CircuitOpen`; count the outcome.

        A call that is cancelled counts as slow after `slow_call_s`, and otherwise not
        at all. An upstream that blocks us opens the circuit at once.
        """
        # A loop: the event wakes all waiting calls, and another may be the probe.
        while self._has_all_probes():
            await self._probe_possible.wait()
        permit = self.allow()
        started_s = self._clock()
        try:
            yield
        except errors.CircuitOpen:  # of another circuit: no call was made
            self.release(permit)
            raise
        except errors.UpstreamError as error:
            taken_s = self._clock() - started_s
            self.record(permit, failed=is_failure(error), duration_s=taken_s)
            # `record` may have opened the circuit, and older calls do not count.
            if blocks_us(error) and permit == self._period and not self.is_forced:
                self._open()
            raise
        except BaseException:
            taken_s = self._clock() - started_s
            if taken_s >= self._settings.slow_call_s:
                self.record(permit, failed=False, duration_s=taken_s)
            else:
                self.release(permit)
            raise
        self.record(permit, failed=False, duration_s=self._clock() - started_s)

    def allow(self) -> Permit:
        """Return a permit for one call; its end is `record` or `release`.

        Raises `CircuitOpen`.
        """
        self.refuse_if_open()
        if self._state is CircuitState.OPEN:
            self._half_open()
        if self._has_all_probes():
            raise errors.CircuitOpen(PROBE_S)
        if self._state is CircuitState.HALF_OPEN:
            self._probes_in_flight += 1
        return Permit(self._period)

    @property
    def refuses_for_s(self) -> float:
        """Seconds for which calls are still refused; 0 unless the circuit is open.

        A circuit that is kept open has no end: then it is `open_s`, to try again.
        """
        if self._state is not CircuitState.OPEN:
            return 0.0
        if self.is_forced:
            return self._settings.open_s
        return max(0.0, self._until_s - self._clock())

    def refuse_if_open(self) -> None:
        """Raise `CircuitOpen` if no call may be made yet."""
        if left_s := self.refuses_for_s:
            raise errors.CircuitOpen(left_s)

    def record(self, permit: Permit, *, failed: bool, duration_s: float) -> None:
        """Count a call, unless it began in an earlier period."""
        if permit != self._period or self.is_forced:
            return
        self._calls.add(failed=failed, slow=duration_s >= self._settings.slow_call_s)
        if self._state is CircuitState.HALF_OPEN:
            self._probes_in_flight -= 1
            self._judge_probes()
        elif self._is_judging and len(self._calls) >= self._settings.minimum_calls:
            self._judge_calls()

    def release(self, permit: Permit) -> None:
        """Return an unused permit; another call may be the probe instead."""
        if permit == self._period and self._state is CircuitState.HALF_OPEN:
            self._probes_in_flight -= 1
            self._wake_waiting_calls()

    def _has_all_probes(self) -> bool:
        return (
            self._state is CircuitState.HALF_OPEN
            and self._probes_in_flight + len(self._calls) >= self._probes
        )

    def _judge_calls(self) -> None:
        if self._is_failing(len(self._calls)):
            self._open()

    def _judge_probes(self) -> None:
        """Open as soon as the probes in flight can no longer close the circuit."""
        if self._is_failing(self._probes):
            self._open()
        elif len(self._calls) == self._probes:
            self._close()

    def _is_failing(self, calls: int) -> bool:
        settings = self._settings
        return (
            self._calls.failed / calls >= settings.failure_rate
            or self._calls.slow / calls >= settings.slow_rate
        )

    def _open(self) -> None:
        log.warning(
            "upstream.breaker.opened",
            upstream=self._upstream,
            **self._calls.summary(),
            open_s=self._settings.open_s,
        )
        self._is_held = False
        self._until_s = self._clock() + self._settings.open_s
        self._enter(CircuitState.OPEN, self._settings.window_calls)

    def _half_open(self) -> None:
        open_s = round(self._clock() - self._since_s, 3)
        log.info("upstream.breaker.half_opened", upstream=self._upstream, open_s=open_s)
        # Upstream has named the time itself, so one probe shows that it is over.
        self._probes = 1 if self._is_held else self._settings.half_open_calls
        self._is_held = False
        self._enter(CircuitState.HALF_OPEN, self._probes)

    def _close(self) -> None:
        log.info(
            "upstream.breaker.closed", upstream=self._upstream, **self._calls.summary()
        )
        self._enter(CircuitState.CLOSED, self._settings.window_calls)

    def _enter(self, state: CircuitState, window_calls: int) -> None:
        self._state = state
        self._since_s = self._clock()
        self._period += 1
        self._probes_in_flight = 0
        self._calls = _RecentCalls(window_calls)
        self._wake_waiting_calls()
        if self.on_change is not None:
            self.on_change(state)

    def _wake_waiting_calls(self) -> None:
        self._probe_possible.set()
        # A new event, because one that stays set would let later calls spin.
        self._probe_possible = asyncio.Event()


class _RecentCalls:
    """Counts of the last `size` calls: all, failed, and slow."""

    def __init__(self, size: int) -> None:
        self._calls: deque[tuple[bool, bool]] = deque()
        self._size = size
        self.failed = 0
        self.slow = 0

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, *, failed: bool, slow: bool) -> None:
        if len(self._calls) == self._size:
            old_failed, old_slow = self._calls.popleft()
            self.failed -= old_failed
            self.slow -= old_slow
        self._calls.append((failed, slow))
        self.failed += failed
        self.slow += slow

    def summary(self) -> dict[str, float]:
        calls = len(self._calls)
        return {
            "failure_rate": round(self.failed / calls, 4),
            "slow_rate": round(self.slow / calls, 4),
            "calls": calls,
        }


def is_failure(error: errors.UpstreamError) -> bool:
    """Return True if an error means that upstream is failing, not that a call is wrong.

    No answer, a malformed one, 5xx, 429 and a blocking status are failures. An answer
    that upstream would repeat, such as 404 or a body of another schema, is not.
    """
    if isinstance(error, errors.UnexpectedStatus):
        is_server_error = error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        return is_server_error or is_retried(error.status) or blocks_us(error)
    return blocks_us(error) or isinstance(
        error, errors.Unreachable | errors.MalformedBody
    )


def blocks_us(error: errors.UpstreamError) -> bool:
    """Return True if upstream blocks us, which it shows by a status or by HTML."""
    return isinstance(error, errors.Blocked | errors.WrongMediaType)
