"""Single look-ups that wait for vPIC share a call, and fail one by one."""

import asyncio
from typing import Any, Final

import pytest
from aiohttp import web

from service.sandbox.fake_vpic import FakeVpic, VinQuery
from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.settings import load
from service.vehicles import turns
from service.vehicles.errors import VehicleUnavailable
from service.vehicles.model import Found, Vin
from service.vehicles.pending import Fetch
from service.vehicles.store import VehicleStore
from tests.clock import LoopTime
from tests.conftest import MakeSettings, always
from tests.metric_samples import value
from tests.patience import GIVE_UP_S
from tests.vehicles.conftest import (
    VIN,
    Answer,
    Caller,
    Open,
    Serve,
    Until,
    VpicBarrier,
    VpicRequests,
    on_sqlite,
    vin,
    vins,
)

LONG: Final = {"queue_wait_s": 60.0}
ONE_CALL: Final = {"concurrency": 1, "requests_per_s": 0.0}


def waiting() -> float:
    """Return the number of VINs that wait for a call."""
    return value("copilot_usage_lane_waiting", lane="vpic_calls")


class Queue:
    """A service whose only call is in progress, and look-ups that wait behind it."""

    def __init__(self, one: Caller, busy: asyncio.Task[Answer], until: Until) -> None:
        self.one = one
        self.busy = busy
        self._until = until

    async def add(self, *asked: str, before: int = 0) -> list[asyncio.Task[Answer]]:
        """Let single look-ups wait, behind as many others."""
        await self._until(lambda: waiting() >= before)
        before = int(waiting())
        tasks = [asyncio.create_task(self.one.look_up(each)) for each in asked]
        await self._until(lambda: waiting() == before + len(asked))
        return tasks


@pytest.fixture
async def queue(
    serve: Serve, received: VpicRequests, barrier: VpicBarrier, until: Until
) -> Queue:
    """A queue behind a call that lasts until the barrier is opened."""
    barrier.close()
    one = await serve(vehicles=ONE_CALL, limits=LONG)
    busy = asyncio.create_task(one.look_up(VIN))
    await until(lambda: received.calls == 1)
    return Queue(one, busy, until)


async def results(tasks: list[asyncio.Task[Answer]]) -> list[tuple[int, Any]]:
    """Return the statuses and codes of answers."""
    answers = await asyncio.gather(*tasks)
    return [(each.status, each.body.get("code")) for each in answers]


@on_sqlite
async def test_those_that_wait_share_a_call(
    queue: Queue, received: VpicRequests, barrier: VpicBarrier
) -> None:
    """85 look-ups behind one call make two calls: a full one and the rest."""
    tasks = await queue.add(*vins(40))
    tasks += await queue.add(*vins(85)[40:])
    barrier.open()

    assert await results(tasks) == [(200, None)] * 85
    assert (received.batches, received.calls) == (2, 3)
    assert set(received.vins.values()) == {1}


