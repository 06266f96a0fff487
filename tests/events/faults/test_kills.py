"""Kills at random moments lose no accepted event and double none."""

import asyncio
import os
import random
import secrets
import sqlite3
from collections.abc import Callable
from typing import Final

import pytest
from sqlalchemy.engine import make_url

from service.settings import Storage
from tests.events.faults.cluster import Cluster
from tests.events.faults.conftest import make_key
from tests.events.faults.senders import calling, sending
from tests.launcher import Service

KILLS: Final = 50
KILLS_AMID_START: Final = 8
SEED: Final = int(os.environ.get("KILLS_SEED") or secrets.randbelow(1_000_000))
RESTARTS: Final = 5
MOST_ANSWERS: Final = 20
MOST_TURNS: Final = 300
"""Turns of the loop, which are some milliseconds, that a kill is put off by."""


async def test_the_service_is_killed(
    storage: Storage, key: str, make_service: Callable[..., Service]
) -> None:
    """What is accepted before 58 kills is there once, in order, in a sound database."""
    print(f"KILLS_SEED={SEED}")  # noqa: T201 - to kill at the same moments again
    chance = random.Random(SEED)
    service = make_service(storage)
    wanted = [chance.randint(1, MOST_ANSWERS) for _ in range(KILLS)]
    # None at all: it is killed while it starts, amid the recovery of the database.
    wanted += [0] * KILLS_AMID_START
    chance.shuffle(wanted)

    async with calling(service.port, key) as session:
        async with sending(session, seed=SEED) as senders:
            for more in wanted:
                service.start()
                await senders.until_answered(more)
                for _ in range(chance.randint(0, MOST_TURNS)):
                    await asyncio.sleep(0)
                service.kill()
            service.start()
        await senders.check(session)

    assert any(each.retried for each in senders)
    assert await service.stop() == 0
    check_file(storage)


@pytest.mark.services
async def test_postgresql_is_restarted(
    cluster: Cluster, cluster_storage: Storage, make_service: Callable[..., Service]
) -> None:
    """Away, it costs a 503; back, all goes on; what was accepted before is there."""
    service = make_service(cluster_storage)
    service.start()
    key = await make_key(cluster_storage)
    async with calling(service.port, key) as session:
        async with sending(session) as senders:
            for _ in range(RESTARTS):
                await senders.until_answered(MOST_ANSWERS)
                cluster.stop()
                await senders.until_refused(len(senders))
                await cluster.start()
        await senders.check(session)
    assert await service.stop() == 0


def check_file(storage: Storage) -> None:
    """Fail where SQLite finds its file broken; PostgreSQL says so by itself."""
    url = make_url(storage.url)
    if url.get_backend_name() == "sqlite" and url.database:
        connection = sqlite3.connect(url.database)
        try:
            said = connection.execute("PRAGMA integrity_check").fetchall()
        finally:
            connection.close()
        assert said == [("ok",)]
