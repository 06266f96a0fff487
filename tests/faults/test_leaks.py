"""Hundreds of refreshes with faults leak no task, file or memory.

Every answer meanwhile is a correct bill or a problem.
"""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import cycle, islice
from typing import Final

import pytest
from aiohttp import ClientSession
from structlog.typing import EventDict

from service.sandbox.faults import FAULTS, MESSAGES_PATH, REPORTS_PREFIX
from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from tests.clock import Clock
from tests.conftest import Hurried, MakeSettings, always
from tests.faults.cells import LEASE, OLD, bill_of
from tests.faults.matrix import serving
from tests.leftovers import open_files

Until = Callable[[Callable[[], bool]], Awaitable[None]]

REFRESHES: Final = 200
TRY_S: Final = 10.0
MAX_GROWTH_BYTES: Final = 64 * 1024
"""A third of a KiB for each refresh."""

SLOW: Final = frozenset({"hang", "slow_drip", "gzip_bomb"})
"""Faults with a time-out or much computing, which are used once each."""

BILL: Final = bill_of(OLD, {7: LEASE})
BILL_BY_TEXT: Final = bill_of(OLD, {})
"""Correct too, while the upstream has no such report."""


class Service:
    """The service with its upstream and its clock."""

    def __init__(
        self, session: ClientSession, upstream: RunningSandbox, clock: Clock
    ) -> None:
        self._session = session
        self._upstream = upstream
        self._clock = clock

    async def refresh(self, faults: Faults) -> int:
        """Request the bill after the cache expired; check it, and return the status."""
        self._upstream.sandbox.faults = faults
        self._clock.pass_s(1_000)
        response = await self._session.get("/usage")
        body = await response.read()
        if response.status == 200:
            assert body == (BILL_BY_TEXT if faults.not_found else BILL)
        else:
            assert response.status == 503
        return response.status


def faults_of(name: str) -> list[Faults]:
    """Return the fault for the messages, for the reports, and for one call."""
    return [
        always(name, path=MESSAGES_PATH, retry_after=""),
        always(name, path=REPORTS_PREFIX, retry_after=""),
        always(name, times=1, retry_after=""),
        Faults(),
    ]


def quick_faults(count: int) -> list[Faults]:
    """Return this number of faults, all kinds in turn."""
    kinds = [each for name in FAULTS if name not in SLOW for each in faults_of(name)]
    return list(islice(cycle(kinds), count))


@pytest.fixture
async def service(
    settings: MakeSettings, sandbox: RunningSandbox
) -> AsyncIterator[Service]:
    """A service with two tries for each call."""
    sandbox.sandbox.set_messages(OLD)
    sandbox.sandbox.set_report(7, LEASE)
    made = settings(
        server={"port": 0, "drain_s": 0.0},
        upstream={
            "base_url": sandbox.url,
            "attempts": 2,
            "timeout_s": TRY_S,
            "deadline_s": 60.0,
            "retry_after_max_s": 0.0,
            "retry_floor": 1_000_000,
            "max_body_bytes": 100_000,
        },
        breaker={"failure_rate": 1.0, "slow_rate": 1.0, "minimum_calls": 100},
    )
    clock = Clock()
    async with serving(made, clock) as session:
        yield Service(session, sandbox, clock)


async def test_faults_leak_no_task_and_no_file(
    service: Service, sandbox: RunningSandbox, until: Until, hurried: Hurried
) -> None:
    """After any fault the task ends, and the connection is closed or reused."""
    assert await service.refresh(Faults()) == 200
    tasks, files = len(asyncio.all_tasks()), len(open_files())

    statuses = [await service.refresh(each) for each in quick_faults(REFRESHES)]
    for name in sorted(SLOW):
        async with hurried(TRY_S, MESSAGES_PATH):
            statuses.append(await service.refresh(always(name, path=MESSAGES_PATH)))
    assert set(statuses) == {200, 503}
    assert await service.refresh(Faults()) == 200

    await until(lambda: sandbox.sandbox.in_flight == 0)
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
    assert len(open_files()) <= files


async def test_faults_leak_no_memory(
    service: Service, log_entries: list[EventDict]
) -> None:
    """The second series of refreshes needs no more memory than the first."""
    tracemalloc.start()
    try:
        used = []
        for _ in range(2):
            for faults in quick_faults(REFRESHES):
                await service.refresh(faults)
                log_entries.clear()
            gc.collect()
            used.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()

    assert used[1] - used[0] < MAX_GROWTH_BYTES


async def test_a_shutdown_during_a_refresh_leaks_nothing(
    settings: MakeSettings, sandbox: RunningSandbox, until: Until
) -> None:
    """The shutdown cancels the refresh and its hanging call."""
    sandbox.sandbox.faults = always("hang")
    tasks, files = len(asyncio.all_tasks()), len(open_files())
    made = settings(
        server={"port": 0, "drain_s": 0.0, "shutdown_grace_s": 0.05},
        upstream={"base_url": sandbox.url, "timeout_s": 60.0, "deadline_s": 60.0},
    )
    async with serving(made, Clock()) as session:
        request = asyncio.create_task(session.get("/usage"))
        await until(lambda: sandbox.sandbox.in_flight == 1)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert sandbox.sandbox.in_flight == 1, "the refresh goes on without a client"

    await until(lambda: sandbox.sandbox.in_flight == 0)
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
    assert len(open_files()) <= files
