"""Expiry of VINs that vPIC could not decode: in batches, and it undoes no removal."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import pytest
from msgspec.structs import replace
from sqlalchemy import select, text
from structlog.typing import EventDict

from service.instants import US_PER_S
from service.settings import load
from service.storage import maintenance
from service.storage.database import Database
from service.vehicles import expiry
from service.vehicles.expiry import Expiry
from service.vehicles.model import Entry, VehicleSource
from service.vehicles.store import MARKER_S, StoredEntry, VehicleStore
from service.vehicles.tables import vehicles
from tests.clock import LoopTime
from tests.vehicles.conftest import OTHER, VIN, vins

NOW: Final = 1_700_000_000 * US_PER_S
TTL_S: Final = 100
SETTINGS: Final = replace(load().settings.vehicles, missing_ttl_s=float(TTL_S))
EXPIRED: Final = NOW - TTL_S * US_PER_S - 1
ALL: Final = vins(12)
QUERY: Final = (
    "SELECT vin FROM vehicles WHERE NOT is_decoded AND removed_at IS NULL "
    "AND fetched_at < 5"
)


@pytest.fixture
def store(database: Database) -> VehicleStore:
    """The store of one source."""
    return VehicleStore(database, VehicleSource("https://vpic.example/api"))


def at(database: Database, now: int) -> Expiry:
    """Return an expiry whose clock stands still."""
    return Expiry(SETTINGS, database, clock=lambda: now)


async def stored(database: Database) -> list[str]:
    """Return the VINs of all rows, also of markers."""
    async with database.reading() as connection:
        return sorted((await connection.scalars(select(vehicles.c.vin))).all())


async def test_expired_rows_are_removed_in_batches(
    database: Database,
    store: VehicleStore,
    monkeypatch: pytest.MonkeyPatch,
    log_entries: list[EventDict],
) -> None:
    """Only VINs that vPIC could not decode expire; their rows go with the markers."""
    monkeypatch.setattr(expiry, "MIN_ROWS", 3)
    monkeypatch.setattr(maintenance, "MAX_ROWS", 3)
    expired, fresh, decoded = ALL[:7], ALL[7], ALL[8]
    await store.save(dict.fromkeys(expired, Entry(None, EXPIRED)), {})
    await store.save({fresh: Entry(None, EXPIRED + 1)}, {})
    await store.save({decoded: Entry(OTHER, 0)}, {})

    await at(database, NOW).remove()

    found = await store.find(ALL)
    assert [vin for vin in ALL if found[vin].entry] == [fresh, decoded]
    entry = {"event": "vehicle.expired", "log_level": "info", "vins": len(expired)}
    assert log_entries == [entry]
    assert len(await stored(database)) == 9
    later = NOW + MARKER_S * US_PER_S + 1
    await at(database, later).remove()
    await at(database, later + MARKER_S * US_PER_S + 1).remove()
    assert await stored(database) == [decoded]


@pytest.mark.parametrize("is_removed", [False, True])
async def test_a_look_up_in_progress_undoes_no_removal(
    database: Database, store: VehicleStore, *, is_removed: bool
) -> None:
    """It has read the row before it expired; its result is stored unless removed."""
    await store.save({VIN: Entry(None, EXPIRED)}, {})
    before = (await store.find([VIN]))[VIN]
    await at(database, NOW).remove()
    if is_removed:
        assert await store.remove([VIN]) == set()

    new = Entry(OTHER, NOW)
    saved = await store.save({VIN: new}, {VIN: before.removals})

    after = (await store.find([VIN]))[VIN]
    assert saved == (set() if is_removed else {VIN})
    assert after == (StoredEntry(None, 1) if is_removed else StoredEntry(new, 0))


async def test_the_look_for_expired_rows_uses_an_index(database: Database) -> None:
    """It costs nothing among millions of vehicles."""
    explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
    async with database.reading() as connection:
        if not database.is_sqlite:
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = await connection.execute(text(f"{explain} {QUERY}"))
        assert "ix_vehicles_undecoded" in str(plan.all())


async def test_it_runs_beside_the_service(
    database: Database,
    store: VehicleStore,
    loop_time: LoopTime,
    until: Callable[[Callable[[], bool]], Awaitable[None]],
    *,
    log_entries: list[EventDict],
) -> None:
    """The first removal comes after a minute."""
    await store.save({VIN: Entry(None, EXPIRED)}, {})
    async with maintenance.in_background(at(database, NOW).run()):
        await asyncio.sleep(0)
        assert log_entries == []
        await loop_time.pass_s(expiry.FIRST_AFTER_S)
        await until(lambda: bool(log_entries))
    assert log_entries[0]["event"] == "vehicle.expired"
