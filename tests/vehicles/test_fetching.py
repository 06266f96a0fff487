"""The origin of answers: memory, the database, or vPIC; and how long they are fresh.

Each is the whole application, on each database, with vPIC played over a socket.
"""

import asyncio
import functools
from unittest.mock import Mock

import pytest

from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.vehicles.memory_cache import MemoryCache
from service.vehicles.store import VehicleStore
from tests.clock import Clock
from tests.conftest import Hurried, always
from tests.patience import GIVE_UP_S
from tests.vehicles.conftest import (
    KNOWN,
    OTHER,
    VIN,
    Serve,
    Until,
    VpicBarrier,
    VpicRequests,
    fields_of,
    on_sqlite,
    store_expired,
    vin,
    vins,
)

FRESH = "copilot-usage; hit"
STALE = "copilot-usage; hit; detail=stale"
RENEWED = "copilot-usage; fwd=stale; stored"
NOT_HELD = {"held_s": 0.0}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the memory caches of applications."""
    clock = Clock()
    driven = functools.partial(MemoryCache, clock=clock)
    monkeypatch.setattr("service.vehicles.asking.MemoryCache", driven)
    return clock


# --- kept, fresh and stale ----------------------------------------------------------


@on_sqlite
async def test_fresh_entry_is_used(
    serve: Serve, stored: VehicleStore, received: VpicRequests
) -> None:
    """For almost 30 days vPIC is not asked; the answer has the age."""
    await store_expired(stored, VIN, days=29.99)

    answer = await (await serve()).look_up(VIN)

    assert answer.body["make"] == "OTHER"
    assert answer.headers["Cache-Status"] == FRESH
    assert 29 * 86_400 < int(answer.headers["Age"]) < 30 * 86_400
    assert received.calls == 0


async def test_expired_entry_is_refreshed(
    serve: Serve, stored: VehicleStore, received: VpicRequests
) -> None:
    """After 30 days vPIC is asked, its answer is given and kept."""
    await store_expired(stored, VIN, days=30.01)
    one = await serve(vehicles=NOT_HELD)

    first, second = [await one.look_up(VIN) for _ in range(2)]

    assert first.body == {"vin": VIN, **fields_of(KNOWN[VIN]), "cached_result": False}
    assert (first.headers["Age"], first.headers["Cache-Status"]) == ("0", RENEWED)
    assert second.body == {**first.body, "cached_result": True}
    assert received.calls == 1


@on_sqlite
async def test_expired_entry_is_used_during_an_outage(
    serve: Serve, stored: VehicleStore, sandbox: RunningSandbox, received: VpicRequests
) -> None:
    """While vPIC is down the old answer is given, says so, and stays as old."""
    await store_expired(stored, VIN, days=31)
    sandbox.sandbox.faults = always("server_error")
    one = await serve()

    for calls in (1, 2):
        answer = await one.look_up(VIN)
        assert answer.status == 200
        assert answer.body == {"vin": VIN, **fields_of(OTHER), "cached_result": True}
        assert answer.headers["Cache-Status"] == STALE
        assert 31 * 86_400 <= int(answer.headers["Age"]) < 32 * 86_400
        assert received.calls == calls

    sandbox.sandbox.faults = Faults()
    assert (await one.look_up(VIN)).body["make"] == "PETERBILT"


@on_sqlite
async def test_expired_entry_is_used_while_vpic_is_slow(
    serve: Serve, stored: VehicleStore, received: VpicRequests, barrier: VpicBarrier
) -> None:
    """An expired entry is returned, and vPIC's later answer is for the next request."""
    await store_expired(stored, VIN)
    one = await serve(vehicles={"stale_wait_s": 0.01})
    barrier.close()

    early = [await one.look_up(VIN) for _ in range(3)]
    assert received.calls == 1
    barrier.open()
    async with asyncio.timeout(GIVE_UP_S):
        while (late := await one.look_up(VIN)).headers["Cache-Status"] == STALE:
            pass

    assert {each.headers["Cache-Status"] for each in early} == {STALE}
    assert {each.body["model"] for each in early} == {OTHER.model}
    assert late.body["model"] == KNOWN[VIN].model
    assert received.calls == 1


