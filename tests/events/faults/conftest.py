"""Services as processes, keys, and a PostgreSQL server of the test's own."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from service.keys.store import add_key
from service.settings import StorageSettings
from service.storage.database import migrate, open_database
from tests.conftest import storage_at
from tests.events.conftest import OWN_EVENTS
from tests.events.faults.cluster import Cluster
from tests.launcher import Launcher, Service


async def make_key(storage: StorageSettings) -> str:
    """Create a key without an effective rate limit."""
    async with open_database(storage) as database:
        return await add_key(database, "shop", OWN_EVENTS, 1_000_000)


@pytest.fixture
async def key(storage: StorageSettings) -> str:
    """A key of the application shop."""
    return await make_key(storage)


@pytest.fixture
def make_service(
    launcher: Launcher, tmp_path: Path
) -> Iterator[Callable[..., Service]]:
    """A factory of services that are not started yet; they are killed at the end.

    `make_service(storage, events__max_events=5)` sets `events.max_events`.
    """
    made: list[Service] = []

    def make(storage: StorageSettings, **settings: object) -> Service:
        log = tmp_path / f"service {len(made)}.log"
        usual = {
            "logging__access": "false",
            "server__drain_s": 0.0,
            "server__shutdown_grace_s": 60.0,
            # A slow machine exceeds none of these.
            "limits__queue_wait_s": 60.0,
            "storage__timeout_s": 60.0,
        }
        chosen = {**usual, "storage__url": storage.url, **settings}
        made.append(Service(launcher, log, **chosen))
        return made[-1]

    yield make
    for service in made:
        if service.process_id is not None:
            service.kill()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """A running PostgreSQL server for one test."""
    cluster = Cluster()
    try:
        await cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
async def cluster_storage(cluster: Cluster) -> StorageSettings:
    """An empty, migrated database on the cluster."""
    settings = storage_at(cluster.url.replace("postgresql", "postgresql+asyncpg"))
    await migrate(settings)
    return settings
