"""What the database keeps of vehicles, and that no removal is undone, on each."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import func, insert, select

from service.settings import Storage
from service.storage.database import Database, open_database
from service.storage.errors import StorageError
from service.vehicles.model import Entry, Source, Vehicle, Vin
from service.vehicles.store import (
    FORGOTTEN_AT_ONCE,
    MARK_KEPT_S,
    NOTHING,
    Kept,
    VehicleStore,
)
from service.vehicles.tables import vehicles
from tests.vehicles.conftest import KNOWN, OTHER, UNKNOWN, VIN, vins

SOURCE = Source("https://vpic.example/api")
OLD = Entry(OTHER, 1_000)
NEW = Entry(KNOWN[VIN], 2_000)
NONE = Entry(None, 3_000)
NOW = "service.vehicles.store.now_us"


@pytest.fixture
def store(database: Database) -> VehicleStore:
    """What one source has told, in an empty database."""
    return VehicleStore(database, SOURCE)


@pytest.fixture
async def other(storage: Storage) -> AsyncIterator[VehicleStore]:
    """The same as another process has it: with connections of its own."""
    async with open_database(storage) as database:
        yield VehicleStore(database, SOURCE)


async def keep(store: VehicleStore, entry: Entry, removals: int = 0) -> bool:
    """Keep an entry of the one VIN; whether it was."""
    return await store.keep({VIN: entry}, {VIN: removals}) == {VIN}


async def found(store: VehicleStore) -> Kept:
    """What is kept of the one VIN."""
    return (await store.find([VIN]))[VIN]


async def rows(database: Database) -> int:
    """How many rows there are, marks of removals too."""
    async with database.reading() as connection:
        statement = select(func.count()).select_from(vehicles)
        return int(await connection.scalar(statement) or 0)


# --- keeping ------------------------------------------------------------------------


async def test_what_is_kept_is_found(store: VehicleStore) -> None:
    """Vehicles and VINs without one, with the time when they were told."""
    entries = {
        vin: Entry(vehicle, at) for at, (vin, vehicle) in enumerate(KNOWN.items())
    }
    entries |= {UNKNOWN: Entry(None, 2**60)}

    assert await store.keep(entries, {}) == entries.keys()

    assert await store.find([*entries]) == {
        vin: Kept(entry, 0) for vin, entry in entries.items()
    }


async def test_what_is_not_kept_is_nothing(store: VehicleStore) -> None:
    """Every VIN that was asked for is answered."""
    await keep(store, NEW)

    assert await store.find([UNKNOWN, VIN]) == {UNKNOWN: NOTHING, VIN: Kept(NEW, 0)}
    assert await store.find([]) == {}


async def test_the_last_word_counts(store: VehicleStore, database: Database) -> None:
    """What is told later takes the place of what was told, a vehicle or none."""
    for entry in (OLD, NEW, NONE, OLD):
        assert await keep(store, entry)
        assert await found(store) == Kept(entry, 0)

    assert await rows(database) == 1


async def test_many_at_once(store: VehicleStore) -> None:
    """As many as one request may have, written and read in one go."""
    entries = {vin: Entry(OTHER, 1) for vin in vins(500)}

    assert await store.keep(entries, {}) == entries.keys()
    assert len(await store.find(vins(500))) == 500


async def test_nothing_to_keep(store: VehicleStore, database: Database) -> None:
    """It is no error, and nothing is written."""
    assert await store.keep({}, {}) == set()
    assert await rows(database) == 0


@pytest.mark.parametrize(
    "text",
    ["Ä" * 1_000, "'; DROP TABLE vehicles; --", "\u202e\U0001f69a", "{0} %s :one ?"],
    ids=["long", "SQL", "far away", "marks"],
)
async def test_any_text_is_kept(store: VehicleStore, text: str) -> None:
    """vPIC may call a vehicle what it likes."""
    entry = Entry(Vehicle(text, text, text, text), 1)

    assert await keep(store, entry)
    assert await found(store) == Kept(entry, 0)


async def test_sources_are_apart(store: VehicleStore, database: Database) -> None:
    """What a sandbox has invented is not found where the real one is asked."""
    sandbox = VehicleStore(database, Source("sandbox"))
    await keep(sandbox, OLD)
    assert await found(store) == NOTHING

    await keep(store, NEW)
    assert await sandbox.remove(VIN)
    assert await found(store) == Kept(NEW, 0)


# --- removing -----------------------------------------------------------------------


async def test_what_is_removed_is_not_found(store: VehicleStore) -> None:
    """Once it was kept, and then it is not."""
    await keep(store, NEW)

    assert [await store.remove(VIN) for _ in range(3)] == [True, False, False]
    assert (await found(store)).entry is None


async def test_a_removal_takes_no_other(store: VehicleStore) -> None:
    """Only the one VIN is forgotten."""
    await store.keep({VIN: NEW, UNKNOWN: NONE}, {})
    await store.remove(VIN)

    assert (await store.find([UNKNOWN]))[UNKNOWN] == Kept(NONE, 0)


async def test_after_a_removal_it_is_kept_again(store: VehicleStore) -> None:
    """What was asked for after the removal is no news of before."""
    await keep(store, OLD)
    await store.remove(VIN)

    removals = (await found(store)).removals
    assert await keep(store, NEW, removals)
    assert await found(store) == Kept(NEW, removals)
    assert await store.remove(VIN)


@pytest.mark.parametrize("was_kept", [True, False], ids=["kept", "not kept"])
@pytest.mark.parametrize("times", [1, 2])
async def test_a_removal_is_not_undone(
    store: VehicleStore, other: VehicleStore, times: int, *, was_kept: bool
) -> None:
    """Who asked before another process's removal keeps nothing after it."""
    if was_kept:
        await keep(store, OLD)
    before = await found(store)
    for _ in range(times):
        await other.remove(VIN)

    assert not await keep(store, NEW, before.removals)

    assert (await found(store)).entry is None
    assert (await found(store)).removals == before.removals + times


