"""The store: all or nothing, and each event once between processes."""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import func, select, text

from service.events import store as store_module
from service.events.model import Event, EventFailure
from service.events.parsing import EventParser
from service.events.store import (
    DUPLICATE,
    EventStore,
    ReceivedEvent,
    Stored,
    insert_received,
)
from service.events.tables import events, failed_events
from service.settings import StorageSettings
from service.storage.database import Database, open_database
from service.storage.errors import StorageError, StorageUnavailable, ValueRefused
from tests.events.conftest import event
from tests.patience import GIVE_UP_S

PROCESSES = 4
Make = Callable[..., ReceivedEvent]


@pytest.fixture
def store(database: Database) -> EventStore:
    """A store on an empty database."""
    return EventStore(database)


@pytest.fixture
def received(parser: EventParser) -> Make:
    """A factory of events that arrive one microsecond after the other."""
    moment = 0

    def make(**more: Any) -> ReceivedEvent:
        nonlocal moment
        moment += 1
        return ReceivedEvent(
            parser.parse(json.dumps(event(**more)).encode(), "shop"), moment
        )

    return make


async def number(database: Database, table: Any = events) -> int:
    """Return the number of rows of a table."""
    async with database.reading() as connection:
        return await connection.scalar(select(func.count()).select_from(table)) or 0


def kinds(stored: Sequence[Stored]) -> str:
    """Return N for new, D for a duplicate, C for a conflict."""
    return "".join("N" if s.is_new else "C" if s.conflict else "D" for s in stored)


def event_of(one: ReceivedEvent) -> Event:
    """Return a valid event without its time of arrival."""
    assert isinstance(one.item, Event)
    return one.item


async def test_a_group_of_all_kinds(
    store: EventStore, database: Database, received: Make
) -> None:
    """In a group the first event of an id is stored; outcomes are in order."""
    group = [
        received(id="a"),
        received(name=""),
        received(id="a"),
        received(id="b"),
        received(id="a", name="other"),
        received(),
        received(),
    ]

    stored = await store.store(group)

    assert kinds(stored) == "NNDNCND"
    assert await number(database) == 3
    assert await number(database, failed_events) == 2


@pytest.mark.parametrize("part", ["event", "failure"])
async def test_a_refused_value_stores_nothing(
    store: EventStore, database: Database, received: Make, part: str
) -> None:
    """If the database refuses the last row, no row of the group is stored."""
    group = [received(id="a"), received(name=""), received(id="b")]
    broken: Event | EventFailure = replace(
        event_of(group[2]), key=b"\xff", timestamp=None
    )
    if part == "failure":
        assert isinstance(group[1].item, EventFailure)
        broken = replace(group[1].item, id="g", event=None)

    with pytest.raises(StorageError):
        await store.store([*group, ReceivedEvent(broken, 4)])

    assert await number(database) == 0
    assert await number(database, failed_events) == 0
    assert kinds(await store.store(group)) == "NNN"


@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
@pytest.mark.services
async def test_postgresql_refuses_a_nul(store: EventStore, received: Make) -> None:
    """A NUL in text raises `ValueRefused`; parsed events have none."""
    broken = replace(event_of(received()), session_id="\0")

    with pytest.raises(ValueRefused):
        await store.store([ReceivedEvent(broken, 1)])


async def test_processes_store_each_event_once(
    storage: StorageSettings, database: Database, received: Make
) -> None:
    """For each event exactly one of several concurrent processes is the first."""
    names = [f"{each}" for each in range(50)]
    orders = [names[shift:] + names[:shift] for shift in range(0, 48, 12)]

    async def run(order: list[str]) -> dict[str, Stored]:
        async with open_database(storage) as own:
            stored = []
            for start in range(0, len(order), 10):
                part = [received(id=name) for name in order[start : start + 10]]
                stored += await EventStore(own).store(part)
            return dict(zip(order, stored, strict=True))

    outcomes = await asyncio.gather(*map(run, orders))

    assert len(outcomes) == PROCESSES
    for name in names:
        assert kinds([each[name] for each in outcomes]).count("N") == 1
    assert await number(database) == len(names)


async def test_repeated_collisions_end_with_an_error(
    store: EventStore, received: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `MAX_COLLISIONS` the store raises; a later retry works."""
    await store.store([received(id="a")])

    async def see_nothing(*_: object, **__: object) -> None:
        pass

    with monkeypatch.context() as patched:
        patched.setattr(store_module, "digests_of", see_nothing)
        with pytest.raises(StorageUnavailable, match="all the time"):
            await store.store([received(id="a")])

    assert await store.store([received(id="a")]) == [DUPLICATE]


@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
@pytest.mark.services
async def test_a_group_that_waits_locks_no_later_id(
    storage: StorageSettings, database: Database, received: Make
) -> None:
    """Two groups with the same ids at other times do not wait for each other."""
    # By their times, "b" comes before "a".
    times = {"b": "2024-01-01T00:00:00Z", "a": "2024-01-01T00:00:01Z"}
    first, last = (received(id=each, timestamp=times[each]) for each in "ab")
    async with AsyncExitStack() as stack:
        others = [
            await stack.enter_async_context(open_database(storage)) for _ in range(2)
        ]
        async with others[0].writing() as connection:
            await insert_received(connection, [first], None)
            waiting = asyncio.create_task(EventStore(database).store([last, first]))
            await _until_one_waits(database)

            assert kinds(await EventStore(others[1]).store([last])) == "N"
        assert kinds(await waiting) == "DD"


async def _until_one_waits(database: Database) -> None:
    """Return when a transaction waits for another one that has inserted events."""
    waits = text(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN "
        "(SELECT pid FROM pg_locks WHERE relation = to_regclass('events'))"
    )
    async with asyncio.timeout(GIVE_UP_S):
        while True:
            async with database.reading() as connection:
                if await connection.scalar(waits):
                    return
