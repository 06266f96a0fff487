"""Removals during a look-up of the same VIN, whose result is then not stored."""

import asyncio
import sqlite3
from collections.abc import Collection
from contextlib import closing

import pytest
from sqlalchemy.engine import make_url

from service.settings import StorageSettings
from service.vehicles.model import Vin
from service.vehicles.store import StoredEntry, VehicleStore
from tests.vehicles.conftest import (
    KNOWN,
    OTHER,
    VIN,
    Open,
    Serve,
    Until,
    VpicBarrier,
    VpicRequests,
    on_sqlite,
    store_expired,
)


@pytest.mark.parametrize(
    "in_other_process", [False, True], ids=["same process", "other process"]
)
@pytest.mark.parametrize("is_stored", [True, False], ids=["stale", "not stored"])
async def test_look_up_does_not_undo_a_removal(
    serve: Serve,
    stored: VehicleStore,
    received: VpicRequests,
    barrier: VpicBarrier,
    until: Until,
    *,
    is_stored: bool,
    in_other_process: bool,
) -> None:
    """The look-up in progress is answered, but its result is not stored."""
    if is_stored:
        await store_expired(stored, VIN)
    one, other = await serve(), await serve()
    barrier.close()
    asking = asyncio.create_task(one.look_up(VIN))
    await until(lambda: received.calls == 1)

    removed = await (other if in_other_process else one).remove(VIN)
    barrier.open()
    answer = await asking

    assert removed.body == {"vin": VIN, "cache_delete_success": is_stored}
    assert answer.body["cached_result"] is False
    forwarded = "stale" if is_stored else "miss"
    assert answer.headers["Cache-Status"] == f"copilot-usage; fwd={forwarded}"
    assert (await stored.find([VIN]))[VIN].entry is None
    assert (await one.look_up(VIN)).body["cached_result"] is False
    assert (await other.look_up(VIN)).body["cached_result"] is True
    assert received.calls == 2


@on_sqlite
async def test_look_up_during_a_removal_is_not_joined_later(
    serve: Serve,
    stored: VehicleStore,
    *,
    received: VpicRequests,
    barrier: VpicBarrier,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An entry read just before a removal is not returned after the removal."""
    await store_expired(stored, VIN)
    one = await serve(vehicles={"stale_wait_s": 0.0})
    barrier.close()
    remove, during = VehicleStore.remove, []

    async def remove_late(store: VehicleStore, wanted: Collection[Vin]) -> set[Vin]:
        during.append(await one.look_up(VIN))
        return await remove(store, wanted)

    monkeypatch.setattr(VehicleStore, "remove", remove_late)
    await one.remove(VIN)
    after = asyncio.create_task(one.look_up(VIN))
    await until(lambda: received.calls == 2)
    barrier.open()

    assert [each.body["model"] for each in during] == [OTHER.model]
    assert (await after).body["model"] == KNOWN[VIN].model


@on_sqlite
async def test_look_up_after_a_removal_asks_again(
    serve: Serve,
    stored: VehicleStore,
    received: VpicRequests,
    barrier: VpicBarrier,
    until: Until,
) -> None:
    """A look-up after a removal sends its own request, and its result is stored."""
    one = await serve()
    barrier.close()
    before = asyncio.create_task(one.look_up(VIN))
    await until(lambda: received.calls == 1)
    await one.remove(VIN)
    after = asyncio.create_task(one.look_up(VIN))
    await until(lambda: received.calls == 2)
    barrier.open()

    assert [(await each).status for each in (before, after)] == [200, 200]
    assert (await stored.find([VIN]))[VIN].entry is not None


# --- entries read during a removal --------------------------------------------------


@on_sqlite
async def test_entry_read_during_a_removal_is_not_cached(
    opened: Open, stored: VehicleStore, storage: StorageSettings
) -> None:
    """An entry read while a removal waits for the write lock is not cached."""
    await store_expired(stored, VIN, days=1)
    async with opened() as lookups:
        with closing(sqlite3.connect(str(make_url(storage.url).database))) as other:
            other.execute("BEGIN IMMEDIATE")
            removing = asyncio.create_task(lookups.remove(VIN))
            await asyncio.sleep(0)
            assert (await lookups.look_up(VIN)).result == "hit"
            other.rollback()

        assert await removing is True
        assert (await lookups.look_up(VIN)).result == "miss"


@on_sqlite
async def test_entry_read_before_a_removal_is_not_cached(
    serve: Serve, stored: VehicleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow read answers its own request, and no request after the removal."""
    await store_expired(stored, VIN, days=1)
    one = await serve()
    find, has_read, may_go_on = VehicleStore.find, asyncio.Event(), asyncio.Event()

    async def find_slowly(
        store: VehicleStore, vins: Collection[Vin]
    ) -> dict[Vin, StoredEntry]:
        found = await find(store, vins)
        has_read.set()
        await may_go_on.wait()
        return found

    monkeypatch.setattr(VehicleStore, "find", find_slowly)
    asking = asyncio.create_task(one.look_up(VIN))
    await has_read.wait()
    await one.remove(VIN)
    may_go_on.set()

    assert (await asking).body["cached_result"] is True
    assert (await one.look_up(VIN)).body["cached_result"] is False
