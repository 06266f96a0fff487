"""Events are stored all or nothing, each exactly once, whoever else stores them."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import func, select

from service.events import store as store_module
from service.events.errors import FailedEventNotFound, ReplayRefused
from service.events.model import Event, Failure
from service.events.questions import Filter, Questions
from service.events.reading import EventReader
from service.events.store import DUPLICATE, NEW, Arrival, EventStore, Stored
from service.events.tables import events, failed_events
from service.settings import Storage
from service.storage.database import Database, open_database
from service.storage.errors import StorageError, StorageUnavailable, ValueRefused
from tests.events.conftest import event

PROCESSES = 4
Make = Callable[..., Arrival]


@pytest.fixture
def store(database: Database) -> EventStore:
    """Writes to an empty database."""
    return EventStore(database)


@pytest.fixture
def arrival(reader: EventReader) -> Make:
    """A factory of events that come one microsecond after the other."""
    moment = 0

    def make(**more: Any) -> Arrival:
        nonlocal moment
        moment += 1
        return Arrival(reader.read(json.dumps(event(**more)).encode(), "shop"), moment)

    return make


async def number(database: Database, table: Any = events) -> int:
    """How many rows a table has."""
    async with database.reading() as connection:
        return await connection.scalar(select(func.count()).select_from(table)) or 0


def kinds(stored: Sequence[Stored]) -> str:
    """N for new, D for a duplicate, C for a conflict."""
    return "".join("N" if s.is_new else "C" if s.conflict else "D" for s in stored)


def event_of(arrival: Arrival) -> Event:
    """An arrival's event."""
    assert isinstance(arrival.item, Event)
    return arrival.item


async def test_every_column_is_stored(
    store: EventStore, database: Database, arrival: Make
) -> None:
    """A row is the event, field by field, and when it came."""
    arrived = arrival(id="a-1", data={"host": "é", "path": "/"})

    assert await store.store([arrived]) == [NEW]

    async with database.reading() as connection:
        row = (await connection.execute(select(events))).one()._asdict()
    item = event_of(arrived)
    fields = {name: getattr(item, name) for name in item.__struct_fields__}
    del fields["source"]
    assert row == fields | {"received_at": arrived.received_at}


async def test_a_group_of_all_kinds(
    store: EventStore, database: Database, arrival: Make
) -> None:
    """Inside one group the first of an id is kept, and each is told in its order."""
    group = [
        arrival(id="a"),
        arrival(name=""),
        arrival(id="a"),
        arrival(id="b"),
        arrival(id="a", name="other"),
        arrival(),
        arrival(),
    ]

    stored = await store.store(group)

    assert kinds(stored) == "NNDNCND"
    assert await number(database) == 3
    assert await number(database, failed_events) == 2


async def test_a_group_that_is_there_already(
    store: EventStore, database: Database, arrival: Make
) -> None:
    """Sent again it is known, with other content it conflicts; the rest is new."""
    await store.store([arrival(id=name) for name in "abc"])

    again = [
        arrival(id="c"),
        arrival(id="d"),
        arrival(id="a", name="other"),
        arrival(id="b"),
    ]
    stored = await store.store(again)

    assert kinds(stored) == "DNCD"
    assert stored[0] == DUPLICATE
    assert await number(database) == 4
    (failed,) = (await Questions(database).failed(Filter("shop"), 9)).items
    assert [each.code for each in failed.errors] == ["conflict"]
    assert bytes(failed.event) == event_of(again[2]).source


async def test_failures_are_kept_once(
    store: EventStore, database: Database, arrival: Make
) -> None:
    """A retry fails again, and adds nothing; so does a conflict."""
    await store.store([arrival(id="a")])
    for _ in range(2):
        group = [arrival(name=""), arrival(name=""), arrival(id="a", name="other")]
        assert kinds(await store.store(group)) == "NNC"

    assert await number(database, failed_events) == 2


async def test_order_of_keys_is_not_order_of_answers(
    store: EventStore, arrival: Make
) -> None:
    """However rows are sorted to be written, answers are in the order given."""
    await store.store([arrival(id=f"{each}") for each in range(0, 100, 3)])

    stored = await store.store([arrival(id=f"{each}") for each in range(100)])

    assert kinds(stored) == ("DNN" * 34)[:100]


