"""SQL statements: the databases use an index for each, in its order."""

import re
from itertools import product
from typing import Any, Final, get_args

import msgspec
import pytest
from sqlalchemy import Select, insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from benchmarks.asking import explain
from service.events.count_statements import select_counts
from service.events.counting import Counting
from service.events.failed_statements import (
    FailedFilter,
    FailedStatements,
    FailedStatus,
)
from service.events.parsing import EventParser
from service.events.statements import (
    CountedBy,
    EventCursor,
    EventFilter,
    FailedCursor,
    select_events,
    select_session,
)
from service.events.store import EventStore, ReceivedEvent
from service.events.tables import events
from service.storage.database import Database
from tests.events.conftest import event

AT: Final = 1_700_000_000_000_000
EVENTS: Final = 4_000
"""Enough for PostgreSQL to prefer an index to a sequential scan."""
DAY_US: Final = 86_400_000_000
BEGIN: Final = AT // DAY_US * DAY_US
SESSION: Final = EventFilter("shop", session_id="session 1")
DAY: Final = EventFilter("shop", since=BEGIN, until=BEGIN + DAY_US)
CATEGORY: Final = DAY._replace(category="category 1")


@pytest.fixture
async def filled(database: Database, parser: EventParser) -> Database:
    """A database with events of many sessions and categories."""
    received = []
    for n in range(EVENTS):
        sent = event(
            id=str(n),
            session_id=f"session {n % 400}",
            category=f"category {n % 40}",
            timestamp=f"2023-11-14T{n % 24:02}:{n % 60:02}:00Z",
        )
        received.append(
            ReceivedEvent(parser.parse(msgspec.json.encode(sent), "shop"), AT + n)
        )
        broken = {**sent, "session_id": ""}
        received.append(
            ReceivedEvent(parser.parse(msgspec.json.encode(broken), "shop"), AT + n)
        )
    await EventStore(database).store(received)
    await Counting(database).add_changes()
    if not database.is_sqlite:
        async with database.writing() as connection:
            # Not of all tables: those of other tests may be locked.
            own = "events, failed_events, event_changes, category_counts, name_counts"
            await connection.execute(text(f"ANALYZE {own}"))
    return database


QUERIES: Final[list[tuple[Select[Any], str]]] = [
    (select_session("shop", "session 1"), "ix_events_session"),
    (select_events(SESSION, 100), "ix_events_session"),
    (select_events(SESSION, 100, EventCursor(AT, AT, "1")), "ix_events_session"),
    (select_events(CATEGORY, 100), "ix_events_category"),
    (select_events(CATEGORY, 100, EventCursor(AT, AT, "1")), "ix_events_category"),
    (select_events(EventFilter("shop"), 10), "ix_events_time"),
    (
        select_events(EventFilter("shop"), 10, EventCursor(AT, AT, "1")),
        "ix_events_time",
    ),
    (select_events(DAY, 100), "ix_events_time"),
]


HOUR_US: Final = 3_600_000_000
COUNTS: Final[list[tuple[CountedBy, EventFilter]]] = [
    ("category", EventFilter("shop")),
    ("category", DAY),
    ("category", DAY._replace(since=BEGIN - HOUR_US, until=None)),
    ("name", EventFilter("shop")),
    ("name", CATEGORY),
    ("name", DAY._replace(since=None, until=BEGIN + 7 * HOUR_US)),
    ("hour", EventFilter("shop")),
    ("hour", CATEGORY),
    ("hour", DAY._replace(since=BEGIN - 5 * HOUR_US)),
]


async def test_counts_of_whole_hours_read_no_event(filled: Database) -> None:
    """They read ranges of the tables of counts, by their keys."""
    for by, event_filter in COUNTS:
        async with filled.reading() as connection:
            plan = "\n".join(
                await explain(connection, select_counts(by, event_filter, 10))
            )

        assert "_counts" in plan
        assert "event_changes" in plan
        assert not re.search(r"(SEARCH|SCAN|on) events\b|ix_events", plan)
        assert not re.search(r"SCAN \w+_counts", plan)


async def test_counts_of_a_name_look_events_up_by_category(filled: Database) -> None:
    """They read no event of a category that counts the name apart."""
    query = select_counts("hour", EventFilter("shop", name="pageview"), 10)
    async with filled.reading() as connection:
        plan = "\n".join(await explain(connection, query))

    assert "ix_events_category" in plan
    assert not re.search(r"(SCAN|Seq Scan on) events\b", plan), plan


async def test_every_query_uses_an_index(filled: Database) -> None:
    """No query scans a table, or sorts more than events of one time."""
    for query, index in QUERIES:
        async with filled.reading() as connection:
            plan = "\n".join(await explain(connection, query))

        assert index in plan
        if filled.is_sqlite:
            assert "SCAN" not in plan
            assert plan.count("TEMP B-TREE") == plan.count("TEMP B-TREE FOR RIGHT PART")
        else:
            assert "Seq Scan" not in plan


