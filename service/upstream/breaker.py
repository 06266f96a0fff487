"""The circuit breaker: while upstream is ill, fail at once and leave it in peace.

Closed, it counts the last calls; where too many of them failed or were slow it opens
and refuses all for `open_s`. Then, half-open, it lets a few calls through as probes:
they close it or open it again. docs/decisions/breaker.md argues each choice.
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

from service.settings import Breaker
from service.upstream import errors
from service.upstream.peers import COPILOT
from service.upstream.retries import RETRIED_STATUSES

Clock = Callable[[], float]
"""Tells the seconds since some fixed moment."""

Permit = NewType("Permit", int)
"""Leave for one call: the number of the state's period in which it was given."""

PROBE_S: Final = 1.0
"""How long a caller is told to wait while probes are under way."""

log = structlog.get_logger()


class State(StrEnum):
    """What a breaker does with calls."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """One circuit, shared by all calls of a client; not for several threads.

    An open circuit becomes half-open at the first call after its time, so `state`
    stays `OPEN` while nobody calls. `on_change` is called with each new state.
    """

    def __init__(
        self,
        settings: Breaker,
        clock: Clock = time.monotonic,
        upstream: str = COPILOT.name,
    ) -> None:
        self.on_change: Callable[[State], None] | None = None
        self._upstream = upstream
        self._settings = settings
        self._clock = clock
        self._state = State.CLOSED
        self._since_s = clock()
        self._period = 0
        self._probes_out = 0
        self._calls = _RecentCalls(settings.window_calls)
        self._room_for_a_probe = asyncio.Event()

    @property
    def state(self) -> State:
        """What it does with calls now."""
        return self._state

    @asynccontextmanager
    async def guard(self) -> AsyncIterator[None]:
        """Around one call: wait for leave or raise `CircuitOpen`; count how it ended.

        Whatever ends the call without telling of upstream, such as a caller that
        leaves, counts as nothing; one that has waited long tells that it was slow.
        Being shut out opens the circuit at once: each further call would make it worse.
        """
        while self._is_probing_fully():
            await self._room_for_a_probe.wait()
        permit = self.allow()
        started_s = self._clock()
        try:
            yield
        except errors.UpstreamError as error:
            taken_s = self._clock() - started_s
            self.record(permit, failed=is_failure(error), duration_s=taken_s)
            if is_shut_out(error) and permit == self._period:
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
        """Leave for one call, to be given to `record` or `release` at its end.

        Raises `CircuitOpen`.
        """
        self.refuse_if_open()
        if self._state is State.OPEN:
            self._half_open()
        if self._is_probing_fully():
            raise errors.CircuitOpen(PROBE_S)
        if self._state is State.HALF_OPEN:
            self._probes_out += 1
        return Permit(self._period)

    @property
    def refuses_for_s(self) -> float:
        """Seconds for which every call will still be refused; 0 unless it is open."""
        if self._state is not State.OPEN:
            return 0.0
        return max(0.0, self._since_s + self._settings.open_s - self._clock())

    def refuse_if_open(self) -> None:
        """Raise `CircuitOpen` if no call may be made yet."""
        if left_s := self.refuses_for_s:
            raise errors.CircuitOpen(left_s)

    def record(self, permit: Permit, *, failed: bool, duration_s: float) -> None:
        """Count a call. One that began in an earlier period tells nothing of this."""
        if permit != self._period:
            return
        self._calls.add(failed=failed, slow=duration_s >= self._settings.slow_call_s)
        if self._state is State.HALF_OPEN:
            self._probes_out -= 1
            self._judge_probes()
        elif len(self._calls) >= self._settings.minimum_calls:
            self._judge_calls()

    def release(self, permit: Permit) -> None:
        """Give leave back unused; if it was a probe's, another call may probe."""
        if permit == self._period and self._state is State.HALF_OPEN:
            self._probes_out -= 1
            self._wake_waiting()

    def _is_probing_fully(self) -> bool:
        return (
            self._state is State.HALF_OPEN
            and self._probes_out + len(self._calls) >= self._settings.half_open_calls
        )

    def _judge_calls(self) -> None:
        if self._is_ill(len(self._calls)):
            self._open()

    def _judge_probes(self) -> None:
        """Open as soon as the probes still out cannot make up for the bad ones."""
        if self._is_ill(self._settings.half_open_calls):
            self._open()
        elif len(self._calls) == self._settings.half_open_calls:
            self._close()

    def _is_ill(self, calls: int) -> bool:
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
        self._enter(State.OPEN, self._settings.window_calls)

    def _half_open(self) -> None:
        open_s = round(self._clock() - self._since_s, 3)
        log.info("upstream.breaker.half_opened", upstream=self._upstream, open_s=open_s)
        self._enter(State.HALF_OPEN, self._settings.half_open_calls)

    def _close(self) -> None:
        log.info(
            "upstream.breaker.closed", upstream=self._upstream, **self._calls.summary()
        )
        self._enter(State.CLOSED, self._settings.window_calls)

    def _enter(self, state: State, window_calls: int) -> None:
        self._state = state
        self._since_s = self._clock()
        self._period += 1
        self._probes_out = 0
        self._calls = _RecentCalls(window_calls)
        self._wake_waiting()
        if self.on_change is not None:
            self.on_change(state)

    def _wake_waiting(self) -> None:
        self._room_for_a_probe.set()
        self._room_for_a_probe = asyncio.Event()


class _RecentCalls:
    """The last `size` calls: how many there were, failed, and were slow."""

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
    """Whether an error is a sign of upstream's ill health, rather than of the asking.

    No answer, a broken one, 5xx, "too much" and being shut out are; what upstream
    answers soundly and would answer again, such as 404 or a body of another shape, is
    not.
    """
    if isinstance(error, errors.UnexpectedStatus):
        is_server_error = error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        is_busy = error.status in RETRIED_STATUSES
        return is_server_error or is_busy or is_shut_out(error)
    return is_shut_out(error) or isinstance(
        error, errors.Unreachable | errors.MalformedBody
    )


def is_shut_out(error: errors.UpstreamError) -> bool:
    """Whether we are not wanted: it is said by a status, or by a page for people."""
    return isinstance(error, errors.ShutOut | errors.WrongMediaType)
