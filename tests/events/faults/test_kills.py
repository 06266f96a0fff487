"""Kills at random moments lose no accepted event and duplicate none."""

import asyncio
import os
import random
import secrets
import sqlite3
from collections.abc import Callable
from typing import Final

import pytest
from sqlalchemy.engine import make_url

from service.settings import StorageSettings
from tests.events.faults.cluster import Cluster
from tests.events.faults.conftest import make_key
from tests.events.faults.senders import calling, sending
from tests.launcher import Service

KILLS: Final = 50
KILLS_AMID_START: Final = 8
SEED: Final = int(os.environ.get("KILLS_SEED") or secrets.randbelow(1_000_000))
RESTARTS: Final = 5
MAX_ANSWERS: Final = 20
MAX_TURNS: Final = 300
"""Maximum delay of a kill in turns of the event loop, some milliseconds."""


async def test_the_service_is_killed(
    storage: StorageSettings, key: str, make_service: Callable[..., Service]
) -> None:
    """After 58 kills all accepted events are stored once, in order, in a valid file."""
    print(f"KILLS_SEED={SEED}")  # noqa: T201 - for the output of the test
    chance = random.Random(SEED)
    service = make_service(storage)
    answers_before_kill = [chance.randint(1, MAX_ANSWERS) for _ in range(KILLS)]
    # 0: it is killed while it starts, during the recovery of the database.
    answers_before_kill += [0] * KILLS_AMID_START
    chance.shuffle(answers_before_kill)

    async with calling(service.port, key) as session:
        async with sending(session, seed=SEED) as senders:
            for more in answers_before_kill:
                service.start()
                await senders.until_answered(more)
                for _ in range(chance.randint(0, MAX_TURNS)):
                    await asyncio.sleep(0)
                service.kill()
            service.start()
        await senders.check(session)

    assert any(each.retried for each in senders)
    assert await service.stop() == 0
    check_file(storage)


@pytest.mark.services
async def test_postgresql_is_restarted(
    cluster: Cluster,
    cluster_storage: StorageSettings,
    make_service: Callable[..., Service],
) -> None:
    """During restarts requests get 503; accepted events are stored."""
    service = make_service(cluster_storage)
    service.start()
    key = await make_key(cluster_storage)
    async with calling(service.port, key) as session:
        async with sending(session) as senders:
            for _ in range(RESTARTS):
                await senders.until_answered(MAX_ANSWERS)
                cluster.stop()
                await senders.until_refused(len(senders))
                await cluster.start()
        await senders.check(session)
    assert await service.stop() == 0


def check_file(storage: StorageSettings) -> None:
    """Fail if SQLite finds its file corrupt; PostgreSQL detects that by itself."""
    url = make_url(storage.url)
    if url.get_backend_name() == "sqlite" and url.database:
        connection = sqlite3.connect(url.database)
        try:
            result = connection.execute("PRAGMA integrity_check").fetchall()
        finally:
            connection.close()
        assert result == [("ok",)]
