"""Processes that share a store: one of them asks vPIC, and none waits for the dead."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from service.sandbox.server import RunningSandbox
from service.settings import Settings
from service.usage.shared_cache import open_store
from service.vehicles.lookup import source_of
from service.vehicles.model import Vin
from service.vehicles.store import VehicleStore
from service.vehicles.turns import RedisTurns, Turns, share_turns
from tests.conftest import always
from tests.patience import GIVE_UP_S
from tests.redis_double import RedisDouble
from tests.vehicles.conftest import (
    VIN,
    Asked,
    Gate,
    Open,
    Serve,
    Shared,
    Until,
    keep_old,
    on_sqlite,
    vins,
)


@asynccontextmanager
async def another_process(settings: Settings) -> AsyncIterator[Turns]:
    """The turns that one more process takes, beside services with these settings."""
    async with open_store(settings) as store:
        yield share_turns(store, settings, source_of(settings))


async def test_two_processes_make_one_call(
    serve: Serve, shared: Shared, asked: Asked, gate: Gate, until: Until
) -> None:
    """Whichever is asked, one asks vPIC, and both answer alike."""
    cache = {"redis_url": shared.url}
    both = [await serve(cache=cache), await serve(cache=cache)]
    gate.close()
    asking = [asyncio.create_task(each.look_up(VIN)) for each in both for _ in range(3)]
    await until(lambda: asked.calls == 1)
    gate.open()

    answers = await asyncio.gather(*asking)

    assert {each.status for each in answers} == {200}
    assert {each.body["model"] for each in answers} == {"388"}
    assert asked.calls == 1


@on_sqlite
async def test_a_turn_that_comes_too_late(
    serve: Serve, shared: Shared, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another has kept after our look and before our turn is not asked again."""
    cache = {"redis_url": shared.url}
    one, other = await serve(cache=cache), await serve(cache=cache)
    take = RedisTurns.take
    looked_up: list[Vin] = []

    async def take_late(turns: RedisTurns, wanted: Collection[Vin]) -> set[Vin]:
        if not looked_up:
            looked_up.append(VIN)
            await other.look_up(VIN)
        return await take(turns, wanted)

    monkeypatch.setattr(RedisTurns, "take", take_late)

    assert (await one.look_up(VIN)).body["cached_result"] is True
    assert asked.calls == 1


@on_sqlite
async def test_without_turns_there_are_two(
    serve: Serve, asked: Asked, gate: Gate, until: Until
) -> None:
    """The danger is real: processes that share nothing ask for the same."""
    both = [await serve(), await serve()]
    gate.close()
    asking = [asyncio.create_task(each.look_up(VIN)) for each in both]
    await until(lambda: asked.calls == 2)
    gate.open()

    assert [(await each).status for each in asking] == [200, 200]


@on_sqlite
async def test_batches_of_two_processes(
    serve: Serve, shared: Shared, asked: Asked
) -> None:
    """Batches that overlap ask for each VIN once between them."""
    cache = {"redis_url": shared.url}
    both = [await serve(cache=cache), await serve(cache=cache)]

    one, two = await asyncio.gather(
        both[0].look_up_all(vins(120)), both[1].look_up_all(vins(180)[60:])
    )

    assert [each["vin"] for each in one.body["results"]] == vins(120)
    assert [each["vin"] for each in two.body["results"]] == vins(180)[60:]
    assert not any("error" in each for each in one.body["results"])
    assert not any("error" in each for each in two.body["results"])
    assert dict(asked.vins) == dict.fromkeys(vins(180), 1)


