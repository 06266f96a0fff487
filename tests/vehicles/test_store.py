"""The store of vehicles, in SQLite and PostgreSQL: entries, removals, concurrency."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Final

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.engine import make_url

from service.settings import StorageSettings
from service.storage.database import Database, open_database
from service.vehicles.model import Entry, Vehicle, VehicleSource, Vin
from service.vehicles.store import (
    MARKER_S,
    MAX_MARKERS_DELETED,
    NOT_STORED,
    REMOVABLE,
    StoredEntry,
    VehicleStore,
)
from service.vehicles.tables import vehicles
from tests.vehicles.conftest import KNOWN, OTHER, UNKNOWN, VIN, on_sqlite, vins

SOURCE = VehicleSource("https://vpic.example/api")
OLD = Entry(OTHER, 1_000)
NEW = Entry(KNOWN[VIN], 2_000)
NONE = Entry(None, 3_000)
NOW = "service.vehicles.store.now_us"


@pytest.fixture
def store(database: Database) -> VehicleStore:
    """The store of one source, in an empty database."""
    return VehicleStore(database, SOURCE)


@pytest.fixture
async def other(storage: StorageSettings) -> AsyncIterator[VehicleStore]:
    """The store of another process, with its own connections to the database."""
    async with open_database(storage) as database:
        yield VehicleStore(database, SOURCE)


async def save(store: VehicleStore, entry: Entry, removals: int = 0) -> bool:
    """Save an entry of the VIN; return True if it was stored."""
    return await store.save({VIN: entry}, {VIN: removals}) == {VIN}


async def found(store: VehicleStore) -> StoredEntry:
    """Return the stored entry of the VIN."""
    return (await store.find([VIN]))[VIN]


async def rows(database: Database) -> int:
    """Return the number of rows, including markers of removals."""
    async with database.reading() as connection:
        statement = select(func.count()).select_from(vehicles)
        return int(await connection.scalar(statement) or 0)


@on_sqlite
async def test_a_removal_reads_no_other_rows(database: Database) -> None:
    """SQLite finds the rows by their whole keys, with and without hints."""
    given = REMOVABLE.params(of_source=SOURCE, vins=vins(50))
    async with database.reading() as connection:
        literal = {"literal_binds": True}
        query = given.compile(dialect=connection.dialect, compile_kwargs=literal)
        plan = await connection.execute(text(f"EXPLAIN QUERY PLAN {query}"))
        searches = [step for *_, step in plan if step.startswith(("SEARCH", "SCAN"))]

    assert len(searches) == 3
    assert all("vin=?" in each or "vin_of_hint=?" in each for each in searches)


# --- entries ------------------------------------------------------------------------


async def test_stored_entry_is_found(store: VehicleStore) -> None:
    """Vehicles and VINs without a vehicle are found, with the time of their fetch."""
    entries = {
        vin: Entry(vehicle, at) for at, (vin, vehicle) in enumerate(KNOWN.items())
    }
    entries |= {UNKNOWN: Entry(None, 2**60)}

    assert await store.save(entries, {}) == entries.keys()

    assert await store.find([*entries]) == {
        vin: StoredEntry(entry, 0) for vin, entry in entries.items()
    }


async def test_later_result_replaces_the_entry(
    store: VehicleStore, database: Database
) -> None:
    """A later result replaces the stored one, vehicle or not."""
    for entry in (OLD, NEW, NONE, OLD):
        assert await save(store, entry)
        assert await found(store) == StoredEntry(entry, 0)

    assert await rows(database) == 1


@pytest.mark.parametrize(
    "text",
    ["Ä" * 1_000, "'; DROP TABLE vehicles; --", "\u202e\U0001f69a", "{0} %s :one ?"],
    ids=["long", "SQL", "far away", "marks"],
)
async def test_any_text_can_be_stored(store: VehicleStore, text: str) -> None:
    """The store does not restrict or interpret the texts of vPIC."""
    entry = Entry(Vehicle(text, text, text, text), 1)

    assert await save(store, entry)
    assert await found(store) == StoredEntry(entry, 0)


# --- removals -----------------------------------------------------------------------


@pytest.mark.parametrize("was_stored", [True, False], ids=["stored", "not stored"])
@pytest.mark.parametrize("times", [1, 2])
async def test_a_removal_is_not_undone(
    store: VehicleStore, other: VehicleStore, times: int, *, was_stored: bool
) -> None:
    """The result of a look-up that began before a removal is not stored."""
    if was_stored:
        await save(store, OLD)
    else:
        await store.announce([VIN])
    before = await found(store)
    removed = [await other.remove([VIN]) for _ in range(times)]

    assert not await save(store, NEW, before.removals)

    assert removed == [{VIN} if was_stored else set(), set()][:times]
    # A second removal changes nothing: no look-up has been announced since.
    assert await found(store) == StoredEntry(None, before.removals + 1)


@pytest.mark.parametrize("was_stored", [True, False], ids=["stored", "not stored"])
async def test_a_look_up_after_a_removal_is_stored(
    store: VehicleStore, other: VehicleStore, *, was_stored: bool
) -> None:
    """A result is stored if its look-up was announced afterwards."""
    if was_stored:
        await save(store, OLD)
    await other.remove([VIN])
    after = await store.announce([VIN])

    assert await save(store, NEW, after[VIN])
    assert await found(store) == StoredEntry(NEW, int(was_stored))


async def test_a_later_announcement_saves_no_earlier_look_up(
    store: VehicleStore, other: VehicleStore
) -> None:
    """A removal between two look-ups prevents the first one from storing, only."""
    first = await store.announce([VIN])
    await other.remove([VIN])
    second = await other.announce([VIN])

    assert not await save(store, OLD, first[VIN])
    assert await save(other, NEW, second[VIN])
    assert await found(store) == StoredEntry(NEW, 1)


async def test_removals_of_nothing_write_nothing(
    store: VehicleStore, database: Database
) -> None:
    """VINs that are neither stored nor announced add no row, however many they are."""
    assert await store.remove(vins(500)) == set()

    assert await rows(database) == 0


@on_sqlite
async def test_removals_of_nothing_wait_for_no_writer(
    store: VehicleStore, storage: StorageSettings
) -> None:
    """They succeed while another process has the lock for writing."""
    with closing(sqlite3.connect(str(make_url(storage.url).database))) as other:
        other.execute("BEGIN IMMEDIATE")

        assert await store.remove(vins(2)) == set()

        other.rollback()


async def test_removals_share_a_transaction(store: VehicleStore) -> None:
    """Of many VINs those are returned that were stored, and all of them are gone."""
    batch = vins(20)
    await store.announce(batch[:8])
    await store.save(dict.fromkeys(batch[4:12], NEW), {})

    assert await store.remove(batch) == set(batch[4:12])

    stored = await store.find(batch)
    assert {each.entry for each in stored.values()} == {None}
    assert [stored[vin].removals for vin in batch] == [1] * 12 + [0] * 8


async def test_others_of_a_batch_are_stored(
    store: VehicleStore, other: VehicleStore
) -> None:
    """A removal does not affect the other VINs of a batch."""
    batch = vins(50)
    announced = await store.announce(batch)
    await other.remove([batch[7]])

    stored = await store.save(dict.fromkeys(batch, NEW), announced)

    assert stored == set(batch) - {batch[7]}


async def test_an_announcement_keeps_entries(store: VehicleStore) -> None:
    """The entry of a VIN stays, and is not among the announced VINs."""
    await save(store, OLD)

    assert await store.announce([VIN, UNKNOWN]) == {UNKNOWN: 0}

    assert await found(store) == StoredEntry(OLD, 0)


async def test_markers_expire(
    store: VehicleStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later announcement, of any VIN, deletes rows that have expired."""
    first, second, third = vins(3)
    for at_s, vin in ((0, first), (MARKER_S // 2, second)):
        monkeypatch.setattr(NOW, lambda at_s=at_s: at_s * 1_000_000)
        await store.announce([vin])
    assert await rows(database) == 2

    monkeypatch.setattr(NOW, lambda: MARKER_S * 1_000_000 + 1)
    await store.announce([third])

    assert await rows(database) == 2
    await store.remove([first, second])
    assert await store.find([first]) == {first: NOT_STORED}
    assert (await store.find([second]))[second].removals == 1


async def test_deletion_of_markers_is_bounded(
    store: VehicleStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each announcement deletes a bounded number of expired rows."""
    marks = vins(2 * MAX_MARKERS_DELETED + 1)
    gone = {"is_decoded": False, "removed_at": 0, "removals": 1, "fetched_at": 0}
    empty = dict.fromkeys(("make", "model", "model_year", "body_class"), "")
    async with database.writing() as connection:
        rest = [{"source": SOURCE, "vin": each, **gone, **empty} for each in marks]
        await connection.execute(insert(vehicles), rest)
    monkeypatch.setattr(NOW, lambda: MARKER_S * 1_000_000 + 1)

    left = []
    for _ in range(3):
        await store.announce([VIN])
        left.append(await rows(database) - 1)

    assert left == [MAX_MARKERS_DELETED + 1, 1, 0]


# --- concurrency --------------------------------------------------------------------


async def test_writers_and_removers_at_once(
    store: VehicleStore, other: VehicleStore
) -> None:
    """Concurrent writers and removers end without a deadlock.

    A removal after them is not undone.
    """
    batch = vins(20)

    async def look_up(each: VehicleStore, order: list[Vin]) -> None:
        before = await each.find(order)
        removals = {vin: before[vin].removals for vin in order}
        removals |= await each.announce(order)
        await each.save(dict.fromkeys(order, NEW), removals)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(look_up(store, batch))
            group.create_task(look_up(other, batch[::-1]))
            group.create_task(store.remove(batch[::3]))
            group.create_task(other.remove(batch[::-1]))

    await store.remove(batch)
    assert {stored.entry for stored in (await other.find(batch)).values()} == {None}


# --- hints, and rows of the previous version ----------------------------------------

HINTED: Final = Vin(f"{VIN},1984")
_FORMER_SAVE: Final = """
INSERT INTO vehicles (source, vin, is_decoded, make, model, model_year, body_class,
                      fetched_at, removed_at, removals)
VALUES (:source, :vin, :is_decoded, :make, '', :model_year, '', :at, NULL, 0)
ON CONFLICT (source, vin) DO UPDATE SET
    is_decoded = excluded.is_decoded, make = excluded.make, model = excluded.model,
    model_year = excluded.model_year, body_class = excluded.body_class,
    fetched_at = excluded.fetched_at, removed_at = excluded.removed_at
WHERE vehicles.removals = excluded.removals
"""


async def save_as_before(
    database: Database, make: str = "", model_year: str = "", at: int = 5_000
) -> None:
    """Store a result as the previous version does."""
    row = {
        "source": SOURCE,
        "vin": VIN,
        "make": make,
        "model_year": model_year,
        "is_decoded": bool(make),
        "at": at,
    }
    async with database.writing() as connection:
        await connection.execute(text(_FORMER_SAVE), row)


async def test_rows_of_the_previous_version(
    database: Database, store: VehicleStore
) -> None:
    """They are read; one that this version would take otherwise counts as missing."""
    await save_as_before(database, "PETERBILT", "2014")
    old = Entry(Vehicle("PETERBILT", "", "2014", ""), 5_000)
    assert await found(store) == StoredEntry(old, 0)

    await save_as_before(database, "PETERBILT", "9999")
    assert await found(store) == StoredEntry(None, 0)
    await save_as_before(database)
    assert await found(store) == StoredEntry(None, 0)
    new = Entry(OTHER, 6_000, "1,14", b"all")
    assert await store.save({VIN: new}, {}) == {VIN}
    assert await found(store) == StoredEntry(new, 0)


async def test_previous_version_replaces_a_row(
    database: Database, store: VehicleStore
) -> None:
    """What it has not stored, the codes and all values, is not taken for its own."""
    await store.save({VIN: Entry(OTHER, 4_000, "1,14", b"all")}, {})
    await save_as_before(database, "PETERBILT", "2014")
    old = Entry(Vehicle("PETERBILT", "", "2014", ""), 5_000)
    assert await found(store) == StoredEntry(old, 0)


async def test_a_removal_is_of_all_hints(store: VehicleStore) -> None:
    """Each hint has an entry of its own, and they are removed together."""
    other = Vin(f"{UNKNOWN},1984")
    entries = {VIN: OLD, HINTED: NEW, other: OLD}
    assert await store.save(entries, {}) == entries.keys()
    assert await store.remove([VIN]) == {VIN}
    assert await store.find([VIN, HINTED, other]) == {
        VIN: StoredEntry(None, 1),
        HINTED: StoredEntry(None, 1),
        other: StoredEntry(OLD, 0),
    }
    assert await store.remove([VIN]) == set()
    assert await store.remove([UNKNOWN]) == {UNKNOWN}
