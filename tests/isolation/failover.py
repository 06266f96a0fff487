"""Services behind Sentinels, and clients that never see a failover."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from aiohttp import ClientSession

from tests.conftest import message
from tests.launcher import Launcher, forked
from tests.machines.upstream import SlowUpstream, slow_upstream
from tests.redis_sentinels import ReplicatedRedis
from tests.redis_servers import RedisServer
from tests.running import Running

SERVICES: Final = 2
PAUSE_S: Final = 0.01
SETTINGS: Final[dict[str, Any]] = {
    "sandbox__enabled": False,
    # Each request that comes later than this begins a refresh, through Redis.
    "cache__ttl_s": 0.05,
    "cache__report_ttl_s": 600.0,
    "limits__rate_per_s": 1_000_000,
    "limits__burst": 10,
    "auth__session_secret": "the same on all machines, and long enough",
}


@pytest.fixture
async def upstream() -> AsyncIterator[SlowUpstream]:
    """Return an upstream with some messages, which counts its calls."""
    async with slow_upstream() as made:
        made.set_messages([message(number) for number in range(1, 30)])
        yield made


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[ReplicatedRedis]:
    """Return a master with two replicas and three Sentinels."""
    made = ReplicatedRedis(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.kill()


class Seen:
    """The answers that clients got."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.bodies: dict[str, set[bytes]] = {}
        """Bodies by revision: each should have one."""
        self.failures: list[str] = []

    def check(self) -> None:
        """Fail if a request failed, or answers of one revision differ."""
        assert self.failures == []
        assert self.statuses.keys() == {200}
        assert {revision: len(each) for revision, each in self.bodies.items()} == (
            dict.fromkeys(self.bodies, 1)
        )


@contextmanager
def services_of(
    launcher: Launcher, servers: ReplicatedRedis, upstream: SlowUpstream, folder: Path
) -> Iterator[list[Running]]:
    """Run services that share Redis through its Sentinels."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                forked(
                    launcher,
                    folder / f"service {number}.log",
                    cache__redis_url=servers.url,
                    upstream__base_url=upstream.url,
                    **SETTINGS,
                )
            )
            for number in range(SERVICES)
        ]


@asynccontextmanager
async def loading(services: list[Running]) -> AsyncIterator[Seen]:
    """Send requests to each service for as long as the context lasts."""
    seen = Seen()
    async with ClientSession() as session:
        tasks = [asyncio.create_task(_send(session, each, seen)) for each in services]
        try:
            yield seen
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _send(session: ClientSession, service: Running, seen: Seen) -> None:
    while True:
        try:
            await ask(session, service, seen)
        except Exception as error:  # noqa: BLE001 - the test fails with all of them
            seen.failures.append(repr(error))
        await asyncio.sleep(PAUSE_S)


async def ask(session: ClientSession, service: Running, seen: Seen) -> str:
    """Get the period, and return its revision."""
    async with session.get(f"http://127.0.0.1:{service.port}/usage") as answer:
        body = await answer.read()
        seen.statuses[answer.status] += 1
        revision = answer.headers.get("Usage-Revision", "")
        seen.bodies.setdefault(revision, set()).add(body)
        return revision


def has_manifest(server: RedisServer) -> bool:
    """Return whether a server has a shared snapshot."""
    return _has(server, "manifest")


def has_lock(server: RedisServer) -> bool:
    """Return whether a server has the lock of a refresh."""
    return _has(server, "lock")


def _has(server: RedisServer, name: str) -> bool:
    with redis.Redis(port=server.port) as client, suppress(redis.RedisError):
        return bool(client.keys(f"copilot-usage:*:{name}"))
    return False


def forget_snapshot(server: RedisServer) -> None:
    """Remove the shared snapshot, so that only a new one is found."""
    with redis.Redis(port=server.port) as client:
        client.flushall()
