"""How the databases answer: by an index and in its order, however much is kept."""

from typing import Any, Final

import msgspec
import pytest
from sqlalchemy import Select, text

from benchmarks.asking import explain
from service.events.questions import (
    EventCursor,
    FailedCursor,
    Filter,
    events_of,
    failed_of,
    session_of,
)
from service.events.reading import EventReader
from service.events.store import Arrival, EventStore
from service.storage.database import Database
from tests.events.conftest import event

AT: Final = 1_700_000_000_000_000
EVENTS: Final = 4_000
"""Enough that PostgreSQL would rather use an index than read them all."""
DAY_US: Final = 86_400_000_000
BEGIN: Final = AT // DAY_US * DAY_US
SESSION: Final = Filter("shop", session_id="session 1")
DAY: Final = Filter("shop", since=BEGIN, until=BEGIN + DAY_US)
CATEGORY: Final = DAY._replace(category="category 1")


@pytest.fixture
async def filled(database: Database, reader: EventReader) -> Database:
    """Events of many sessions and categories, one after the other."""
    arrivals = []
    for n in range(EVENTS):
        sent = event(
            id=str(n),
            session_id=f"session {n % 400}",
            category=f"category {n % 40}",
            timestamp=f"2023-11-14T{n % 24:02}:{n % 60:02}:00Z",
        )
        arrivals.append(Arrival(reader.read(msgspec.json.encode(sent), "shop"), AT + n))
        broken = {**sent, "session_id": ""}
        arrivals.append(
            Arrival(reader.read(msgspec.json.encode(broken), "shop"), AT + n)
        )
    await EventStore(database).store(arrivals)
    if not database.is_sqlite:
        async with database.writing() as connection:
            await connection.execute(text("ANALYZE"))
    return database


QUERIES: Final[list[tuple[Select[Any], str]]] = [
    (session_of("shop", "session 1"), "ix_events_session"),
    (events_of(SESSION, 100), "ix_events_session"),
    (events_of(SESSION, 100, EventCursor(AT, AT, "1")), "ix_events_session"),
    (events_of(CATEGORY, 100), "ix_events_category"),
    (events_of(CATEGORY, 100, EventCursor(AT, AT, "1")), "ix_events_category"),
    (events_of(Filter("shop"), 10), "ix_events_time"),
    (events_of(Filter("shop"), 10, EventCursor(AT, AT, "1")), "ix_events_time"),
    (events_of(DAY, 100), "ix_events_time"),
    (failed_of(Filter("shop"), 10), "ix_failed_events_application"),
    (
        failed_of(Filter("shop"), 10, FailedCursor(AT, "1")),
        "ix_failed_events_application",
    ),
]


async def test_what_is_asked_for_is_found_by_an_index(filled: Database) -> None:
    """No table is read from end to end, and no more is sorted than equals in time."""
    for query, index in QUERIES:
        async with filled.reading() as connection:
            plan = "\n".join(await explain(connection, query))

        assert index in plan
        if filled.is_sqlite:
            assert "SCAN" not in plan
            assert plan.count("TEMP B-TREE") == plan.count("TEMP B-TREE FOR RIGHT PART")
        else:
            assert "Seq Scan" not in plan