async def test_failed_events_are_compared_by_indexes(filled: Database) -> None:
    """A page reads its failed events, and looks each one up in unique indexes."""
    statements = FailedStatements(filled.dialect)
    for status in get_args(FailedStatus):
        wanted = FailedFilter("shop", status=status)
        query = statements.select_page(wanted, 10, FailedCursor(AT, "1"))
        async with filled.reading() as connection:
            plan = "\n".join(await explain(connection, query))
        assert "ix_failed_events_application" in plan
        assert "ux_events_id" in plan
        assert "ux_events_sent" in plan
        assert not re.search(r"(SCAN|Seq Scan on) (failed_)?events\b", plan), plan


async def work_of(connection: AsyncConnection, query: Select[Any]) -> int:
    """Return the steps of SQLite's virtual machine, or the blocks PostgreSQL reads."""
    dialect = connection.dialect
    sql = str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    if dialect.name == "postgresql":
        how = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)"
        [[plan]] = (await connection.exec_driver_sql(f"{how} {sql}")).all()
        return int(plan[0]["Plan"]["Shared Hit Blocks"])
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    raw = (await connection.get_raw_connection()).driver_connection
    assert raw is not None
    await raw.set_progress_handler(count, 1)
    await connection.exec_driver_sql(sql)
    await raw.set_progress_handler(None, 0)
    return steps


async def test_the_last_page_takes_no_more_work_than_the_first(
    filled: Database,
) -> None:
    """The database steps over no row of the pages before, whatever the range is."""
    last = EventCursor(BEGIN + 23 * HOUR_US, 0, "")
    ends = [(BEGIN, None), (None, BEGIN + DAY_US), (BEGIN, BEGIN + DAY_US)]
    for since, until in ends:
        query = EventFilter("shop", since=since, until=until)
        async with filled.reading() as connection:
            await work_of(connection, select_events(query, 10, last))
            first = await work_of(connection, select_events(query, 10))
            work = await work_of(connection, select_events(query, 10, last))

        assert work <= 2 * first, (since, until)


async def test_the_last_page_of_failed_events_takes_no_more_work_than_the_first(
    filled: Database,
) -> None:
    """A step of a replay, too, reads no failed event of those before its cursor."""
    statements = FailedStatements(filled.dialect)
    last = FailedCursor(AT + EVENTS - 20, "")
    for select_some in (statements.select_page, statements.select_sizes):
        wanted = FailedFilter("shop", since=AT, status=None)
        async with filled.reading() as connection:
            await work_of(connection, select_some(wanted, 10, last))
            first = await work_of(connection, select_some(wanted, 10, None))
            work = await work_of(connection, select_some(wanted, 10, last))

        assert work <= 2 * first


async def test_pages_of_failed_events_apply_the_cursor_and_the_range(
    filled: Database,
) -> None:
    """Failed events are those after the later one of the cursor and the begin."""
    statements = FailedStatements(filled.dialect)
    for since, place in product([None, *range(-1, 4)], repeat=2):
        begin_at = None if since is None else AT + since
        wanted = FailedFilter("shop", since=begin_at, status=None)
        cursor = None if place is None else FailedCursor(AT + place, "~")
        async with filled.reading() as connection:
            query = statements.select_page(wanted, 2, cursor)
            found = [row.received_at - AT for row in await connection.execute(query)]

        begin = max(0, since or 0, 0 if place is None else place + 1)
        assert found == [begin, begin + 1, begin + 2]


async def test_pages_have_what_follows_the_cursor_in_the_range(
    database: Database,
) -> None:
    """Ranges and cursors apply together, also a cursor from outside of the range."""
    keys = [
        (at, arrival, f"{letter}{at}{arrival}")
        for at, arrival, letter in product(range(3), range(2), "bd")
    ]
    row = {"application": "shop", "digest": b"", "session_id": "s", "timestamp": ""}
    row |= {"category": "c", "name": "n", "data": "{}"}
    rows = [
        {**row, "key": key[2].encode()}
        | dict(zip(EventCursor._fields, key, strict=True))
        for key in keys
    ]
    async with database.writing() as connection:
        await connection.execute(insert(events), rows)
    bounds = [None, -1, 0, 1, 2, 3]
    cursors = [None, *map(EventCursor._make, product(range(-1, 4), range(2), "abcd"))]

    async with database.reading() as connection:
        for since, until, cursor in product(bounds, bounds, cursors):
            query = select_events(
                EventFilter("shop", since=since, until=until), 3, cursor
            )
            page = [
                (row.at, row.received_at, row.id)
                for row in await connection.execute(query)
            ]

            assert (
                page
                == [
                    key
                    for key in keys
                    if (since is None or key[0] >= since)
                    and (until is None or key[0] < until)
                    and (cursor is None or key > cursor)
                ][:4]
            ), (since, until, cursor)
