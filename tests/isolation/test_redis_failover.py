"""The master of Redis is killed while services share through it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.isolation.failover import (
    Seen,
    ask,
    forget_snapshot,
    has_lock,
    has_manifest,
    loading,
    servers,
    services_of,
    upstream,
)
from tests.launcher import Launcher
from tests.machines.upstream import SlowUpstream
from tests.redis_sentinels import ReplicatedRedis
from tests.redis_servers import RedisServer
from tests.running import Running, until

__all__ = ["servers", "upstream"]

pytestmark = pytest.mark.services


@pytest.fixture
def services(
    launcher: Launcher,
    servers: ReplicatedRedis,
    upstream: SlowUpstream,
    tmp_path: Path,
) -> Iterator[list[Running]]:
    """Return services that share Redis."""
    with services_of(launcher, servers, upstream, tmp_path) as made:
        yield made


async def kill_the_master(servers: ReplicatedRedis) -> RedisServer:
    """Kill the master, and return the replica that takes its place."""
    await until(servers.is_settled)
    former = servers.master()
    assert former is not None
    former.kill()
    await until(lambda: servers.master() not in {None, former})
    master = servers.master()
    assert master is not None
    return master


async def until_restored(services: list[Running]) -> None:
    """Wait until all services share again."""
    await until(lambda: all(each.events("cache.shared.restored") for each in services))


async def test_no_request_fails_when_the_master_is_killed(
    services: list[Running], servers: ReplicatedRedis
) -> None:
    """The services go on alone, and share through the new master soon afterwards."""
    async with loading(services) as seen:
        await until(lambda: has_manifest(servers.servers[0]))
        master = await kill_the_master(servers)
        await until_restored(services)
        forget_snapshot(master)
        await until(lambda: has_manifest(master))
        before = seen.statuses.total()
        await until(lambda: seen.statuses.total() > before + len(services))
    seen.check()
    for each in services:
        assert each.events("cache.shared.moved")[-1]["master"] == (
            f"127.0.0.1:{master.port}"
        )


async def test_a_refresh_goes_on_when_the_master_with_its_lock_is_killed(
    services: list[Running], servers: ReplicatedRedis, upstream: SlowUpstream
) -> None:
    """The process that waits for it refreshes too, and all answers agree."""
    seen = Seen()
    upstream.close()
    async with ClientSession() as session:
        first = asyncio.create_task(ask(session, services[0], seen))
        await upstream.until_fetched(1)
        waiting = asyncio.create_task(ask(session, services[1], seen))
        await until(lambda: has_lock(servers.servers[0]))
        await kill_the_master(servers)
        await upstream.until_fetched(2)
        await until_restored(services)
        upstream.open()
        await asyncio.gather(first, waiting)
        # Two refreshes are two revisions of the same content, until one is shared.
        while len({await ask(session, each, seen) for each in services}) > 1:
            pass
    seen.check()
    assert len(set[bytes]().union(*seen.bodies.values())) == 1
