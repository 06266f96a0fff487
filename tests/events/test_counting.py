"""Counts by category and name: exact at any time, whoever wrote the events."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final
from unittest.mock import Mock

import asyncpg
import numpy as np
import pytest
from msgspec.structs import replace
from sqlalchemy import delete, func, insert, select, text, update
from structlog.typing import EventDict

from service.events import counting
from service.events.counting import Counting
from service.events.model import Event, Source
from service.events.queries import EventQueries
from service.events.statements import CountedBy, EventFilter
from service.events.store import EventStore, ReceivedEvent
from service.events.tables import category_counts, event_changes, events, name_counts
from service.storage import maintenance
from service.storage.bulk_inserts import written_columns
from service.storage.database import Database
from service.storage.errors import StorageUnavailable
from tests.events.conftest import Caller, event, send
from tests.metric_samples import value as sample
from tests.patience import GIVE_UP_S

UNCOUNTED: Final = "copilot_usage_events_uncounted_changes"
HOUR_US: Final = 3_600_000_000
NOON: Final = 1_700_000_000_000_000 // (24 * HOUR_US) * 24 * HOUR_US + 12 * HOUR_US
SHOP: Final = EventFilter("shop")


def counted(number: int, **more: Any) -> ReceivedEvent:
    """Return an event with these properties."""
    item = Event(
        key=number.to_bytes(16, "big"),
        application="shop",
        id=str(number),
        digest=b"digest",
        session_id="s",
        category="c",
        name="n",
        at=NOON,
        timestamp="2024-05-01T00:00:00Z",
        data="{}",
        source=Source([b"{}"], 0),
    )
    return ReceivedEvent(replace(item, **more), NOON + number)


async def fill(database: Database, received: Iterable[ReceivedEvent]) -> None:
    """Store events in one transaction."""
    await EventStore(database).store(list(received))


async def counts(
    database: Database, by: CountedBy, event_filter: EventFilter = SHOP
) -> dict[str, int]:
    """Return the answer of a query."""
    queries = EventQueries(database)
    if by == "hour":
        answer = await queries.count_hours(event_filter, zeros=False)
    else:
        answer = await queries.count(by, event_filter, 1_000)
    counted = {each.value: each.events for each in answer.counts}
    return counted | ({"(other)": answer.other} if answer.other else {})


async def rows_of(database: Database) -> list[int]:
    """Return the rows in the tables of changes and of counts."""
    async with database.reading() as connection:
        return [
            int(await connection.scalar(select(func.count()).select_from(table)) or 0)
            for table in (event_changes, category_counts, name_counts)
        ]


def varied(chance: random.Random, numbers: Iterable[int]) -> list[ReceivedEvent]:
    """Return events of several applications, categories, names and days."""
    return [
        counted(
            number,
            application=chance.choice(["shop", "bank"]),
            category=chance.choice(["c", "d", "ä"]),
            name=chance.choice(["n", "m", "😀", "'"]),
            session_id=chance.choice(["s", "t"]),
            at=NOON + chance.randrange(-80 * HOUR_US, 80 * HOUR_US, HOUR_US // 4),
        )
        for number in numbers
    ]


def expected(
    received: list[ReceivedEvent], by: CountedBy, event_filter: EventFilter
) -> dict[str, int]:
    """Count the events one by one."""
    found: Counter[str] = Counter()
    for item, _ in received:
        assert isinstance(item, Event)
        since, until = event_filter.since or item.at, event_filter.until or item.at + 1
        names = ("application", "session_id", "category", "name")
        wanted = [(getattr(event_filter, each), getattr(item, each)) for each in names]
        if since <= item.at < until and all(a is None or a == b for a, b in wanted):
            hour = f"{item.at // HOUR_US}"
            found[hour if by == "hour" else getattr(item, by)] += 1
    return dict(found)


FILTERS: Final = [
    SHOP,
    EventFilter("none"),
    SHOP._replace(category="d"),
    SHOP._replace(since=NOON - 30 * HOUR_US, until=NOON + 41 * HOUR_US),
    SHOP._replace(since=NOON - 2 * HOUR_US, until=NOON + 3 * HOUR_US, category="c"),
    SHOP._replace(since=NOON - 12 * HOUR_US, until=NOON + 12 * HOUR_US),
    SHOP._replace(since=NOON - 11 * HOUR_US, until=NOON + 11 * HOUR_US),
    SHOP._replace(since=NOON + 7 * HOUR_US),
    SHOP._replace(until=NOON - 12 * HOUR_US),
    SHOP._replace(since=NOON + HOUR_US, until=NOON - HOUR_US),
    SHOP._replace(since=NOON, until=NOON),
    SHOP._replace(since=NOON + 1, until=NOON + 5 * HOUR_US),
    SHOP._replace(name="n"),
    SHOP._replace(name="n", since=NOON - 30 * HOUR_US, until=NOON + 5 * HOUR_US + 1),
    SHOP._replace(name="n", category="c", until=NOON - HOUR_US // 2),
    EventFilter(None, name="n"),
    SHOP._replace(session_id="t", since=NOON),
]


async def test_every_count_is_that_of_the_events(database: Database) -> None:
    """With any filter, counts are those of the events, before and after adding up."""
    chance = random.Random(14)
    stored: list[ReceivedEvent] = []
    for start in range(0, 600, 200):
        more = varied(chance, range(start, start + 200))
        stored += more
        await fill(database, more)
        for event_filter in FILTERS:
            for by in ("category", "name", "hour"):
                found = await counts(database, by, event_filter)
                if by == "hour":
                    found = {hours_of(value): each for value, each in found.items()}
                assert found == expected(stored, by, event_filter), (by, event_filter)
        if start:
            await Counting(database).add_changes()
            assert (await rows_of(database))[0] == 0


def hours_of(value: str) -> str:
    """Return the hours since 1970 of a counted hour."""
    return str(np.datetime64(value.removesuffix("Z"), "h").astype(int))


async def test_removed_events_leave_no_counts(database: Database) -> None:
    """Counts decrease with the events, and disappear with the last one."""
    await fill(database, (counted(n, name=f"{n % 3}") for n in range(9)))
    await Counting(database).add_changes()

    async with database.writing() as connection:
        await connection.execute(delete(events).where(events.c.name != "0"))
    assert await counts(database, "name") == {"0": 3}
    await Counting(database).add_changes()
    assert await counts(database, "name") == {"0": 3}
    async with database.writing() as connection:
        await connection.execute(delete(events))
    await Counting(database).add_changes()

    assert await counts(database, "category") == {}
    assert await rows_of(database) == [0, 0, 0]


async def test_events_of_any_writer_are_counted(database: Database) -> None:
    """SQL that copies and changes events keeps the counts exact."""
    await fill(database, (counted(n) for n in range(5)))
    async with database.writing() as connection:
        written = [each for each in events.c if each.name != "position"]
        columns = [
            (each + "-copy").label("id") if each.name == "id" else each
            for each in written
        ]
        copied = select(*columns).where(events.c.id.in_(["1", "2"]))
        await connection.execute(insert(events).from_select(written, copied))
        moved = {"name": "m", "at": NOON + HOUR_US}
        await connection.execute(update(events).where(events.c.id == "3").values(moved))

    for _ in range(2):
        assert await counts(database, "name") == {"n": 6, "m": 1}
        assert list((await counts(database, "hour")).values()) == [6, 1]
        await Counting(database).add_changes()


async def test_a_group_with_stored_events_is_counted_once(database: Database) -> None:
    """Events of a group that collides are not counted with its first attempt."""
    await fill(database, (counted(n) for n in range(5)))
    await fill(database, (counted(n) for n in range(8)))

    assert await counts(database, "category") == {"c": 8}


@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
@pytest.mark.services
async def test_truncate_empties_the_counts(database: Database) -> None:
    """After TRUNCATE the counts are empty, those added up before too."""
    await fill(database, (counted(n) for n in range(5)))
    await Counting(database).add_changes()
    await fill(database, (counted(n) for n in range(5, 9)))

    async with database.writing() as connection:
        await connection.execute(text("TRUNCATE events"))

    assert await rows_of(database) == [0, 0, 0]


@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
@pytest.mark.services
async def test_a_writer_needs_no_right_to_the_counts(database: Database) -> None:
    """A user who may only insert events inserts them, and they are counted."""
    async with database.writing() as connection:
        schema = await connection.scalar(select(func.current_schema()))
        await connection.execute(text(f"CREATE ROLE {schema} LOGIN"))
        await connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {schema}"))
        await connection.execute(text(f"GRANT INSERT ON events TO {schema}"))
    try:
        user = await asyncpg.connect(
            host="127.0.0.1", user=schema, database="test", password="none"
        )
        row = (b"k", "shop", "i", b"d", "s", "c", "n", 0, "t", "{}", 0, *[None] * 3)
        columns = written_columns(events)
        await user.copy_records_to_table(
            "events", schema_name=schema, records=[row], columns=columns
        )
        await user.close()
        assert await counts(database, "name") == {"n": 1}
    finally:
        async with database.writing() as connection:
            await connection.execute(text(f"DROP OWNED BY {schema}"))
            await connection.execute(text(f"DROP ROLE {schema}"))


async def test_names_beyond_the_limit_are_counted_together(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A category counts a limited number of names apart, and "(other)" for the rest."""
    monkeypatch.setattr(counting, "MAX_NAMES", 3)
    names = ["a", "a", "b", "c", "d", "d", "e"]
    for number, name in enumerate(names):
        await fill(database, [counted(number, name=name)])
    await fill(database, [counted(100, name="x", category="other one")])
    await Counting(database).add_changes()

    found = {"a": 2, "b": 1, "c": 1, "(other)": 3, "x": 1}
    assert await counts(database, "name") == found
    # A later event of another name is in the other names, before it is added up too.
    await fill(database, [counted(101, name="d")])
    for _ in range(2):
        assert await counts(database, "name") == found | {"(other)": 4}
        await Counting(database).add_changes()
    assert await counts(database, "name", SHOP._replace(since=NOON + 1)) == {}
    assert await counts(database, "name", SHOP._replace(name="d")) == {"d": 3}


