"""Calls to vPIC that wait for the one writer of SQLite share its next transaction."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import pytest

from service.storage.errors import (
    StorageError,
    StorageTimeout,
    StorageUnavailable,
    ValueRefused,
)
from service.vehicles.model import Entry, Vin
from service.vehicles.shared_writes import MAX_GROUP, SharedWrites
from service.vehicles.store import VehicleStore
from tests.patience import GIVE_UP_S
from tests.vehicles.conftest import Until, on_sqlite, vins

CALLS: Final = [vins(3 * each + 3)[3 * each :] for each in range(MAX_GROUP + 2)]
"""The VINs of some calls, each in one of them."""


class Writer:
    """Notes the transactions of a store, and holds them up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.announced: list[list[Vin]] = []
        self.saved: list[list[Vin]] = []
        self.may_write = asyncio.Event()
        self.fails: dict[Vin, StorageError] = {}
        self._announce, self._save = VehicleStore.announce, VehicleStore.save
        monkeypatch.setattr(VehicleStore, "announce", self._announce_late())
        monkeypatch.setattr(VehicleStore, "save", self._save_late())

    def _announce_late(self) -> Any:
        async def announce(
            store: VehicleStore, some: Collection[Vin]
        ) -> dict[Vin, int]:
            self.announced.append(sorted(some))
            await self.may_write.wait()
            self._fail(some)
            return await self._announce(store, some)

        return announce

    def _save_late(self) -> Any:
        async def save(
            store: VehicleStore, entries: Mapping[Vin, Entry], removals: Any
        ) -> set[Vin]:
            self.saved.append(sorted(entries))
            await self.may_write.wait()
            self._fail(entries)
            return await self._save(store, entries, removals)

        return save

    def _fail(self, some: Collection[Vin]) -> None:
        for each in some:
            if each in self.fails:
                raise self.fails[each]


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch, stored: VehicleStore) -> Writer:
    """The writer of the store, which writes when the test permits it."""
    return Writer(monkeypatch)


class Start:
    """Announces calls: the first one is in a transaction, and the others wait."""

    def __init__(self, writer: Writer, until: Until) -> None:
        self._writer, self._until = writer, until

    async def __call__(
        self, writes: SharedWrites, calls: Sequence[Collection[Vin]] = CALLS
    ) -> list[asyncio.Task[Mapping[Vin, int]]]:
        first, *others = calls
        tasks = [asyncio.create_task(writes.announce(first))]
        await self._until(lambda: len(self._writer.announced) == 1)
        tasks += [asyncio.create_task(writes.announce(each)) for each in others]
        groups, announced = writes._announcements, self._writer.announced
        await self._until(lambda: len(groups._waiting) + len(announced) >= len(calls))
        return tasks


@pytest.fixture
def start(writer: Writer, until: Until) -> Start:
    """Return what announces calls."""
    return Start(writer, until)


@on_sqlite
async def test_announcements_that_wait_share_a_transaction(
    stored: VehicleStore, writer: Writer, start: Start
) -> None:
    """Each call gets the removals of its VINs; a group is bounded."""
    writes = SharedWrites(stored, GIVE_UP_S)
    tasks = await start(writes)
    writer.may_write.set()
    results = await asyncio.gather(*tasks)
    for asked, removals in zip(CALLS, results, strict=True):
        assert {each: removals[each] for each in asked} == dict.fromkeys(asked, 0)
    sizes = [len(each) for each in writer.announced]
    assert sizes == [3, 3 * MAX_GROUP, 3]
    assert await writes.announce([]) == {}


@on_sqlite
async def test_results_that_wait_share_a_transaction(
    stored: VehicleStore, writer: Writer
) -> None:
    """All are stored, except of a VIN that has been removed meanwhile."""
    writer.may_write.set()
    gone, *others = (each for call in CALLS[:3] for each in call)
    await stored.announce([gone, *others])
    assert await stored.remove([gone]) == set()  # it is announced only
    writer.may_write.clear()
    writes = SharedWrites(stored, GIVE_UP_S)
    tasks = []
    for call in CALLS[:3]:
        entries = {each: Entry(None, 1) for each in call}
        saving = writes.save(entries, dict.fromkeys(call, 0))
        tasks.append(asyncio.create_task(saving))
        await asyncio.sleep(0)
    writer.may_write.set()
    stored_vins = {each for task in tasks for each in await task}
    assert stored_vins == set(others)
    assert [len(each) for each in writer.saved] == [3, 6]


