"""What the tests of faults share: services that start at once, and their keys."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from service.events.keys import add_key
from service.settings import Storage
from service.storage.database import migrate, open_database
from tests.conftest import storage_at
from tests.events.faults.cluster import Cluster
from tests.launcher import Launcher, Service


async def make_key(storage: Storage) -> str:
    """A key that may ask as often as it can."""
    async with open_database(storage) as database:
        return await add_key(database, "shop", rate_per_s=1_000_000)


@pytest.fixture
async def key(storage: Storage) -> str:
    """A key of an application."""
    return await make_key(storage)


@pytest.fixture
def make_service(
    launcher: Launcher, tmp_path: Path
) -> Iterator[Callable[..., Service]]:
    """A factory of services, not started yet, which are killed at the end.

    `make_service(storage, events__max_events=5)` sets `events.max_events`.
    """
    made: list[Service] = []

    def make(storage: Storage, **settings: object) -> Service:
        log = tmp_path / f"service {len(made)}.log"
        usual = {
            "logging__access": "false",
            "server__drain_s": 0.0,
            "server__shutdown_grace_s": 60.0,
        }
        given = {**usual, "storage__url": storage.url, **settings}
        made.append(Service(launcher, log, **given))
        return made[-1]

    yield make
    for service in made:
        if service.process_id is not None:
            service.kill()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """A PostgreSQL of the test's own, running."""
    cluster = Cluster()
    try:
        await cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
async def cluster_storage(cluster: Cluster) -> Storage:
    """An empty database of it, in shape."""
    settings = storage_at(cluster.url.replace("postgresql", "postgresql+asyncpg"))
    await migrate(settings)
    return settings