@on_sqlite
@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "not kept"])
async def test_the_one_that_asks_fails(
    serve: Serve,
    kept: VehicleStore,
    shared: Shared,
    asked: Asked,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_kept: bool,
) -> None:
    """Who waits for it fails too, or gives what is kept, and asks nobody."""
    monkeypatch.setattr("service.vehicles.turns.FAILED_MS", 60_000)
    if is_kept:
        await keep_old(kept, VIN)
    cache = {"redis_url": shared.url}
    one = await serve(cache=cache)
    async with another_process(serve.settings(cache=cache)) as turns:
        await turns.take([VIN])
        asking = asyncio.create_task(one.look_up(VIN))
        await turns.end([VIN], failed=True)
        async with asyncio.timeout(GIVE_UP_S):  # half of what a look-up may take
            answer = await asking

    assert answer.status == (200 if is_kept else 503)
    assert asked.calls == 0


@on_sqlite
async def test_a_failure_is_shared(
    serve: Serve,
    sandbox: RunningSandbox,
    *,
    double: RedisDouble,
    asked: Asked,
    gate: Gate,
    until: Until,
) -> None:
    """What one process could not have, the others do not ask for one by one."""
    sandbox.sandbox.faults = always("server_error")
    cache = {"redis_url": "redis://a.test"}
    all_of_them = [await serve(cache=cache) for _ in range(3)]
    gate.close()
    asking = [asyncio.create_task(each.look_up(VIN)) for each in all_of_them]
    await until(lambda: asked.calls == 1)
    before = double.asked
    await until(lambda: double.asked > before)
    gate.open()

    async with asyncio.timeout(GIVE_UP_S):
        answers = await asyncio.gather(*asking)

    assert {each.problem for each in answers} == {(503, "vehicle_unavailable")}
    assert asked.calls == 1


@on_sqlite
async def test_the_one_that_asks_is_gone(
    serve: Serve, shared: Shared, asked: Asked
) -> None:
    """When its turn has run out, who waited asks."""
    cache = {"redis_url": shared.url}
    one = await serve(cache=cache)
    async with another_process(serve.settings(cache=cache)) as turns:
        await turns.take([VIN])
        asking = asyncio.create_task(one.look_up(VIN))
        shared.forget()

        assert (await asking).body["cached_result"] is False
    assert asked.calls == 1


@on_sqlite
async def test_the_one_that_asks_stops(
    serve: Serve,
    opened: Open,
    *,
    shared: Shared,
    asked: Asked,
    gate: Gate,
    until: Until,
) -> None:
    """A process that ends amid a look-up has not failed: another goes on at once."""
    cache = {"redis_url": shared.url}
    one = await serve(cache=cache)
    gate.close()
    async with opened(cache=cache) as lookups:
        leading = asyncio.create_task(lookups.look_up(VIN))
        await until(lambda: asked.calls == 1)
        waiting = asyncio.create_task(one.look_up(VIN))
        await asyncio.sleep(0)
        await lookups.close()
        gate.open()
        await asyncio.gather(leading, return_exceptions=True)

    assert (await waiting).status == 200


@on_sqlite
async def test_the_store_goes_away(
    serve: Serve, double: RedisDouble, asked: Asked, until: Until
) -> None:
    """Who waits for another process is alone then, and asks by itself."""
    cache = {"redis_url": "redis://a.test"}
    one = await serve(cache=cache)
    async with another_process(serve.settings(cache=cache)) as turns:
        await turns.take([VIN])
        before = double.asked
        asking = asyncio.create_task(one.look_up(VIN))
        await until(lambda: double.asked > before)
        double.failure = RedisConnectionError("gone")

        assert (await asking).status == 200
    assert asked.calls == 1


@on_sqlite
async def test_nobody_is_waited_for_too_long(
    serve: Serve, shared: Shared, asked: Asked
) -> None:
    """A turn that never ends costs no more than `deadline_s`, the wait included."""
    sections: dict[str, Any] = {"cache": {"redis_url": shared.url}}
    one = await serve(**sections, vehicles={"deadline_s": 0.1})
    async with another_process(serve.settings(**sections)) as turns:
        await turns.take([VIN])
        async with asyncio.timeout(GIVE_UP_S):
            answer = await one.look_up(VIN)

    assert answer.problem == (503, "vehicle_unavailable")
    assert asked.calls == 0
