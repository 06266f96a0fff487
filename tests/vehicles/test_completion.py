"""Rows of older versions are completed while vPIC has nothing to do."""

import asyncio

import pytest
from structlog.typing import EventDict

from service.sandbox.server import RunningSandbox
from service.vehicles import asking, completion
from service.vehicles.completion import Completion
from service.vehicles.model import Vin
from service.vehicles.store import VehicleStore
from tests.conftest import always
from tests.vehicles.conftest import (
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


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """vPIC is idle as soon as it has answered."""
    monkeypatch.setattr(asking, "IDLE_S", -1.0)
    monkeypatch.setattr(completion, "POLL_S", 0.01)
    monkeypatch.setattr(completion, "PAGE_ROWS", 20)


async def incomplete(stored: VehicleStore) -> int:
    """Return the number of rows that lack values."""
    return sum(not each.is_whole for each in await stored.page(Vin(""), 1_000))


async def test_rows_are_completed(
    opened: Open,
    stored: VehicleStore,
    received: VpicRequests,
    log_entries: list[EventDict],
) -> None:
    """Each row is requested once, in batches; whole rows are not requested."""
    many = vins(121)
    await store_expired(stored, *many[:-1], days=1)
    async with opened() as lookups:
        await lookups.look_up(many[-1])
        calls = received.calls
        await Completion(stored, lookups).complete()
        assert received.calls == calls + 3
        assert set(received.vins.values()) == {1}
        assert await incomplete(stored) == 0
        await Completion(stored, lookups).complete()
        assert received.calls == calls + 3
    assert [
        each["vins"] for each in log_entries if each["event"] == "vehicle.completed"
    ] == [120]


@on_sqlite
async def test_a_look_up_has_priority(
    opened: Open,
    stored: VehicleStore,
    barrier: VpicBarrier,
    received: VpicRequests,
    until: Until,
) -> None:
    """While a look-up needs vPIC, no row is completed."""
    await store_expired(stored, vin(1), days=1)
    async with opened() as lookups:
        barrier.close()
        look_up = asyncio.create_task(lookups.look_up(VIN))
        await until(lambda: received.calls == 1)
        assert not lookups.is_idle
        completing = asyncio.create_task(Completion(stored, lookups).complete())
        await asyncio.wait([completing], timeout=0.1)
        assert received.calls == 1
        barrier.open()
        await asyncio.gather(look_up, completing)
    assert await incomplete(stored) == 0


@on_sqlite
async def test_it_ends_while_vpic_is_away(
    opened: Open, stored: VehicleStore, sandbox: RunningSandbox, received: VpicRequests
) -> None:
    """After a failure, the rows keep their values, and the others wait."""
    await store_expired(stored, *vins(101), days=1)
    sandbox.sandbox.faults = always("server_error")
    async with opened() as lookups:
        await Completion(stored, lookups).complete()
    assert received.calls == 1
    assert await incomplete(stored) > 99