async def test_a_filter_by_name_counts_each_event_of_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a category counts the name apart or not, and before it is added up."""
    monkeypatch.setattr(counting, "MAX_NAMES", 2)
    stored: list[ReceivedEvent] = []
    for start in range(3):
        more = [
            counted(
                start * 100 + number,
                name=f"n{number % 5}",
                category=f"c{number % 2 * number % 3}",
                at=NOON + number * HOUR_US // 3,
            )
            for number in range(40)
        ]
        stored += more
        await fill(database, more)
        for name in ("n0", "n4", "none"):
            for since in (None, NOON + 3 * HOUR_US, NOON + 3 * HOUR_US + 1):
                wanted = SHOP._replace(name=name, since=since)
                for by in ("category", "name", "hour"):
                    found = await counts(database, by, wanted)
                    if by == "hour":
                        found = {hours_of(hour): each for hour, each in found.items()}
                    assert found == expected(stored, by, wanted), (by, wanted)
        if start < 2:
            await Counting(database).add_changes()


async def test_other_names_come_apart_when_they_are_gone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed events decrease the count that they were in; then names have places."""
    monkeypatch.setattr(counting, "MAX_NAMES", 2)
    for number, name in enumerate(["a", "b", "c", "d"]):
        await fill(database, [counted(number, name=name)])
    await Counting(database).add_changes()

    async def replace_by(removed: str, added: ReceivedEvent) -> dict[str, int]:
        async with database.writing() as connection:
            await connection.execute(delete(events).where(events.c.name == removed))
        await fill(database, [added])
        await Counting(database).add_changes()
        return await counts(database, "name")

    # There is room, but "c" is among the other names and must stay there.
    assert await replace_by("a", counted(5, name="c")) == {"b": 1, "(other)": 3}
    assert await replace_by("c", counted(6, name="b")) == {"b": 2, "(other)": 1}
    assert await replace_by("d", counted(7, name="b")) == {"b": 3}
    assert await replace_by("none", counted(8, name="c")) == {"b": 3, "c": 1}


