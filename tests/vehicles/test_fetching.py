"""Where a look-up's answer comes from: memory, the database, or vPIC; and for how long.

Each is the whole application, on each database, with vPIC played over a socket.
"""

import asyncio
import functools
from unittest.mock import Mock

import pytest

from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.vehicles.memory import Memory
from service.vehicles.model import Entry
from service.vehicles.store import VehicleStore
from tests.clock import Clock
from tests.conftest import Hurried, always
from tests.patience import GIVE_UP_S
from tests.vehicles.conftest import (
    KNOWN,
    OTHER,
    UNKNOWN,
    VIN,
    Asked,
    Gate,
    Serve,
    Until,
    fields_of,
    keep_old,
    on_sqlite,
    vin,
    vins,
)

FRESH = "copilot-usage; hit"
STALE = "copilot-usage; hit; detail=stale"
MISS = "copilot-usage; fwd=miss; stored"
RENEWED = "copilot-usage; fwd=stale; stored"
NOT_HELD = {"held_s": 0.0}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What the memory of applications started from now on measures time by."""
    clock = Clock()
    driven = functools.partial(Memory, clock=clock)
    monkeypatch.setattr("service.vehicles.fetching.Memory", driven)
    return clock


# --- kept, fresh and stale ----------------------------------------------------------


@pytest.mark.parametrize("vehicles", [{}, NOT_HELD], ids=["memory", "database"])
async def test_what_was_told_is_not_asked_again(
    serve: Serve, asked: Asked, vehicles: dict[str, float]
) -> None:
    """The first look-up asks, later ones are answered from what is kept."""
    one = await serve(vehicles=vehicles)

    answers = [await one.look_up(VIN) for _ in range(3)]

    assert [each.body["cached_result"] for each in answers] == [False, True, True]
    assert {each.body["model"] for each in answers} == {"388"}
    assert [each.headers["Cache-Status"] for each in answers] == [MISS, FRESH, FRESH]
    assert asked.calls == 1


async def test_it_outlives_the_process(serve: Serve, asked: Asked) -> None:
    """What one application was told another one knows, which starts later."""
    await (await serve()).look_up(VIN)
    other = await serve()

    answer = await other.look_up(VIN)

    assert answer.body["cached_result"] is True
    assert answer.headers["Cache-Status"] == FRESH
    assert asked.calls == 1


@on_sqlite
async def test_what_is_fresh_is_not_asked_for(
    serve: Serve, kept: VehicleStore, asked: Asked
) -> None:
    """For 30 days, less a little, vPIC is left in peace; its age is told."""
    await keep_old(kept, VIN, days=29.99)

    answer = await (await serve()).look_up(VIN)

    assert answer.body["make"] == "OTHER"
    assert answer.headers["Cache-Status"] == FRESH
    assert 29 * 86_400 < int(answer.headers["Age"]) < 30 * 86_400
    assert asked.calls == 0


async def test_what_is_stale_is_asked_again(
    serve: Serve, kept: VehicleStore, asked: Asked
) -> None:
    """After 30 days vPIC is asked, its answer is given and kept."""
    await keep_old(kept, VIN, days=30.01)
    one = await serve(vehicles=NOT_HELD)

    first, second = [await one.look_up(VIN) for _ in range(2)]

    assert first.body == {"vin": VIN, **fields_of(KNOWN[VIN]), "cached_result": False}
    assert (first.headers["Age"], first.headers["Cache-Status"]) == ("0", RENEWED)
    assert second.body == {**first.body, "cached_result": True}
    assert asked.calls == 1


@on_sqlite
async def test_what_is_stale_is_better_than_nothing(
    serve: Serve, kept: VehicleStore, sandbox: RunningSandbox, asked: Asked
) -> None:
    """While vPIC is down the old answer is given, says so, and stays as old."""
    await keep_old(kept, VIN, days=31)
    sandbox.sandbox.faults = always("server_error")
    one = await serve()

    for calls in (1, 2):
        answer = await one.look_up(VIN)
        assert answer.status == 200
        assert answer.body == {"vin": VIN, **fields_of(OTHER), "cached_result": True}
        assert answer.headers["Cache-Status"] == STALE
        assert 31 * 86_400 <= int(answer.headers["Age"]) < 32 * 86_400
        assert asked.calls == calls

    sandbox.sandbox.faults = Faults()
    assert (await one.look_up(VIN)).body["make"] == "PETERBILT"


@on_sqlite
async def test_a_slow_answer_is_not_waited_for(
    serve: Serve, kept: VehicleStore, asked: Asked, gate: Gate
) -> None:
    """Who has something old gives it, and what vPIC tells later is for the next."""
    await keep_old(kept, VIN)
    one = await serve(vehicles={"stale_wait_s": 0.01})
    gate.close()

    early = [await one.look_up(VIN) for _ in range(3)]
    assert asked.calls == 1
    gate.open()
    async with asyncio.timeout(GIVE_UP_S):
        while (late := await one.look_up(VIN)).headers["Cache-Status"] == STALE:
            pass

    assert {each.headers["Cache-Status"] for each in early} == {STALE}
    assert {each.body["model"] for each in early} == {OTHER.model}
    assert late.body["model"] == KNOWN[VIN].model
    assert asked.calls == 1


@on_sqlite
async def test_nobody_waits_for_long_on_an_old_flight(
    serve: Serve,
    kept: VehicleStore,
    *,
    asked: Asked,
    gate: Gate,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wait counts from when the first has asked, not from each who joins."""
    clock = Clock()
    monkeypatch.setattr("service.vehicles.lookup.time", Mock(monotonic=clock))
    await keep_old(kept, VIN)
    one = await serve(vehicles={"stale_wait_s": 3_000.0, "deadline_s": 600.0})
    gate.close()
    first = asyncio.create_task(one.look_up(VIN))
    await until(lambda: asked.calls == 1)
    clock.pass_s(3_000.0)

    joined = await one.look_up(VIN)

    assert joined.headers["Cache-Status"] == STALE
    assert not first.done()
    gate.open()
    assert (await first).body["model"] == KNOWN[VIN].model


