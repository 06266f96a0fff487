"""Removals while the same VIN is looked up: what was asked before is not kept."""

import asyncio
import sqlite3
from collections.abc import Collection
from contextlib import closing

import pytest
from sqlalchemy import delete
from sqlalchemy.engine import make_url

from service.settings import Storage
from service.storage.database import Database
from service.vehicles.model import Vin
from service.vehicles.store import Kept, VehicleStore
from service.vehicles.tables import vehicles
from tests.vehicles.conftest import (
    KNOWN,
    OTHER,
    VIN,
    Asked,
    Gate,
    Open,
    Serve,
    Until,
    keep_old,
    on_sqlite,
    vin,
    vins,
)


@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["here", "elsewhere"])
@pytest.mark.parametrize("is_kept", [True, False], ids=["stale", "not kept"])
async def test_a_removal_meanwhile_is_not_undone(
    serve: Serve,
    kept: VehicleStore,
    asked: Asked,
    gate: Gate,
    until: Until,
    *,
    is_kept: bool,
    is_elsewhere: bool,
) -> None:
    """Who waits gets the answer, but it is not kept: the next look-up asks again."""
    if is_kept:
        await keep_old(kept, VIN)
    one, other = await serve(), await serve()
    gate.close()
    asking = asyncio.create_task(one.look_up(VIN))
    await until(lambda: asked.calls == 1)

    removed = await (other if is_elsewhere else one).remove(VIN)
    gate.open()
    answer = await asking

    assert removed.body == {"vin": VIN, "cache_delete_success": is_kept}
    assert answer.body["cached_result"] is False
    forwarded = "stale" if is_kept else "miss"
    assert answer.headers["Cache-Status"] == f"copilot-usage; fwd={forwarded}"
    assert (await kept.find([VIN]))[VIN].entry is None
    assert (await one.look_up(VIN)).body["cached_result"] is False
    assert (await other.look_up(VIN)).body["cached_result"] is True
    assert asked.calls == 2


async def test_without_the_mark_it_would_be(
    serve: Serve,
    kept: VehicleStore,
    database: Database,
    *,
    asked: Asked,
    gate: Gate,
    until: Until,
) -> None:
    """The danger is real: a row that is merely deleted comes back with the answer."""
    await keep_old(kept, VIN)
    one = await serve()
    gate.close()
    asking = asyncio.create_task(one.look_up(VIN))
    await until(lambda: asked.calls == 1)
    async with database.writing() as connection:
        await connection.execute(delete(vehicles))
    gate.open()
    await asking

    assert (await kept.find([VIN]))[VIN].entry is not None


@on_sqlite
async def test_a_removal_amid_a_batch(
    serve: Serve, kept: VehicleStore, asked: Asked, gate: Gate, until: Until
) -> None:
    """Of a batch only what was removed is not kept."""
    one = await serve()
    gate.close()
    asking = asyncio.create_task(one.look_up_all(vins(20)))
    await until(lambda: asked.batches == 1)
    await one.remove(vin(7))
    gate.open()
    await asking

    found = await kept.find(vins(20))
    assert [each for each in vins(20) if found[each].entry is None] == [vin(7)]


@on_sqlite
async def test_who_asks_during_a_removal_is_joined_by_nobody_after(
    serve: Serve,
    kept: VehicleStore,
    *,
    asked: Asked,
    gate: Gate,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was read just before the row went is not given once the caller knows."""
    await keep_old(kept, VIN)
    one = await serve(vehicles={"stale_wait_s": 0.0})
    gate.close()
    remove, during = VehicleStore.remove, []

    async def remove_late(store: VehicleStore, wanted: Vin) -> bool:
        during.append(await one.look_up(VIN))
        return await remove(store, wanted)

    monkeypatch.setattr(VehicleStore, "remove", remove_late)
    await one.remove(VIN)
    after = asyncio.create_task(one.look_up(VIN))
    await until(lambda: asked.calls == 2)
    gate.open()

    assert [each.body["model"] for each in during] == [OTHER.model]
    assert (await after).body["model"] == KNOWN[VIN].model


@on_sqlite
async def test_who_asks_after_a_removal_asks_anew(
    serve: Serve, kept: VehicleStore, asked: Asked, gate: Gate, until: Until
) -> None:
    """It joins nobody who asked before; its own answer is kept."""
    one = await serve()
    gate.close()
    before = asyncio.create_task(one.look_up(VIN))
    await until(lambda: asked.calls == 1)
    await one.remove(VIN)
    after = asyncio.create_task(one.look_up(VIN))
    await until(lambda: asked.calls == 2)
    gate.open()

    assert [(await each).status for each in (before, after)] == [200, 200]
    assert (await kept.find([VIN]))[VIN].entry is not None


@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["here", "elsewhere"])
async def test_an_answer_and_a_removal_at_once(
    serve: Serve,
    kept: VehicleStore,
    *,
    asked: Asked,
    gate: Gate,
    until: Until,
    is_elsewhere: bool,
) -> None:
    """Whichever of them is first, in the end nothing is kept."""
    one, other = [await serve(vehicles={"held_s": 0.0}) for _ in range(2)]
    for steps in range(0, 60, 3):
        gate.close()
        asked.sandbox.sandbox.calls.clear()
        asking = asyncio.create_task(one.look_up(VIN))
        await until(lambda: asked.calls == 1)
        removing = asyncio.create_task((other if is_elsewhere else one).remove(VIN))
        for _ in range(steps):
            await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(asking, removing)

        assert (await kept.find([VIN]))[VIN].entry is None


# --- what is read meanwhile ---------------------------------------------------------


@on_sqlite
async def test_what_is_read_before_a_removal_is_on_disk(
    opened: Open, kept: VehicleStore, storage: Storage
) -> None:
    """Who reads while a removal still waits to be written holds nothing after it."""
    await keep_old(kept, VIN, days=1)
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
async def test_what_was_read_before_a_removal_is_not_held(
    serve: Serve, kept: VehicleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow reader answers who waits for it, and nobody who comes later."""
    await keep_old(kept, VIN, days=1)
    one = await serve()
    find, has_read, may_go_on = VehicleStore.find, asyncio.Event(), asyncio.Event()

    async def find_slowly(
        store: VehicleStore, vins: Collection[Vin]
    ) -> dict[Vin, Kept]:
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