@on_sqlite
async def test_a_call_waits_for_no_results_to_be_stored(
    opened: Open,
    received: VpicRequests,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The only call begins again while its results before are being stored."""
    may_save, save = asyncio.Event(), VehicleStore.save

    async def save_late(*args: Any) -> set[Vin]:
        await may_save.wait()
        return await save(*args)

    monkeypatch.setattr(VehicleStore, "save", save_late)
    async with opened(vehicles=ONE_CALL | {"storage_wait_s": GIVE_UP_S}) as lookups:
        first = asyncio.create_task(lookups.look_up(VIN))
        await until(lambda: received.calls == 1)
        second = asyncio.create_task(lookups.look_up(vin(0)))
        await until(lambda: received.calls == 2)
        may_save.set()

        assert [(await each).is_stored for each in (first, second)] == [True, True]


@on_sqlite
async def test_a_lone_look_up_waits_for_no_others(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent at once, also soon after start."""
    monkeypatch.setattr(turns, "GATHER_S", 2 * GIVE_UP_S)
    one = await serve()
    async with asyncio.timeout(GIVE_UP_S):
        assert (await one.look_up(VIN)).status == 200


async def test_a_lone_look_up_is_not_spaced_after_a_large_call(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for others as long as after a small call; two wait for the pace."""
    monkeypatch.setattr(turns, "BUSY_S", 1e6)
    made = settings(vehicles={"requests_per_s": 0.001, "deadline_s": 20.0})
    waiting_queries = turns.QueryQueue(made)

    def add(*queries: Vin) -> None:
        waiting_queries.add(turns.Group(Fetch({}, "client"), queries), queries)

    add(*vins(turns.BUSY_QUERIES))
    waiting_queries.take()
    add(vin(11))
    assert waiting_queries.gathers_for_s <= turns.GATHER_S
    add(vin(12))
    assert waiting_queries.gathers_for_s > turns.GATHER_S


@on_sqlite
async def test_a_vin_without_a_row_fails_alone(
    queue: Queue, sandbox: RunningSandbox, barrier: VpicBarrier
) -> None:
    """The others of the call get their vehicles."""
    tasks = await queue.add(*vins(10))
    sandbox.sandbox.faults = Faults(missing_rows=1)
    barrier.open()

    outcomes = await results(tasks)

    assert outcomes.count((200, None)) == 5
    assert outcomes.count((503, "vehicle_unavailable")) == 5


@on_sqlite
async def test_a_client_that_leaves_takes_its_vin_away(
    queue: Queue, received: VpicRequests, barrier: VpicBarrier, until: Until
) -> None:
    """Its VIN is not in the call of the others."""
    leaving, *others = await queue.add(*vins(3))
    leaving.cancel()
    await until(lambda: waiting() == 2)
    barrier.open()

    assert await results(others) == [(200, None)] * 2
    assert set(received.vins) == {VIN, vin(1), vin(2)}


@on_sqlite
async def test_a_vin_with_many_hints_keeps_no_result_back(
    queue: Queue, barrier: VpicBarrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hint is in a call of its own, and the first call has all other VINs."""
    receive, never = FakeVpic.receive, asyncio.Event()

    async def hold_1991(vpic: FakeVpic, request: web.Request) -> VinQuery:
        query = await receive(vpic, request)
        if "1991" in query.years:
            await never.wait()
        return query

    monkeypatch.setattr(FakeVpic, "receive", hold_1991)
    hints = [{"vin": vin(0), "model_year": year} for year in (1990, 1991)]
    late = asyncio.create_task(queue.one.look_up_all(hints))
    others = await queue.add(*vins(10)[1:], before=2)
    barrier.open()

    async with asyncio.timeout(GIVE_UP_S):
        assert await results(others) == [(200, None)] * 9
        assert (await queue.one.look_up(vin(0), model_year="1990")).status == 200
    never.set()
    assert all("error" not in each for each in (await late).body["results"])


@pytest.fixture
def _refusing(sandbox: RunningSandbox) -> None:
    """Let vPIC ask for an hour."""
    sandbox.sandbox.faults = always("too_many_requests", retry_after="3600")


@on_sqlite
@pytest.mark.usefixtures("_refusing")
async def test_a_retry_after_ends_all_waits(
    queue: Queue, received: VpicRequests, barrier: VpicBarrier
) -> None:
    """vPIC names an hour: no call is made for those that wait."""
    tasks = await queue.add(*vins(60))
    barrier.open()

    answers = await asyncio.gather(queue.busy, *tasks)

    assert {each.problem for each in answers} == {(503, "vehicle_unavailable")}
    assert [each.headers["Retry-After"] for each in answers] == ["3600"] * 61
    assert received.calls == 1


@on_sqlite
async def test_each_look_up_has_its_own_deadline(
    opened: Open,
    received: VpicRequests,
    *,
    barrier: VpicBarrier,
    until: Until,
    loop_time: LoopTime,
) -> None:
    """A look-up whose time has passed fails; the call goes on for the others."""
    times = {"deadline_s": 600.0, "timeout_s": 600.0}
    barrier.close()
    async with opened(vehicles=ONE_CALL | times, limits=LONG) as lookups:
        busy = asyncio.create_task(lookups.look_up(VIN))
        await until(lambda: received.calls == 1)
        await loop_time.pass_s(550.0)
        late = asyncio.create_task(lookups.look_up(vin(1)))
        await until(lambda: waiting() == 1)
        await loop_time.pass_s(51.0)
        with pytest.raises(VehicleUnavailable):
            await busy
        assert not late.done()
        barrier.open()

        assert (await late).result == "miss"


@on_sqlite
async def test_a_late_answer_is_stored(
    opened: Open,
    stored: VehicleStore,
    received: VpicRequests,
    *,
    barrier: VpicBarrier,
    until: Until,
    loop_time: LoopTime,
) -> None:
    """A call that began late goes on after the deadline of a look-up."""
    times = {"deadline_s": 600.0, "timeout_s": 600.0}
    pace = {"concurrency": 8, "requests_per_s": 0.01}
    async with opened(vehicles=pace | times, limits={"queue_wait_s": 999.0}) as lookups:
        await lookups.look_up(VIN)
        barrier.close()
        early = asyncio.create_task(lookups.look_up(vin(0)))
        await until(lambda: waiting() == 1)
        await loop_time.pass_s(101.0)
        await until(lambda: received.calls == 2)
        await loop_time.pass_s(500.0)
        with pytest.raises(VehicleUnavailable):
            await early
        barrier.open()

        async with asyncio.timeout(GIVE_UP_S):
            while (await stored.find([vin(0)]))[vin(0)].entry is None:
                pass
    assert received.vins[vin(0)] == 1


@on_sqlite
async def test_a_slow_vpic_is_waited_for(
    opened: Open,
    received: VpicRequests,
    *,
    barrier: VpicBarrier,
    until: Until,
    loop_time: LoopTime,
) -> None:
    """With the usual settings, an answer after 14 s is one; a try is made once."""
    usual = load().settings.vehicles
    times = {"deadline_s": usual.deadline_s, "timeout_s": usual.timeout_s}
    barrier.close()
    async with opened(vehicles=times | {"attempts": usual.attempts}) as lookups:
        asking = asyncio.create_task(lookups.look_up_all(vins(100)))
        await until(lambda: received.calls == 2)
        await loop_time.pass_s(14.0)
        barrier.open()
        found = await asking
        barrier.close()
        late = asyncio.create_task(lookups.look_up(VIN))
        await until(lambda: received.calls == 3)
        await loop_time.pass_s(15.0)
        with pytest.raises(VehicleUnavailable):
            await late

    assert all(isinstance(each, Found) for each in found.values())
    assert received.calls == 3