@on_sqlite
async def test_a_batch_waits_for_what_nobody_has_told(
    serve: Serve, kept: VehicleStore, asked: Asked, gate: Gate, until: Until
) -> None:
    """Something old beside it makes no look-up of a new VIN impatient."""
    await keep_old(kept, VIN)
    one = await serve(vehicles={"stale_wait_s": 0.0})
    gate.close()
    asking = asyncio.create_task(one.look_up_all([VIN, *vins(1)]))
    await until(lambda: asked.calls == 1)
    assert not asking.done()
    gate.open()

    _, new = (await asking).body["results"]

    assert new["cached_result"] is False


@on_sqlite
async def test_what_is_stale_may_be_unknown_now(
    serve: Serve, kept: VehicleStore
) -> None:
    """What vPIC does not decode any more is 404, however it was known before."""
    await keep_old(kept, UNKNOWN)

    answer = await (await serve()).look_up(UNKNOWN)

    assert answer.problem == (404, "vin_not_decoded")


@on_sqlite
@pytest.mark.parametrize("ttl_s", [0.0, 1e8])
async def test_the_time_is_a_setting(
    serve: Serve, kept: VehicleStore, asked: Asked, ttl_s: float
) -> None:
    """What was told is believed for as long as `ttl_s` says; 0 asks each time."""
    await keep_old(kept, VIN)
    one = await serve(vehicles={"ttl_s": ttl_s})

    for _ in range(2):
        await one.look_up(VIN)

    assert asked.calls == (0 if ttl_s else 2)


# --- VINs without a vehicle ---------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize("vehicles", [{}, NOT_HELD], ids=["memory", "database"])
async def test_what_nobody_knows_is_remembered(
    serve: Serve, asked: Asked, vehicles: dict[str, float]
) -> None:
    """404, and vPIC is not asked again at once."""
    one = await serve(vehicles=vehicles)

    for _ in range(3):
        answer = await one.look_up(UNKNOWN)
        assert answer.problem == (404, "vin_not_decoded")

    assert asked.calls == 1


@on_sqlite
@pytest.mark.parametrize("days, calls", [(0.99, 0), (1.01, 1)])
async def test_what_nobody_knew_is_asked_again(
    serve: Serve, kept: VehicleStore, asked: Asked, days: float, calls: int
) -> None:
    """After `missing_ttl_s`, a day, vPIC may have learnt of it."""
    await keep_old(kept, VIN, vehicle=None, days=days)

    answer = await (await serve()).look_up(VIN)

    assert answer.status == (200 if calls else 404)
    assert asked.calls == calls


@on_sqlite
async def test_what_nobody_knew_while_vpic_is_down(
    serve: Serve, kept: VehicleStore, sandbox: RunningSandbox
) -> None:
    """It stays unknown: that is what was told last."""
    await keep_old(kept, VIN, vehicle=None, days=2)
    sandbox.sandbox.faults = always("server_error")

    answer = await (await serve()).look_up(VIN)

    assert answer.problem == (404, "vin_not_decoded")


# --- not kept, and vPIC down --------------------------------------------------------


@on_sqlite
async def test_what_is_not_kept_cannot_be_had(
    serve: Serve, sandbox: RunningSandbox, asked: Asked
) -> None:
    """503, with a time to come back after; nothing of it is remembered."""
    sandbox.sandbox.faults = Faults(unavailable=1, retry_after="7")
    one = await serve()

    answer = await one.look_up(VIN)

    assert answer.problem == (503, "vehicle_unavailable")
    assert answer.headers["Retry-After"] == "7"
    sandbox.sandbox.faults = Faults()
    assert (await one.look_up(VIN)).body["cached_result"] is False
    assert asked.calls == 2