async def test_concurrent_counting_counts_once(database: Database) -> None:
    """Writers, removals and several processes that add up leave exact counts."""
    await fill(database, (counted(n, name=f"{n % 7}") for n in range(2_000)))

    async def write(start: int) -> None:
        for first in range(start, start + 200, 20):
            numbers = range(first, first + 20)
            await fill(database, (counted(n, name=f"{n % 7}") for n in numbers))

    async def remove() -> None:
        for hundred in range(0, 1_000, 100):
            ids = [str(n) for n in range(hundred, hundred + 100)]
            async with database.writing() as connection:
                await connection.execute(delete(events).where(events.c.id.in_(ids)))

    async def add_up() -> None:
        for _ in range(5):
            await Counting(database).add_changes()

    await asyncio.gather(
        *(write(start) for start in (10_000, 11_000, 12_000)),
        remove(),
        *(add_up() for _ in range(3)),
    )

    left = [*range(1_000, 2_000)]
    left += [n for start in (10_000, 11_000, 12_000) for n in range(start, start + 200)]
    wanted = Counter(str(n % 7) for n in left)
    for _ in range(2):
        assert await counts(database, "name") == wanted
        await Counting(database).add_changes()
    assert (await rows_of(database))[0] == 0


async def test_the_service_adds_up(caller: Caller, database: Database) -> None:
    """A running service moves the changes to the counts by itself."""
    client = await caller()
    await send(client, *(event(id=str(n)) for n in range(10)))

    async with asyncio.timeout(GIVE_UP_S):
        while (await rows_of(database))[0]:  # noqa: ASYNC110 - another connection writes
            await asyncio.sleep(0.01)

    assert await rows_of(database) == [0, 3, 3]