@pytest.mark.parametrize("part", ["event", "failure"])
async def test_a_value_that_is_refused_stores_nothing(
    store: EventStore, database: Database, arrival: Make, part: str
) -> None:
    """A group is all or nothing, be it the very last row that the database refuses."""
    group = [arrival(id="a"), arrival(name=""), arrival(id="b")]
    broken: Event | Failure = replace(event_of(group[2]), key=b"\xff", timestamp=None)
    if part == "failure":
        assert isinstance(group[1].item, Failure)
        broken = replace(group[1].item, id="g", event=None)

    with pytest.raises(StorageError):
        await store.store([*group, Arrival(broken, 4)])

    assert await number(database) == 0
    assert await number(database, failed_events) == 0
    assert kinds(await store.store(group)) == "NNN"


@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
@pytest.mark.services
async def test_postgresql_says_that_it_is_the_value(
    store: EventStore, arrival: Make
) -> None:
    """It takes no NUL in text; no event has one there, but were it so, it is told."""
    broken = replace(event_of(arrival()), session_id="\0")

    with pytest.raises(ValueRefused):
        await store.store([Arrival(broken, 1)])


async def test_processes_store_each_event_once(
    storage: Storage, database: Database, arrival: Make
) -> None:
    """Of all who store the same events at once, for each event one was the first."""
    names = [f"{each}" for each in range(50)]
    orders = [names[shift:] + names[:shift] for shift in range(0, 48, 12)]

    async def run(order: list[str]) -> dict[str, Stored]:
        async with open_database(storage) as own:
            stored = []
            for start in range(0, len(order), 10):
                part = [arrival(id=name) for name in order[start : start + 10]]
                stored += await EventStore(own).store(part)
            return dict(zip(order, stored, strict=True))

    told = await asyncio.gather(*map(run, orders))

    assert len(told) == PROCESSES
    for name in names:
        assert kinds([each[name] for each in told]).count("N") == 1
    assert await number(database) == len(names)


async def test_never_being_first_is_no_endless_loop(
    store: EventStore, arrival: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where others were first each time it tries, it gives up, and can be retried."""
    await store.store([arrival(id="a")])

    async def see_nothing(*_: object) -> dict[bytes, bytes]:
        return {}

    with monkeypatch.context() as patched:
        patched.setattr(store_module, "_digests", see_nothing)
        with pytest.raises(StorageUnavailable, match="all the time"):
            await store.store([arrival(id="a")])

    assert await store.store([arrival(id="a")]) == [DUPLICATE]


# --- replay -------------------------------------------------------------------------


async def fail(store: EventStore, arrival: Make) -> str:
    """Keep a failed event; gives its id."""
    failed = arrival(name="")
    await store.store([failed])
    assert isinstance(failed.item, Failure)
    return failed.item.id


async def test_a_replayed_event_has_failed_no_more(
    store: EventStore, database: Database, arrival: Make
) -> None:
    """It is moved: in one transaction it is an event, and no failed one."""
    failed_id = await fail(store, arrival)

    assert await store.replay(failed_id, arrival(id="a")) == NEW

    assert await number(database) == 1
    assert await number(database, failed_events) == 0
    with pytest.raises(FailedEventNotFound):
        await store.replay(failed_id, arrival(id="a"))


async def test_of_many_replays_one_does_it(
    storage: Storage, store: EventStore, database: Database, arrival: Make
) -> None:
    """At once, from several processes: one accepts it, the others find nothing."""
    failed_id = await fail(store, arrival)

    async def replay() -> Stored:
        async with open_database(storage) as own:
            return await EventStore(own).replay(failed_id, arrival(id="a"))

    told = await asyncio.gather(*(replay() for _ in range(4)), return_exceptions=True)

    assert told.count(NEW) == 1
    assert sum(isinstance(each, FailedEventNotFound) for each in told) == 3
    assert await number(database) == 1


async def test_replaying_what_is_there_is_a_duplicate(
    store: EventStore, database: Database, arrival: Make
) -> None:
    """The application had sent it once more, mended: it is there once."""
    failed_id = await fail(store, arrival)
    await store.store([arrival(id="a")])

    assert await store.replay(failed_id, arrival(id="a")) == DUPLICATE

    assert await number(database) == 1
    assert await number(database, failed_events) == 0


async def test_a_conflict_is_not_replayed(
    store: EventStore, database: Database, arrival: Make
) -> None:
    """Where another event has the id, the failed one stays as it is."""
    failed_id = await fail(store, arrival)
    await store.store([arrival(id="a")])

    with pytest.raises(ReplayRefused, match="another event has this id"):
        await store.replay(failed_id, arrival(id="a", name="other"))

    assert await number(database) == 1
    assert await number(database, failed_events) == 1
