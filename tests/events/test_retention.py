"""Retention: what has been kept long enough goes, by arrival and in batches."""

import asyncio
from collections.abc import Iterable
from typing import Final
from unittest.mock import Mock

import pytest
from msgspec.structs import replace
from sqlalchemy import select
from structlog.typing import EventDict

from service.events import retention
from service.events.model import Event, EventError, Failure
from service.events.retention import Retention
from service.events.store import Arrival, EventStore
from service.events.tables import events, failed_events
from service.instants import US_PER_S
from service.settings import load
from service.storage.database import Database
from service.storage.errors import StorageUnavailable
from tests.patience import GIVE_UP_S

NOW: Final = 1_700_000_000 * US_PER_S
KEPT_S: Final = 100
KEPT: Final = replace(load().settings.events, retention_s=float(KEPT_S))


def stored(number: int, arrived_s: float, at: int = NOW) -> Arrival:
    """An event that arrived so many seconds ago."""
    made = Event(
        key=b"key %d" % number,
        application="shop",
        id=str(number),
        digest=b"digest",
        session_id="s",
        category="c",
        name="n",
        at=at,
        timestamp="2024-05-01T00:00:00Z",
        data="{}",
        source=b"{}",
    )
    return Arrival(made, NOW - int(arrived_s * US_PER_S))


def failed(number: int, arrived_s: float) -> Arrival:
    """A failed event that arrived so many seconds ago."""
    errors = (EventError("missing", "/data", "this field is mandatory"),)
    made = Failure(id=str(number), application="shop", event="{}", errors=errors)
    return Arrival(made, NOW - int(arrived_s * US_PER_S))


async def fill(database: Database, arrivals: Iterable[Arrival]) -> None:
    """Store them all."""
    await EventStore(database).store(list(arrivals))


async def kept_in(database: Database) -> tuple[list[str], list[str]]:
    """The ids of the events that are there, and of the failed ones."""
    async with database.reading() as connection:
        return (
            sorted((await connection.scalars(select(events.c.id))).all()),
            sorted((await connection.scalars(select(failed_events.c.id))).all()),
        )


async def test_what_arrived_long_ago_goes(
    database: Database, log_entries: list[EventDict]
) -> None:
    """By its arrival, whatever its own time is; failed events too; and it is said."""
    await fill(
        database,
        [
            stored(1, KEPT_S + 0.000001),
            stored(2, KEPT_S, at=0),
            stored(3, 0),
            failed(4, KEPT_S + 1),
            failed(5, KEPT_S - 1),
        ],
    )
    cleaning = Retention(KEPT, database, clock=lambda: NOW)

    assert await cleaning.remove() == 2
    assert await kept_in(database) == (["2", "3"], ["5"])
    assert {"event": "events.removed", "log_level": "info", "events": 2} in log_entries
    log_entries.clear()
    assert await cleaning.remove() == 0
    assert log_entries == []


async def test_it_goes_in_batches(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No transaction removes more than a batch, so that no writer waits long."""
    monkeypatch.setattr(retention, "BATCH_ROWS", 3)
    await fill(database, (stored(n, 500 - n) for n in range(10)))
    writing = Mock(side_effect=database.writing)
    monkeypatch.setattr(database, "writing", writing)

    assert await Retention(KEPT, database, clock=lambda: NOW).remove() == 10

    # Four batches, one that finds nothing more, and one for failed events.
    assert writing.call_count == 6
    assert await kept_in(database) == ([], [])


async def test_many_processes_may_do_it_at_once(database: Database) -> None:
    """Together they remove each event once, and nothing else."""
    await fill(database, (stored(n, 500 - n) for n in range(200)))
    await fill(database, [stored(999, 1)])

    removed = await asyncio.gather(
        *(Retention(KEPT, database, clock=lambda: NOW).remove() for _ in range(4))
    )

    assert sum(removed) == 200
    assert await kept_in(database) == (["999"], [])


async def test_a_removed_event_may_come_again(database: Database) -> None:
    """Its id is free: it is new to a service that has forgotten it."""
    await fill(database, [stored(1, KEPT_S + 1)])
    await Retention(KEPT, database, clock=lambda: NOW).remove()

    (again,) = await EventStore(database).store([stored(1, 0)])

    assert again.is_new


def test_nothing_is_removed_unless_it_is_wanted() -> None:
    """As shipped, events are kept for ever."""
    assert not Retention(load().settings.events, Mock()).is_on
    assert Retention(KEPT, Mock()).is_on


async def test_a_failure_is_not_the_end_of_it(log_entries: list[EventDict]) -> None:
    """It is said, and the next time it is tried again."""
    away = Mock(writing=Mock(side_effect=StorageUnavailable("away")))
    often = replace(KEPT, retention_interval_s=0.000001)
    running = asyncio.create_task(Retention(often, away).run())
    async with asyncio.timeout(GIVE_UP_S):
        while away.writing.call_count < 3:  # noqa: ASYNC110 - nothing sets an event
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])

    said = {"event": "events.retention_failed", "log_level": "warning"}
    assert log_entries[0] == {**said, "reason": "away"}
    assert len(log_entries) >= 2
