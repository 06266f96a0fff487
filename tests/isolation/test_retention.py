"""Retention beside ingestion: events are accepted while many others are removed."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from aiohttp import ClientSession
from sqlalchemy.engine import make_url

from service.events.model import Event, Source
from service.events.store import EventStore, ReceivedEvent
from service.instants import US_PER_S, now_us
from service.settings import StorageSettings
from service.storage.database import open_database
from tests.events.conftest import event
from tests.events.faults.conftest import make_key
from tests.launcher import Launcher, Service
from tests.patience import GIVE_UP_S
from tests.running import until

EXPIRED: Final = 20_000
BATCHES: Final = 10
"""Fewer than a removal in batches has, and more than one without pauses."""
RETENTION_S: Final = 86_400.0
DATA: Final = '{"text": "' + "x" * 1_000 + '"}'


@pytest.fixture
def services(
    launcher: Launcher, tmp_path: Path, storage: StorageSettings
) -> Iterator[list[Service]]:
    """Two services on one database, which remove expired events when they start."""
    made = [
        Service(
            launcher,
            tmp_path / f"service {number}.log",
            logging__format="json",
            logging__access="false",
            server__drain_s=0.0,
            server__shutdown_grace_s=60.0,
            storage__url=storage.url,
            storage__lock_timeout_s=60.0,
            events__retention_s=RETENTION_S,
            events__retention_interval_s=0.5,
        )
        for number in range(2)
    ]
    yield made
    for service in made:
        if service.process_id is not None:
            service.kill()


async def test_events_are_accepted_during_a_removal(
    storage: StorageSettings, services: list[Service]
) -> None:
    """Requests are answered between batches, each event is removed once and uncounted.

    The file of SQLite shrinks by most of their space.
    """
    await _fill(storage)
    key = await make_key(storage)
    size = _file_bytes(storage)
    for service in services:
        service.start()
        await service.until_up()

    url = f"http://127.0.0.1:{services[0].port}"
    accepted = 0
    async with (
        ClientSession(url, headers={"X-API-Key": key}) as session,
        asyncio.timeout(GIVE_UP_S),
    ):
        while await _count(session) > accepted:
            sent = event(id=str(accepted))
            async with session.post("/events", json=sent) as answer:
                assert answer.status == 202, await answer.text()
            accepted += 1
    await until(lambda: sum(map(_removed, services)) >= EXPIRED)
    # Both are 0 for PostgreSQL.
    await until(lambda: _file_bytes(storage) <= size / 2)
    for service in services:
        assert await service.stop() == 0

    assert sum(map(_removed, services)) == EXPIRED
    # PostgreSQL may have removed all of them before the first request.
    assert accepted > BATCHES or not size


async def _fill(storage: StorageSettings) -> None:
    """Store events that have expired."""
    arrived = now_us() - int(2 * RETENTION_S * US_PER_S)
    received = [
        ReceivedEvent(
            Event(
                key=number.to_bytes(16, "big"),
                application="shop",
                id=f"expired {number}",
                digest=b"digest",
                session_id=f"session {number % 500}",
                category="page interaction",
                name=f"name {number % 10}",
                at=arrived,
                timestamp="2024-05-01T00:00:00Z",
                data=DATA,
                source=Source([b"{}"], 0),
            ),
            arrived + number,
        )
        for number in range(EXPIRED)
    ]
    async with open_database(storage) as database:
        await EventStore(database).store(received)


async def _count(session: ClientSession) -> int:
    """Return the number of events by the statistics."""
    async with session.get("/events/stats") as answer:
        assert answer.status == 200, await answer.text()
        return sum(each["events"] for each in (await answer.json())["counts"])


def _removed(service: Service) -> int:
    """Return the number of removed events by the log of a service."""
    lines = service.log.read_text().splitlines()
    # The first lines are for people.
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return sum(each["events"] for each in entries if each["event"] == "events.removed")


def _file_bytes(storage: StorageSettings) -> int:
    """Return the size that the file of SQLite has after a checkpoint."""
    url = make_url(storage.url)
    if url.get_backend_name() != "sqlite":
        return 0
    with closing(sqlite3.connect(str(url.database))) as connection:
        query = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        return int(connection.execute(query).fetchone()[0])
