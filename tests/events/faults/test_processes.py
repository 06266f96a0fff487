"""Shutdown and several workers: accepted events are stored and answered."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Callable
from typing import Final

import pytest
from aiohttp import ClientSession
from sqlalchemy import text

from service.settings import StorageSettings
from service.storage.database import Database
from tests.events.conftest import event
from tests.events.faults.senders import all_events, calling, sending
from tests.events.faults.test_kills import check_file
from tests.launcher import Service
from tests.patience import GIVE_UP_S
from tests.running import LOOK_AGAIN_S, until, until_unready

MakeService = Callable[..., Service]
REQUESTS: Final = 20
LOAD: Final = 150


async def test_sigterm_while_events_wait(
    storage: StorageSettings, key: str, database: Database, make_service: MakeService
) -> None:
    """Events accepted before SIGTERM are stored and answered; the exit status is 0."""
    service = make_service(storage, server__drain_s=3.0)
    service.start()
    await service.until_up()
    async with calling(service.port, key) as session:
        # The key is looked up before the database is locked.
        assert await post(session, "first") == 202
        async with database.writing() as connection:
            if not database.is_sqlite:
                await connection.execute(text("LOCK TABLE events IN EXCLUSIVE MODE"))
            ids = [f"event {number}" for number in range(REQUESTS)]
            posts = [asyncio.create_task(post(session, each)) for each in ids]
            await until_waiting(session, REQUESTS)
            service.send_signal(signal.SIGTERM)
            await until_unready(service.port)
        async with asyncio.timeout(GIVE_UP_S):
            assert await asyncio.gather(*posts) == [202] * REQUESTS
    assert await service.ended() == 0

    again = make_service(storage)
    again.start()
    await again.until_up()
    async with calling(again.port, key) as session:
        stored = [each["id"] for each in await all_events(session)]
    assert sorted(stored) == sorted(["first", *ids])


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
async def test_two_workers_share_a_file(
    storage: StorageSettings, key: str, make_service: MakeService
) -> None:
    """Under load and after a kill of one worker, each event is stored once."""
    service = make_service(storage)
    service.start("--workers", "2")
    async with calling(service.port, key) as session:
        async with sending(session, count=16) as senders:
            await senders.until_answered(LOAD)
            first, _ = workers(service)
            os.kill(first, signal.SIGKILL)
            await until(lambda: len(workers(service)) == 3)
            await senders.until_answered(LOAD)
        await senders.check(session)
    assert await service.stop() == 0
    check_file(storage)


async def post(session: ClientSession, event_id: str) -> int:
    """Send an event; return the status."""
    async with session.post("/events", json=event(id=event_id)) as response:
        return response.status


async def until_waiting(session: ClientSession, events: int) -> None:
    """Wait until the backlog has this number of events."""
    async with asyncio.timeout(GIVE_UP_S):
        while await backlog(session) != events:  # noqa: ASYNC110 - no event
            await asyncio.sleep(LOOK_AGAIN_S)


async def backlog(session: ClientSession) -> float:
    """Return the backlog in the metrics."""
    async with session.get("/metrics") as response:
        metrics = await response.text()
    found = re.search(r"^copilot_usage_events_backlog (\S+)$", metrics, re.MULTILINE)
    assert found, metrics
    return float(found[1])


def workers(service: Service) -> list[int]:
    """Return the process ids of all workers started so far."""
    lines = service.log.read_text().splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return [
        entry["process.pid"] for entry in entries if entry["event"] == "worker.started"
    ]
