"""Machines with a PostgreSQL, a Redis and an HAProxy of their own."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import redis

from service.sandbox.fake_vpic import VPIC_PATH
from service.sandbox.server import RunningSandbox
from service.settings import StorageSettings
from service.storage.database import Database, migrate, open_database
from tests.conftest import storage_at
from tests.events.faults.cluster import Cluster
from tests.launcher import Launcher
from tests.machines.balancer import Balancer
from tests.machines.site import MakeSite, Site, make_machines
from tests.redis_servers import RedisServer

CONNECTIONS: Final = 400
TEMPLATE: Final = "migrated"


class Servers(NamedTuple):
    """What all machines share."""

    postgresql: Cluster
    redis: RedisServer

    def url_of(self, database: str) -> str:
        """Return the URL of a database for the service."""
        url = self.postgresql.url.removesuffix("postgres") + database
        return url.replace("postgresql", "postgresql+asyncpg")


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A PostgreSQL and a Redis, which run for all tests of this folder."""
    postgresql = Cluster(
        *("-c", f"max_connections={CONNECTIONS}"), *("-c", "fsync=off")
    )
    redis = RedisServer(tmp_path_factory.mktemp("redis"))
    made = Servers(postgresql, redis)
    try:
        redis.start()
        asyncio.run(_prepare(made))
        yield made
    finally:
        redis.kill()
        postgresql.remove()


async def _prepare(servers: Servers) -> None:
    await servers.postgresql.start()
    await servers.postgresql.execute(f"CREATE DATABASE {TEMPLATE}")
    await migrate(storage_at(servers.url_of(TEMPLATE)))


@pytest.fixture
async def storage(servers: Servers) -> StorageSettings:
    """A migrated database of one test."""
    name = f"test_{secrets.token_hex(8)}"
    await servers.postgresql.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    return storage_at(servers.url_of(name))


@pytest.fixture
async def database(storage: StorageSettings) -> AsyncIterator[Database]:
    """The same, open."""
    async with open_database(storage) as opened:
        yield opened


@pytest.fixture
def make_site(
    launcher: Launcher,
    tmp_path: Path,
    servers: Servers,
    storage: StorageSettings,
    sandbox: RunningSandbox,
) -> Iterator[MakeSite]:
    """A factory of machines behind a balancer, which are not started yet."""
    sites: list[Site] = []
    with redis.Redis.from_url(servers.redis.url) as client:
        client.flushall()

    def make(*workers: int, **settings: Any) -> Site:
        shared: dict[str, Any] = {
            "storage__url": storage.url,
            "cache__redis_url": servers.redis.url,
            "upstream__base_url": sandbox.url,
            "vehicles__base_url": sandbox.url + VPIC_PATH,
        }
        machines = make_machines(launcher, tmp_path, workers, **(shared | settings))
        balancer = Balancer(tmp_path, [each.port for each in machines])
        sites.append(Site(machines, balancer))
        return sites[-1]

    yield make
    for site in sites:
        site.close()