@on_sqlite
async def test_while_the_circuit_is_open(
    serve: Serve, kept: VehicleStore, sandbox: RunningSandbox, asked: Asked
) -> None:
    """vPIC is not asked: what is kept is given however old, the rest is 503."""
    await keep_old(kept, VIN)
    sandbox.sandbox.faults = always("server_error")
    one = await serve(breaker={"minimum_calls": 1, "open_s": 3_000.0})
    await one.look_up(vin(1))
    sandbox.sandbox.faults = Faults()

    stale, unknown = await one.look_up(VIN), await one.look_up(vin(2))

    assert stale.headers["Cache-Status"] == STALE
    assert unknown.problem == (503, "vehicle_unavailable")
    assert 2_000 < int(unknown.headers["Retry-After"]) <= 3_000
    assert asked.calls == 1


@on_sqlite
async def test_its_circuit_is_its_own(
    serve: Serve, sandbox: RunningSandbox, asked: Asked
) -> None:
    """An outage of vPIC keeps nobody from asking for what was used."""
    sandbox.sandbox.faults = always("server_error", path="/api/")
    one = await serve(breaker={"minimum_calls": 1, "open_s": 3_000.0})
    assert (await one.look_up(VIN)).status == 503

    async with one.client.get("/usage") as usage:
        assert usage.status == 200


@on_sqlite
@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "not kept"])
async def test_who_waits_too_long(
    serve: Serve,
    kept: VehicleStore,
    sandbox: RunningSandbox,
    *,
    hurried: Hurried,
    is_kept: bool,
) -> None:
    """After `deadline_s` there is an answer, whatever vPIC does."""
    if is_kept:
        await keep_old(kept, VIN)
    sandbox.sandbox.faults = always("hang")
    one = await serve(vehicles={"deadline_s": 10.0, "timeout_s": 60.0})

    async with hurried(10.0):
        answer = await one.look_up(VIN)

    assert answer.status == (200 if is_kept else 503)
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
    serve: Serve, asked: Asked, count: int, batches: int, singles: int
) -> None:
    """Of 50 at most; one that is left over is asked for alone."""
    answer = await (await serve()).look_up_all(vins(count))

    assert [each["vin"] for each in answer.body["results"]] == vins(count)
    assert all(each["model"] == "388" for each in answer.body["results"])
    assert (asked.batches, asked.calls) == (batches, batches + singles)
    assert set(asked.vins.values()) == {1}


async def test_only_misses_are_asked_for(
    serve: Serve, kept: VehicleStore, asked: Asked
) -> None:
    """What is kept and fresh is answered from there, in memory or not."""
    await keep_old(kept, vin(0), days=1)
    await keep_old(kept, vin(1))
    one = await serve()
    await one.look_up(vin(2))

    answer = await one.look_up_all(vins(5))

    assert [each["cached_result"] for each in answer.body["results"]] == [
        *(True, False, True, False, False)
    ]
    assert dict(asked.vins) == {vin(each): 1 for each in (1, 2, 3, 4)}


@on_sqlite
async def test_half_of_a_batch_is_told(
    serve: Serve, kept: VehicleStore, sandbox: RunningSandbox
) -> None:
    """What has no row is stale or unavailable, and asked for again the next time."""
    await keep_old(kept, *vins(4))
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
async def test_others_news_show_in_time(
    serve: Serve, kept: VehicleStore, clock: Clock, asked: Asked
) -> None:
    """What another process learns or removes shows when `held_s` is over."""
    one, other = await serve(), await serve()
    await one.look_up(VIN)
    await other.look_up(VIN)
    await kept.remove(VIN)
    clock.pass_s(0.9)
    assert (await one.look_up(VIN)).body["cached_result"] is True

    clock.pass_s(0.1)
    assert (await one.look_up(VIN)).body["cached_result"] is False
    assert asked.calls == 2


@on_sqlite
async def test_what_another_has_learnt_is_seen(
    serve: Serve, kept: VehicleStore, clock: Clock, asked: Asked
) -> None:
    """After `held_s` an application reads what the database says now."""
    one = await serve()
    assert (await one.look_up(VIN)).body["make"] == "PETERBILT"
    await kept.keep({VIN: Entry(OTHER, 2**52)}, {})
    assert (await one.look_up(VIN)).body["make"] == "PETERBILT"

    clock.pass_s(1.0)
    assert (await one.look_up(VIN)).body["make"] == "OTHER"
    assert asked.calls == 1


async def test_without_memory_all_shows_at_once(serve: Serve, asked: Asked) -> None:
    """With `held_s` of 0 nobody answers what another has removed."""
    one, other = [await serve(vehicles=NOT_HELD) for _ in range(2)]
    await one.look_up(VIN)
    assert (await other.remove(VIN)).body["cache_delete_success"] is True

    assert (await one.look_up(VIN)).body["cached_result"] is False
    assert asked.calls == 2