@pytest.mark.parametrize("was_kept", [True, False], ids=["kept", "not kept"])
async def test_without_the_count_it_would_be(
    store: VehicleStore, other: VehicleStore, *, was_kept: bool
) -> None:
    """The danger is real: with the count of after the removal it is kept."""
    if was_kept:
        await keep(store, OLD)
    await other.remove(VIN)
    after = await found(store)

    assert await keep(store, NEW, after.removals)
    assert await found(store) == Kept(NEW, after.removals)


async def test_others_of_a_batch_are_kept(
    store: VehicleStore, other: VehicleStore
) -> None:
    """What was removed meanwhile takes nothing from the rest of its batch."""
    batch = vins(50)
    await other.remove(batch[7])

    kept = await store.keep(dict.fromkeys(batch, NEW), {})

    assert kept == set(batch) - {batch[7]}


async def test_a_mark_is_forgotten_in_the_end(
    store: VehicleStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later removal, of any VIN, takes away marks that nobody can need."""
    first, second, third = vins(3)
    for at_s, vin in ((0, first), (MARK_KEPT_S // 2, second)):
        monkeypatch.setattr(NOW, lambda at_s=at_s: at_s * 1_000_000)
        await store.remove(vin)
    assert await rows(database) == 2

    monkeypatch.setattr(NOW, lambda: MARK_KEPT_S * 1_000_000 + 1)
    await store.remove(third)

    assert await rows(database) == 2
    assert await store.find([first]) == {first: NOTHING}
    assert (await store.find([second]))[second].removals == 1


async def test_no_removal_forgets_many_marks(
    store: VehicleStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, each removal takes some away, and none takes long."""
    marks = vins(2 * FORGOTTEN_AT_ONCE + 1)
    gone = {"is_decoded": False, "removed_at": 0, "removals": 1, "fetched_at": 0}
    empty = dict.fromkeys(("make", "model", "model_year", "body_class"), "")
    async with database.writing() as connection:
        rest = [{"source": SOURCE, "vin": each, **gone, **empty} for each in marks]
        await connection.execute(insert(vehicles), rest)
    monkeypatch.setattr(NOW, lambda: MARK_KEPT_S * 1_000_000 + 1)

    left = []
    for each in (VIN, VIN, VIN):
        await store.remove(each)
        left.append(await rows(database) - 1)

    assert left == [FORGOTTEN_AT_ONCE + 1, 1, 0]


async def test_a_mark_lasts_from_the_last_removal(
    store: VehicleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed again it is remembered as long again: look-ups of then may go on."""
    monkeypatch.setattr(NOW, lambda: 0)
    await store.remove(VIN)
    monkeypatch.setattr(NOW, lambda: MARK_KEPT_S * 1_000_000)
    before = await found(store)
    await store.remove(VIN)
    monkeypatch.setattr(NOW, lambda: MARK_KEPT_S * 1_000_000 + 1)
    await store.remove(UNKNOWN)

    assert not await keep(store, NEW, before.removals)


# --- at the same time ---------------------------------------------------------------


async def test_writers_and_removers_at_once(
    store: VehicleStore, other: VehicleStore
) -> None:
    """However they come between each other, all end, and the last removal holds."""
    batch = vins(20)

    async def look_up(each: VehicleStore, order: list[Vin]) -> None:
        before = await each.find(order)
        removals = {vin: before[vin].removals for vin in order}
        await each.keep(dict.fromkeys(order, NEW), removals)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(look_up(store, batch))
            group.create_task(look_up(other, batch[::-1]))
            for vin in batch[::5]:
                group.create_task(other.remove(vin))

    for vin in batch:
        await store.remove(vin)
    assert {kept.entry for kept in (await other.find(batch)).values()} == {None}


async def test_one_remover_finds_it(store: VehicleStore, other: VehicleStore) -> None:
    """Of many that remove the same VIN at once, one is told that it was kept."""
    await keep(store, NEW)

    removed = await asyncio.gather(
        *(each.remove(VIN) for each in (store, other) for _ in range(4))
    )

    assert sorted(removed) == [False] * 7 + [True]


async def test_a_database_without_the_table(
    store: VehicleStore, database: Database
) -> None:
    """Its failure is one of ours, whatever is asked."""
    async with database.writing() as connection:
        await connection.run_sync(vehicles.drop)

    for asking in (store.find([VIN]), keep(store, NEW), store.remove(VIN)):
        with pytest.raises(StorageError):
            await asking