@on_sqlite
@pytest.mark.parametrize("is_first", [True, False])
async def test_a_vin_that_was_removed_between_two_calls_has_the_later_result(
    stored: VehicleStore, writer: Writer, *, is_first: bool
) -> None:
    """A removal lets a VIN be looked up again while the former call is in progress."""
    writer.may_write.set()
    other, twice = CALLS[0][:2]
    await stored.save({twice: Entry(None, 1)}, {})
    await stored.remove([twice])
    writer.may_write.clear()
    writes = SharedWrites(stored, GIVE_UP_S)
    late = {twice: Entry(None, 2)}, {twice: 0}
    new = {twice: Entry(None, 3)}, {twice: 1}
    calls = [({other: Entry(None, 1)}, {}), *([new, late] if is_first else [late, new])]
    tasks = []
    for each in calls:
        tasks.append(asyncio.create_task(writes.save(*each)))
        await asyncio.sleep(0)
    writer.may_write.set()
    _, *results = await asyncio.gather(*tasks)
    assert writer.saved[-1] == [twice]
    assert [twice in each for each in results] == [is_first, not is_first]
    found = (await stored.find([twice]))[twice].entry
    assert found is not None
    assert found.fetched_at == 3


@on_sqlite
async def test_a_refused_value_fails_its_call_only(
    stored: VehicleStore, writer: Writer, start: Start
) -> None:
    """The others of its group are written without it."""
    writes = SharedWrites(stored, GIVE_UP_S)
    writer.fails[CALLS[2][0]] = ValueRefused("no")
    tasks = await start(writes, CALLS[:4])
    writer.may_write.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, ValueRefused) for each in results] == [0, 0, 1, 0]


@on_sqlite
async def test_a_failed_transaction_fails_its_calls(
    stored: VehicleStore, writer: Writer, start: Start
) -> None:
    """Those of the next transaction are announced."""
    writes = SharedWrites(stored, GIVE_UP_S)
    writer.fails[CALLS[0][0]] = StorageUnavailable("locked")
    tasks = await start(writes, CALLS[:3])
    writer.may_write.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, StorageUnavailable) for each in results] == [1, 0, 0]


@on_sqlite
async def test_a_call_that_is_cancelled_is_not_announced(
    stored: VehicleStore, writer: Writer, start: Start
) -> None:
    """It is left out of the next transaction; all cancelled ones need none."""
    writes = SharedWrites(stored, GIVE_UP_S)
    first, second, third = await start(writes, CALLS[:3])
    second.cancel()
    await asyncio.wait([second])
    writer.may_write.set()
    await asyncio.gather(first, third)
    assert writer.announced == [sorted(CALLS[0]), sorted(CALLS[2])]


@on_sqlite
async def test_a_write_has_a_time_limit(stored: VehicleStore, start: Start) -> None:
    """It counts from the call, so also for one that waits for another transaction."""
    writes = SharedWrites(stored, 0.01)
    tasks = await start(writes, CALLS[:2])
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in results] == [StorageTimeout] * 2


@on_sqlite
async def test_closing_fails_what_waits(stored: VehicleStore, start: Start) -> None:
    """Nothing is left behind, and closing twice is harmless."""
    writes = SharedWrites(stored, GIVE_UP_S)
    tasks = await start(writes, CALLS[:3])
    await writes.close()
    await writes.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in results] == [StorageUnavailable] * 3


async def test_calls_are_written_at_once_where_writers_are_many(
    stored: VehicleStore, writer: Writer, start: Start
) -> None:
    """PostgreSQL has a connection for each; SQLite has one writer."""
    writes = SharedWrites(stored, GIVE_UP_S)
    tasks = await start(writes, CALLS[:3])
    assert len(writer.announced) == (1 if stored.has_one_writer else 3)
    writer.may_write.set()
    for asked, removals in zip(CALLS, await asyncio.gather(*tasks), strict=False):
        assert all(removals[each] == 0 for each in asked)