@on_sqlite
async def test_wait_counts_from_the_first_request(
    serve: Serve,
    stored: VehicleStore,
    *,
    received: VpicRequests,
    barrier: VpicBarrier,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wait counts from when the first has asked, not from each who joins."""
    clock = Clock()
    monkeypatch.setattr("service.vehicles.lookup.time", Mock(monotonic=clock))
    await store_expired(stored, VIN)
    one = await serve(vehicles={"stale_wait_s": 3_000.0, "deadline_s": 600.0})
    barrier.close()
    first = asyncio.create_task(one.look_up(VIN))
    await until(lambda: received.calls == 1)
    clock.pass_s(3_000.0)

    joined = await one.look_up(VIN)

    assert joined.headers["Cache-Status"] == STALE
    assert not first.done()
    barrier.open()
    assert (await first).body["model"] == KNOWN[VIN].model


@on_sqlite
async def test_batch_waits_for_new_vins(
    serve: Serve,
    stored: VehicleStore,
    received: VpicRequests,
    barrier: VpicBarrier,
    until: Until,
) -> None:
    """Something old beside it makes no look-up of a new VIN impatient."""
    await store_expired(stored, VIN)
    one = await serve(vehicles={"stale_wait_s": 0.0})
    barrier.close()
    asking = asyncio.create_task(one.look_up_all([VIN, *vins(1)]))
    await until(lambda: received.calls == 1)
    assert not asking.done()
    barrier.open()

    _, new = (await asking).body["results"]

    assert new["cached_result"] is False


# --- VINs without a vehicle ---------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize("days, calls", [(0.99, 0), (1.01, 1)])
async def test_undecoded_vin_expires(
    serve: Serve, stored: VehicleStore, received: VpicRequests, days: float, calls: int
) -> None:
    """After `missing_ttl_s`, a day, vPIC may have learnt of it."""
    await store_expired(stored, VIN, vehicle=None, days=days)

    answer = await (await serve()).look_up(VIN)

    assert answer.status == (200 if calls else 404)
    assert received.calls == calls


# --- not kept, and vPIC down --------------------------------------------------------


@on_sqlite
async def test_new_vin_is_unavailable_during_an_outage(
    serve: Serve, sandbox: RunningSandbox, received: VpicRequests
) -> None:
    """503, with the time that vPIC has named; until then vPIC is not asked."""
    sandbox.sandbox.faults = Faults(unavailable=1, retry_after="3600")
    one = await serve(vehicles={"attempts": 4})

    answers = [await one.look_up(VIN), await one.look_up(vin(1))]

    assert {each.problem for each in answers} == {(503, "vehicle_unavailable")}
    assert {each.headers["Retry-After"] for each in answers} == {"3600"}
    assert received.calls == 1


@on_sqlite
async def test_new_vin_is_looked_up_after_a_failure(
    serve: Serve, sandbox: RunningSandbox, received: VpicRequests
) -> None:
    """A failure is not remembered."""
    sandbox.sandbox.faults = always("server_error", times=1)
    one = await serve()

    assert (await one.look_up(VIN)).problem == (503, "vehicle_unavailable")
    assert (await one.look_up(VIN)).body["cached_result"] is False
    assert received.calls == 2


@on_sqlite
async def test_while_the_circuit_is_open(
    serve: Serve, stored: VehicleStore, sandbox: RunningSandbox, received: VpicRequests
) -> None:
    """vPIC is not asked: what is kept is given however old, the rest is 503."""
    await store_expired(stored, VIN)
    sandbox.sandbox.faults = always("server_error")
    one = await serve(breaker={"minimum_calls": 1, "open_s": 3_000.0})
    await one.look_up(vin(1))
    sandbox.sandbox.faults = Faults()

    stale, unknown = await one.look_up(VIN), await one.look_up(vin(2))

    assert stale.headers["Cache-Status"] == STALE
    assert unknown.problem == (503, "vehicle_unavailable")
    assert 2_000 < int(unknown.headers["Retry-After"]) <= 3_000
    assert received.calls == 1


@on_sqlite
@pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "not stored"])
async def test_deadline_bounds_a_look_up(
    serve: Serve,
    stored: VehicleStore,
    sandbox: RunningSandbox,
    *,
    hurried: Hurried,
    is_stored: bool,
) -> None:
    """After `deadline_s` there is an answer, whatever vPIC does."""
    if is_stored:
        await store_expired(stored, VIN)
    sandbox.sandbox.faults = always("hang")
    one = await serve(vehicles={"deadline_s": 10.0, "timeout_s": 10.0})

    async with hurried(10.0):
        answer = await one.look_up(VIN)

    assert answer.status == (200 if is_stored else 503)
    sandbox.sandbox.faults = Faults()
    one = await serve()
    assert (await one.look_up(VIN)).body["cached_result"] is False


# --- batches ------------------------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize(
    "count, batches, singles",
    [(1, 0, 1), (2, 1, 0), (50, 1, 0), (51, 1, 1), (52, 2, 0), (500, 10, 0)],
)
async def test_misses_go_in_batches(
    serve: Serve, received: VpicRequests, count: int, batches: int, singles: int
) -> None:
    """Of 50 at most; one that is left over is asked for alone."""
    answer = await (await serve()).look_up_all(vins(count))

    assert [each["vin"] for each in answer.body["results"]] == vins(count)
    assert all(each["model"] == "388" for each in answer.body["results"])
    assert (received.batches, received.calls) == (batches, batches + singles)
    assert set(received.vins.values()) == {1}


async def test_only_misses_are_asked_for(
    serve: Serve, stored: VehicleStore, received: VpicRequests
) -> None:
    """Fresh entries are used, whether they are in memory or in the database."""
    await store_expired(stored, vin(0), days=1)
    await store_expired(stored, vin(1))
    one = await serve()
    await one.look_up(vin(2))

    answer = await one.look_up_all(vins(5))

    assert [each["cached_result"] for each in answer.body["results"]] == [
        *(True, False, True, False, False)
    ]
    assert dict(received.vins) == {vin(each): 1 for each in (1, 2, 3, 4)}


@on_sqlite
async def test_batch_with_missing_rows(
    serve: Serve, stored: VehicleStore, sandbox: RunningSandbox
) -> None:
    """A VIN without a row is stale or unavailable, and is requested again later."""
    await store_expired(stored, *vins(4))
    sandbox.sandbox.faults = Faults(missing_rows=1)
    one = await serve(vehicles=NOT_HELD)

    results = (await one.look_up_all(vins(8))).body["results"]

    told = [each.get("cached_result") for each in results]
    assert told.count(False) == 4
    assert set(told[:4]) <= {True, False}
    assert {each.get("error") for each in results if "cached_result" not in each} <= {
        "vehicle_unavailable"
    }
    sandbox.sandbox.faults = Faults()
    results = (await one.look_up_all(vins(8))).body["results"]
    assert [each["cached_result"] for each in results] == [
        cached is False for cached in told
    ]


# --- several applications -----------------------------------------------------------


@on_sqlite
async def test_changes_by_other_processes_become_visible(
    serve: Serve, stored: VehicleStore, clock: Clock, received: VpicRequests
) -> None:
    """Changes by another process are visible after `held_s`."""
    one, other = await serve(), await serve()
    await one.look_up(VIN)
    await other.look_up(VIN)
    await stored.remove([VIN])
    clock.pass_s(0.9)
    assert (await one.look_up(VIN)).body["cached_result"] is True

    clock.pass_s(0.1)
    assert (await one.look_up(VIN)).body["cached_result"] is False
    assert received.calls == 2


async def test_without_memory_removals_are_visible_at_once(
    serve: Serve, received: VpicRequests
) -> None:
    """With `held_s` of 0 nobody answers what another has removed."""
    one, other = [await serve(vehicles=NOT_HELD) for _ in range(2)]
    await one.look_up(VIN)
    assert (await other.remove(VIN)).body["cache_delete_success"] is True

    assert (await one.look_up(VIN)).body["cached_result"] is False
    assert received.calls == 2
