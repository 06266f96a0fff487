"""Look-ups at the same time: one call for all who ask alike, whoever leaves."""

import asyncio
from typing import Any

import pytest

from service.sandbox.server import RunningSandbox
from service.vehicles.errors import VehicleUnavailable, VinNotDecoded
from service.vehicles.lookup import source_of
from service.vehicles.model import Found
from service.vehicles.store import VehicleStore
from tests.conftest import MakeSettings, always
from tests.vehicles.conftest import (
    KNOWN,
    UNKNOWN,
    VIN,
    Asked,
    Gate,
    Open,
    Until,
    keep_old,
    on_sqlite,
    vin,
    vins,
)


def model_of(result: Found | Exception) -> str:
    """What a look-up has found."""
    assert isinstance(result, Found)
    return result.vehicle.model


@on_sqlite
async def test_many_who_ask_for_one(
    opened: Open, asked: Asked, gate: Gate, until: Until
) -> None:
    """Whoever asks for a VIN while vPIC is asked for it waits for the same answer."""
    gate.close()
    async with opened() as lookups:
        asking = [asyncio.create_task(lookups.look_up(VIN)) for _ in range(50)]
        await until(lambda: asked.calls == 1)
        asking += [asyncio.create_task(lookups.look_up(VIN)) for _ in range(50)]
        gate.open()

        found = await asyncio.gather(*asking)

    assert {each.vehicle for each in found} == {KNOWN[VIN]}
    assert {each.result for each in found} == {"miss"}
    assert asked.calls == 1


@on_sqlite
async def test_one_joins_a_batch(
    opened: Open, asked: Asked, gate: Gate, until: Until
) -> None:
    """A single VIN, and another batch, wait for the batch that has asked for them."""
    gate.close()
    async with opened() as lookups:
        first = asyncio.create_task(lookups.look_up_all(vins(10)))
        await until(lambda: asked.batches == 1)
        single = asyncio.create_task(lookups.look_up(vin(3)))
        second = asyncio.create_task(lookups.look_up_all([vin(9), vin(10), vin(8)]))
        await until(lambda: asked.calls == 2)
        gate.open()

        assert len(await first) == 10
        assert (await single).result == "miss"
        assert list(map(model_of, (await second).values())) == ["388"] * 3

    assert dict(asked.vins) == dict.fromkeys(vins(11), 1)


@on_sqlite
async def test_a_batch_joins_one(
    opened: Open, asked: Asked, gate: Gate, until: Until
) -> None:
    """What is asked for already is not asked for in a batch."""
    gate.close()
    async with opened() as lookups:
        single = asyncio.create_task(lookups.look_up(VIN))
        await until(lambda: asked.calls == 1)
        batch = asyncio.create_task(lookups.look_up_all([vin(1), VIN, vin(2)]))
        await until(lambda: asked.batches == 1)
        gate.open()
        await single
        await batch

    assert set(asked.vins.values()) == {1}


@on_sqlite
async def test_who_leaves_ends_nothing(
    opened: Open, asked: Asked, gate: Gate, until: Until
) -> None:
    """The one who asked first goes, the others get the answer, and it is kept."""
    gate.close()
    async with opened() as lookups:
        first = asyncio.create_task(lookups.look_up(VIN))
        await until(lambda: asked.calls == 1)
        others = [asyncio.create_task(lookups.look_up(VIN)) for _ in range(3)]
        await asyncio.sleep(0)
        for leaving in (first, others[0]):
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
        gate.open()

        assert [(await each).result for each in others[1:]] == ["miss", "miss"]
        assert (await lookups.look_up(VIN)).result == "hit"
    assert asked.calls == 1


@on_sqlite
async def test_when_all_have_left(
    opened: Open, kept: VehicleStore, asked: Asked, gate: Gate, until: Until
) -> None:
    """What vPIC was asked for is kept all the same."""
    gate.close()
    async with opened() as lookups:
        asking = asyncio.create_task(lookups.look_up(VIN))
        await until(lambda: asked.calls == 1)
        asking.cancel()
        gate.open()
        joined = await lookups.look_up(VIN)

    assert joined.vehicle == KNOWN[VIN]
    assert asked.calls == 1
    assert (await kept.find([VIN]))[VIN].entry is not None


@on_sqlite
async def test_a_failure_is_shared_and_over(
    opened: Open, sandbox: RunningSandbox, asked: Asked, gate: Gate, until: Until
) -> None:
    """All who waited fail by one call; who comes later asks again."""
    sandbox.sandbox.faults = always("server_error", times=1)
    gate.close()
    async with opened() as lookups:
        asking = [asyncio.create_task(lookups.look_up(VIN)) for _ in range(5)]
        await until(lambda: asked.calls == 1)
        gate.open()
        failures = await asyncio.gather(*asking, return_exceptions=True)

        assert {type(each) for each in failures} == {VehicleUnavailable}
        assert asked.calls == 1
        assert (await lookups.look_up(VIN)).result == "miss"
    assert asked.calls == 2


@on_sqlite
@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "not kept"])
async def test_the_end_of_the_service(
    opened: Open,
    kept: VehicleStore,
    asked: Asked,
    gate: Gate,
    until: Until,
    *,
    is_kept: bool,
) -> None:
    """What is under way is given up, and nobody waits for ever."""
    if is_kept:
        await keep_old(kept, VIN)
    gate.close()
    async with opened() as lookups:
        asking = asyncio.create_task(lookups.look_up(VIN))
        await until(lambda: asked.calls == 1)
        await lookups.close()

        (ended,) = await asyncio.gather(asking, return_exceptions=True)

    assert type(ended) is (Found if is_kept else VehicleUnavailable)


@on_sqlite
async def test_a_batch_of_all_kinds(opened: Open, kept: VehicleStore) -> None:
    """Each VIN has what it would have alone."""
    await keep_old(kept, vin(1), days=1)
    async with opened() as lookups:
        told = await lookups.look_up_all([vin(1), UNKNOWN, VIN])

    assert [type(each) for each in told.values()] == [Found, VinNotDecoded, Found]
    results = [getattr(each, "result", None) for each in told.values()]
    assert results == ["hit", None, "miss"]


@pytest.mark.parametrize(
    "sections, expected",
    [
        ({"vehicles": {"base_url": "https://vpic.test/api/"}}, "https://vpic.test/api"),
        ({"vehicles": {"base_url": "http://me:pw@v.test:81"}}, "http://v.test:81"),
        ({"sandbox": {"enabled": True}}, "sandbox"),
    ],
    ids=["address", "password", "sandbox"],
)
def test_whose_word_it_is(
    settings: MakeSettings, sections: dict[str, Any], expected: str
) -> None:
    """What is kept belongs to who told it, not to how they were called."""
    assert source_of(settings(**sections)) == expected