@pytest.mark.parametrize(
    "failure, level",
    [(StorageUnavailable("away"), "warning"), (ZeroDivisionError("away"), "error")],
)
async def test_a_failure_is_logged_and_tried_again(
    log_entries: list[EventDict],
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    level: str,
) -> None:
    """Of intervals that fail alike the first leaves a line; a defect ends nothing."""
    monkeypatch.setattr(counting, "EVERY_S", 0.000001)
    away = Mock(reading=Mock(side_effect=failure))
    running = asyncio.create_task(Counting(away).run())
    async with asyncio.timeout(GIVE_UP_S):
        while away.reading.call_count < 3:  # noqa: ASYNC110 - nothing sets an event
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])

    (entry,) = log_entries
    defect = {"exc_info": failure} if level == "error" else {}
    expected = {"event": "events.counting_failed", "log_level": level, **defect}
    assert entry == {**expected, "reason": "away"}


async def test_the_number_of_uncounted_changes_is_measured(
    database: Database, monkeypatch: pytest.MonkeyPatch, log_entries: list[EventDict]
) -> None:
    """The metric has those before each batch, and the log those that are left."""
    monkeypatch.setattr(counting, "MIN_ROWS", 3)
    monkeypatch.setattr(maintenance, "MAX_ROWS", 3)
    for number in range(5):
        await fill(database, [counted(number)])

    await Counting(database).add_changes()

    entry = {"event": "events.counted", "log_level": "debug"}
    assert log_entries == [
        {**entry, "changes": 3, "uncounted": 2},
        {**entry, "changes": 2, "uncounted": 0},
    ]
    assert sample(UNCOUNTED) == 2
    await Counting(database).add_changes()
    assert sample(UNCOUNTED) == 0
