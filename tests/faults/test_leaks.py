"""After hundreds of refreshes, most of them faulted, nothing more is left.

Tasks, open files and memory are counted before and after; and whatever was answered
meanwhile was a right bill or a problem, never anything else.
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
from tests.faults.matrix import LEASE, OLD, bill_of, serving
from tests.leftovers import open_files

Until = Callable[[Callable[[], bool]], Awaitable[None]]

REFRESHES: Final = 200
TRY_S: Final = 10.0
MOST_GROWTH_BYTES: Final = 64 * 1024
"""A third of a kibibyte for each refresh."""

SLOW: Final = frozenset({"hang", "slow_drip", "gzip_bomb"})
"""Faults that take a time-out or much computing: those strike once each."""

BILL: Final = bill_of(OLD, {7: LEASE})
BILL_BY_TEXT: Final = bill_of(OLD, {})
"""Right as well, while upstream says that there is no such report."""


class Service:
    """The service, its upstream and its clock, to be asked again and again."""

    def __init__(
        self, session: ClientSession, upstream: RunningSandbox, clock: Clock
    ) -> None:
        self._session = session
        self._upstream = upstream
        self._clock = clock

    async def refresh(self, faults: Faults) -> int:
        """Ask once when nothing held is any good; what is sent is right, or a 503."""
        self._upstream.sandbox.faults = faults
        self._clock.pass_s(1_000)
        response = await self._session.get("/usage")
        body = await response.read()
        if response.status == 200:
            assert body == (BILL_BY_TEXT if faults.not_found else BILL)
        else:
            assert response.status == 503
        return response.status


def strikes(name: str) -> list[Faults]:
    """A fault of the messages, one of the reports, and one that passes."""
    return [
        always(name, path=MESSAGES_PATH),
        always(name, path=REPORTS_PREFIX),
        always(name, times=1),
        Faults(),
    ]


def quick_faults(count: int) -> list[Faults]:
    """So many, all kinds in turn."""
    turn = [each for name in FAULTS if name not in SLOW for each in strikes(name)]
    return list(islice(cycle(turn), count))


@pytest.fixture
async def service(
    settings: MakeSettings, sandbox: RunningSandbox
) -> AsyncIterator[Service]:
    """It gives each refresh two tries, and holds nothing beyond its time."""
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


async def test_faults_leave_no_task_and_no_file(
    service: Service, sandbox: RunningSandbox, until: Until, hurried: Hurried
) -> None:
    """Whatever befalls a try, its task ends and its connection is closed or reused."""
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


async def test_faults_do_not_fill_the_memory(
    service: Service, log_entries: list[EventDict]
) -> None:
    """The second hundreds of refreshes need no more than the first left behind."""
    tracemalloc.start()
    try:
        held = []
        for _ in range(2):
            for faults in quick_faults(REFRESHES):
                await service.refresh(faults)
                log_entries.clear()
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()

    assert held[1] - held[0] < MOST_GROWTH_BYTES


async def test_a_service_that_ends_amid_a_refresh_leaves_nothing(
    settings: MakeSettings, sandbox: RunningSandbox, until: Until
) -> None:
    """Its refresh is ended with it, and so is the call that hangs upstream."""
    sandbox.sandbox.faults = always("hang")
    tasks, files = len(asyncio.all_tasks()), len(open_files())
    made = settings(
        server={"port": 0, "drain_s": 0.0, "shutdown_grace_s": 0.05},
        upstream={"base_url": sandbox.url, "timeout_s": 60.0, "deadline_s": 60.0},
    )
    async with serving(made, Clock()) as session:
        asking = asyncio.create_task(session.get("/usage"))
        await until(lambda: sandbox.sandbox.in_flight == 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert sandbox.sandbox.in_flight == 1, "nobody waits, yet it goes on"

    await until(lambda: sandbox.sandbox.in_flight == 0)
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
    assert len(open_files()) <= files
