"""Retention: expired events are removed by arrival, in batches."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing
from typing import Any, Final
from unittest.mock import Mock, patch

import pytest
from msgspec.structs import replace
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.typing import EventDict

from service.events import retention
from service.events.model import Event, EventError, EventFailure, Source
from service.events.retention import Retention
from service.events.store import EventStore, ReceivedEvent
from service.events.tables import events, failed_events
from service.instants import US_PER_S
from service.settings import StorageSettings, load
from service.storage import maintenance
from service.storage.database import Database, open_database
from service.storage.errors import StorageUnavailable
from service.storage.uses import Use
from tests.events.conftest import on_sqlite
from tests.metric_samples import Read
from tests.metric_samples import value as sample
from tests.patience import GIVE_UP_S

BEHIND: Final = "copilot_usage_events_removal_behind_seconds"
NOW: Final = 1_700_000_000 * US_PER_S
RETENTION_S: Final = 100
SETTINGS: Final = replace(load().settings.events, retention_s=float(RETENTION_S))


def stored(number: int, arrived_s: float, at: int = NOW) -> ReceivedEvent:
    """Return an event that arrived this number of seconds ago."""
    item = Event(
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
        source=Source([b"{}"], 0),
    )
    return ReceivedEvent(item, NOW - int(arrived_s * US_PER_S))


def failed(number: int, arrived_s: float) -> ReceivedEvent:
    """Return a failed event that arrived this number of seconds ago."""
    errors = (EventError("missing", "/data", "this field is mandatory"),)
    item = EventFailure(id=str(number), application="shop", event="{}", errors=errors)
    return ReceivedEvent(item, NOW - int(arrived_s * US_PER_S))


async def fill(database: Database, received: Iterable[ReceivedEvent]) -> None:
    """Store events."""
    await EventStore(database).store(list(received))


async def stored_in(database: Database) -> tuple[list[str], list[str]]:
    """Return the ids of the events, and of the failed events."""
    async with database.reading() as connection:
        return (
            sorted((await connection.scalars(select(events.c.id))).all()),
            sorted((await connection.scalars(select(failed_events.c.id))).all()),
        )


async def test_expired_events_are_removed(
    database: Database, log_entries: list[EventDict], added: Read
) -> None:
    """Events and failed events expire by arrival; they are counted and logged."""
    await fill(
        database,
        [
            stored(1, RETENTION_S + 0.000001),
            stored(2, RETENTION_S, at=0),
            stored(3, 0),
            failed(4, RETENTION_S + 1),
            failed(5, RETENTION_S - 1),
        ],
    )
    expiry = Retention(SETTINGS, database, clock=lambda: NOW)

    assert await expiry.remove() == 2
    assert await stored_in(database) == (["2", "3"], ["5"])
    assert added("copilot_usage_events_removed_total") == 2
    line = {"event": "events.removed", "log_level": "info", "events": 2}
    assert {**line, "behind_s": 1.0} in log_entries
    log_entries.clear()
    assert await expiry.remove() == 0
    assert log_entries == []


async def test_the_delay_of_a_removal_is_measured(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metric has the oldest expired event before each batch, and 0 afterwards."""
    monkeypatch.setattr(retention, "MIN_ROWS", 2)
    monkeypatch.setattr(maintenance, "MAX_ROWS", 2)
    await fill(database, (stored(n, RETENTION_S + 50 - 10 * n) for n in range(5)))
    seen: list[float] = []
    writing = database.writing

    @asynccontextmanager
    async def observed(use: Use) -> AsyncIterator[AsyncConnection]:
        seen.append(sample(BEHIND))
        async with writing(use) as connection:
            yield connection

    with patch.object(database, "writing", observed):
        await Retention(SETTINGS, database, clock=lambda: NOW).remove()

    assert seen[:3] == [50.0, 30.0, 10.0]
    assert sample(BEHIND) == 0


