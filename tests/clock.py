"""Time that a test lets pass by hand: a clock of ours, and the event loop's."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from unittest.mock import patch

import pytest

from service.usage.cache import SnapshotCache

LOOP_TURNS = 10
"""Turns of the event loop in which callbacks that are due run, and what they wake."""


class Clock:
    """Seconds since some moment, passed by hand."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        """Let so many seconds go by."""
        self.now_s += seconds


def drive_periods(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Make applications started from now on age their snapshots and reports by it.

    Time-outs, deadlines and the protection of upstream keep to real time.
    """
    driven = functools.partial(SnapshotCache, clock=clock)
    monkeypatch.setattr("service.app.SnapshotCache", driven)


class LoopTime:
    """Time of the running event loop: real time, and what a test lets pass.

    A test with long time-outs ends them by it, and depends on no machine's speed.
    """

    def __init__(self) -> None:
        self._real = asyncio.get_running_loop().time
        self._passed_s = 0.0

    def __call__(self) -> float:
        return self._real() + self._passed_s

    def skip_s(self, seconds: float) -> None:
        """Let so many seconds go by while the loop is blocked."""
        self._passed_s += seconds

    async def pass_s(self, seconds: float) -> None:
        """Let so many seconds go by, and run the callbacks that are due by then."""
        self.skip_s(seconds)
        for _ in range(LOOP_TURNS):
            await asyncio.sleep(0)

    @asynccontextmanager
    async def passing(
        self, seconds: float, *, at_each: Callable[[], int]
    ) -> AsyncIterator[None]:
        """Let so many seconds go by each time that a count grows by one."""
        task = asyncio.create_task(self._pass_at_each(at_each, seconds))
        try:
            yield
        finally:
            task.cancel()

    async def _pass_at_each(self, count: Callable[[], int], seconds: float) -> None:
        seen = count()
        while True:
            if count() > seen:
                seen += 1
                await self.pass_s(seconds)
            await asyncio.sleep(0)


@contextmanager
def passing_loop_time() -> Iterator[LoopTime]:
    """Replace the clock of the running event loop."""
    time = LoopTime()
    with patch.object(asyncio.get_running_loop(), "time", time):
        yield time
