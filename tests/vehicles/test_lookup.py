"""Concurrent look-ups of a VIN share one call, whichever client disconnects."""

import asyncio
from typing import Any

import pytest

from service.sandbox.server import RunningSandbox
from service.vehicles.errors import VehicleUnavailable
from service.vehicles.lookup import source_of
from service.vehicles.model import Found
from service.vehicles.store import VehicleStore
from tests.conftest import MakeSettings, always
from tests.vehicles.conftest import (
    KNOWN,
    VIN,
    Open,
    Until,
    VpicBarrier,
    VpicRequests,
    on_sqlite,
    store_expired,
    vin,
    vins,
)


def model_of(result: Found | Exception) -> str:
    """Return the model of a look-up."""
    assert isinstance(result, Found)
    return result.vehicle.model


@on_sqlite
async def test_concurrent_look_ups_share_a_request(
    opened: Open, received: VpicRequests, barrier: VpicBarrier, until: Until
) -> None:
    """Concurrent look-ups of a VIN wait for the same request to vPIC."""
    barrier.close()
    async with opened() as lookups:
        asking = [asyncio.create_task(lookups.look_up(VIN)) for _ in range(50)]
        await until(lambda: received.calls == 1)
        asking += [asyncio.create_task(lookups.look_up(VIN)) for _ in range(50)]
        barrier.open()

        found = await asyncio.gather(*asking)

    assert {each.vehicle for each in found} == {KNOWN[VIN]}
    assert {each.result for each in found} == {"miss"}
    assert received.calls == 1


@on_sqlite
async def test_one_joins_a_batch(
    opened: Open, received: VpicRequests, barrier: VpicBarrier, until: Until
) -> None:
    """A single VIN, and another batch, wait for the batch that has asked for them."""
    barrier.close()
    async with opened() as lookups:
        first = asyncio.create_task(lookups.look_up_all(vins(10)))
        await until(lambda: received.batches == 1)
        single = asyncio.create_task(lookups.look_up(vin(3)))
        second = asyncio.create_task(lookups.look_up_all([vin(9), vin(10), vin(8)]))
        await until(lambda: received.calls == 2)
        barrier.open()

        assert len(await first) == 10
        assert (await single).result == "miss"
        assert list(map(model_of, (await second).values())) == ["388"] * 3

    assert dict(received.vins) == dict.fromkeys(vins(11), 1)


@on_sqlite
async def test_disconnect_does_not_cancel_others(
    opened: Open, received: VpicRequests, barrier: VpicBarrier, until: Until
) -> None:
    """The one who asked first goes, the others get the answer, and it is kept."""
    barrier.close()
    async with opened() as lookups:
        first = asyncio.create_task(lookups.look_up(VIN))
        await until(lambda: received.calls == 1)
        others = [asyncio.create_task(lookups.look_up(VIN)) for _ in range(3)]
        await asyncio.sleep(0)
        for leaving in (first, others[0]):
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
        barrier.open()

        assert [(await each).result for each in others[1:]] == ["miss", "miss"]
        assert (await lookups.look_up(VIN)).result == "hit"
    assert received.calls == 1


@on_sqlite
async def test_a_failure_is_shared_and_over(
    opened: Open,
    sandbox: RunningSandbox,
    received: VpicRequests,
    barrier: VpicBarrier,
    until: Until,
) -> None:
    """All who waited fail by one call; who comes later asks again."""
    sandbox.sandbox.faults = always("server_error", times=1)
    barrier.close()
    async with opened() as lookups:
        asking = [asyncio.create_task(lookups.look_up(VIN)) for _ in range(5)]
        await until(lambda: received.calls == 1)
        barrier.open()
        failures = await asyncio.gather(*asking, return_exceptions=True)

        assert {type(each) for each in failures} == {VehicleUnavailable}
        assert received.calls == 1
        assert (await lookups.look_up(VIN)).result == "miss"
    assert received.calls == 2


@on_sqlite
@pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "not stored"])
async def test_the_end_of_the_service(
    opened: Open,
    stored: VehicleStore,
    received: VpicRequests,
    barrier: VpicBarrier,
    until: Until,
    *,
    is_stored: bool,
) -> None:
    """Look-ups in progress are cancelled, and their callers get an error."""
    if is_stored:
        await store_expired(stored, VIN)
    barrier.close()
    async with opened() as lookups:
        asking = asyncio.create_task(lookups.look_up(VIN))
        await until(lambda: received.calls == 1)
        await lookups.close()

        (ended,) = await asyncio.gather(asking, return_exceptions=True)

    assert type(ended) is (Found if is_stored else VehicleUnavailable)


@pytest.mark.parametrize(
    "sections, expected",
    [
        ({"vehicles": {"base_url": "https://vpic.test/api/"}}, "https://vpic.test/api"),
        ({"vehicles": {"base_url": "http://me:pw@v.test:81"}}, "http://v.test:81"),
        ({"sandbox": {"enabled": True}}, "sandbox"),
    ],
    ids=["address", "password", "sandbox"],
)
def test_source_has_no_credentials(
    settings: MakeSettings, sections: dict[str, Any], expected: str
) -> None:
    """An entry belongs to its source, without the credentials of its URL."""
    assert source_of(settings(**sections)) == expected