async def test_events_are_removed_in_batches(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each transaction removes at most one batch, also of events that came at once."""
    monkeypatch.setattr(retention, "MIN_ROWS", 3)
    monkeypatch.setattr(maintenance, "MAX_ROWS", 3)
    await fill(database, (stored(n, 500 - n // 5) for n in range(10)))
    seen: list[int] = []
    writing = database.writing

    @asynccontextmanager
    async def observed(use: Use) -> AsyncIterator[AsyncConnection]:
        seen.append(len((await stored_in(database))[0]))
        async with writing(use) as connection:
            yield connection

    with patch.object(database, "writing", observed):
        assert await Retention(SETTINGS, database, clock=lambda: NOW).remove() == 10

    # SQLite gives its space back in the last transaction.
    assert seen == [10, 7, 4, 1, *([0] if database.is_sqlite else [])]


async def test_a_process_leaves_removals_to_another(database: Database) -> None:
    """A process whose batch another process has removed stops, and that one goes on."""
    await fill(database, (stored(n, 5_000 - n) for n in range(2_000)))
    other = Retention(SETTINGS, database, clock=lambda: NOW)
    writing = database.writing
    is_first = True

    @asynccontextmanager
    async def preceded(use: Use) -> AsyncIterator[AsyncConnection]:
        nonlocal is_first
        if is_first:
            is_first = False
            assert await other.remove() == 2_000
            await fill(database, (stored(n, 5_000 - n) for n in range(2_000, 4_000)))
        async with writing(use) as connection:
            yield connection

    with patch.object(database, "writing", preceded):
        assert await Retention(SETTINGS, database, clock=lambda: NOW).remove() == 0

    assert len((await stored_in(database))[0]) == 2_000


async def test_a_long_removal_is_logged_while_it_runs(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    log_entries: list[EventDict],
    added: Read,
) -> None:
    """Lines have the events since the line before; their sum is that of the removal."""
    monkeypatch.setattr(retention, "LOG_EVERY_S", 0.0)
    await fill(database, (stored(n, 5_000 - n) for n in range(1_600)))

    await Retention(SETTINGS, database, clock=lambda: NOW).remove()

    lines = [
        each["events"] for each in log_entries if each["event"] == "events.removed"
    ]
    assert lines[0] == retention.MIN_ROWS
    assert len(lines) > 1
    assert sum(lines) == 1_600 == added("copilot_usage_events_removed_total")


@on_sqlite
async def test_a_file_shrinks_after_a_removal(database: Database) -> None:
    """The space of removed events goes back to the disk, but for a tenth."""
    assert database.file is not None
    large = '{"text": "' + "x" * 10_000 + '"}'
    received = [stored(n, 5_000 - n) for n in range(2_000)]
    await fill(
        database,
        (each._replace(item=replace(each.item, data=large)) for each in received),
    )
    await fill(database, (stored(n, 0) for n in range(5_000, 5_100)))
    await checkpoint(database)
    before = database.file.stat().st_size

    await Retention(SETTINGS, database, clock=lambda: NOW).remove()
    await checkpoint(database)

    assert before > 20_000_000
    assert database.file.stat().st_size < 2_000_000
    assert len((await stored_in(database))[0]) == 100


@on_sqlite
async def test_free_space_of_an_old_file_stays(
    storage: StorageSettings, database: Database
) -> None:
    """A file that cannot shrink in steps keeps its free space for new events."""
    assert database.file is not None
    await database.close()
    with closing(sqlite3.connect(database.file)) as connection:
        connection.executescript("PRAGMA auto_vacuum = NONE; VACUUM")
    async with open_database(storage) as opened:
        await fill(opened, (stored(n, 5_000 - n) for n in range(2_000)))
        await checkpoint(opened)
        before = database.file.stat().st_size

        assert await Retention(SETTINGS, opened, clock=lambda: NOW).remove() == 2_000

        await checkpoint(opened)
        assert database.file.stat().st_size >= before


async def checkpoint(database: Database) -> None:
    """Write everything from the log of SQLite to its file."""
    async with database.reading() as connection:
        await connection.commit()
        raw = await connection.get_raw_connection()
        driver: Any = raw.driver_connection
        await driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def test_concurrent_removals_remove_each_event_once(database: Database) -> None:
    """Several processes together remove only the expired events, and each once."""
    await fill(database, (stored(n, 500 - n) for n in range(200)))
    await fill(database, [stored(999, 1)])

    removed = await asyncio.gather(
        *(Retention(SETTINGS, database, clock=lambda: NOW).remove() for _ in range(4))
    )

    assert sum(removed) == 200
    assert await stored_in(database) == (["999"], [])


@pytest.mark.parametrize(
    "failure, level",
    [(StorageUnavailable("away"), "warning"), (ZeroDivisionError("away"), "error")],
)
async def test_a_failed_removal_is_repeated(
    log_entries: list[EventDict],
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    level: str,
) -> None:
    """A failure, also a defect, is logged once, and each interval tries again."""
    monkeypatch.setattr(maintenance, "MAX_PAUSE_S", 0.0)
    away = Mock(reading=Mock(side_effect=failure))
    often = replace(SETTINGS, retention_interval_s=0.000001)
    running = asyncio.create_task(Retention(often, away).run())
    async with asyncio.timeout(GIVE_UP_S):
        while away.reading.call_count < 3:  # noqa: ASYNC110 - nothing sets an event
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])

    (entry,) = log_entries
    defect = {"exc_info": failure} if level == "error" else {}
    expected = {"event": "events.retention_failed", "log_level": level, **defect}
    assert entry == {**expected, "reason": "away"}
