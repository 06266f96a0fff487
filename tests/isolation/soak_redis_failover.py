"""Failovers of Redis in random order under load; `make soak` runs this.

SOAK_FAILOVERS rounds, of the seed SOAK_SEED. The services have their real time limits.
"""

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
import redis

from tests.isolation.failover import (
    SETTINGS,
    forget_snapshot,
    has_manifest,
    loading,
    servers,
    upstream,
)
from tests.machines.upstream import SlowUpstream
from tests.redis_sentinels import NAME, ReplicatedRedis
from tests.redis_servers import RedisServer
from tests.running import Running, running, until

__all__ = ["servers", "upstream"]

pytestmark = pytest.mark.services

ROUNDS: Final = int(os.environ.get("SOAK_FAILOVERS", "20"))
SEED: Final = int(os.environ.get("SOAK_SEED", str(random.randrange(1_000_000))))
SERVICES: Final = 2


@pytest.fixture
def services(
    servers: ReplicatedRedis, upstream: SlowUpstream, tmp_path: Path
) -> Iterator[list[Running]]:
    """Return services that share Redis through its Sentinels."""
    settings = {**SETTINGS, "cache__redis_url": servers.url}
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                running(
                    tmp_path / f"service {number}.log",
                    upstream__base_url=upstream.url,
                    **settings,
                )
            )
            for number in range(SERVICES)
        ]


async def replaced(servers: ReplicatedRedis, former: RedisServer) -> None:
    """Wait until the Sentinels have another master."""
    await until(lambda: servers.master() not in {None, former})


async def kill_and_restart(servers: ReplicatedRedis, master: RedisServer) -> None:
    """Kill the master. It comes back as a master, until it is made a replica."""
    master.kill()
    await replaced(servers, master)
    master.start()


async def pause(servers: ReplicatedRedis, master: RedisServer) -> None:
    """Stop the master for so long that it is replaced, and let it go on."""
    assert master.process is not None
    master.process.send_signal(signal.SIGSTOP)
    try:
        await replaced(servers, master)
    finally:
        master.process.send_signal(signal.SIGCONT)


async def command(servers: ReplicatedRedis, master: RedisServer) -> None:
    """Let a Sentinel replace a master that runs."""
    with redis.Redis(port=servers.sentinels[0].port) as client:
        client.execute_command("SENTINEL FAILOVER", NAME)
    await replaced(servers, master)


async def kill_sentinels(servers: ReplicatedRedis, master: RedisServer) -> None:
    """Kill all Sentinels, and start them again."""
    del master
    for each in servers.sentinels:
        each.kill()
    for each in servers.sentinels:
        each.start()


async def kill_a_sentinel_first(servers: ReplicatedRedis, master: RedisServer) -> None:
    """Let two Sentinels replace the master, while the third is away."""
    servers.sentinels[0].kill()
    await kill_and_restart(servers, master)
    servers.sentinels[0].start()


FAULTS: Final[list[Callable[..., object]]] = [
    kill_and_restart,
    pause,
    command,
    kill_sentinels,
    kill_a_sentinel_first,
]


async def test_no_request_fails_in_many_failovers(
    services: list[Running], servers: ReplicatedRedis
) -> None:
    """After each of them, all services share through the master of that time."""
    chosen = random.Random(SEED)
    print(f"\nSOAK_SEED={SEED} SOAK_FAILOVERS={ROUNDS}", flush=True)  # noqa: T201
    async with loading(services) as seen:
        for number in range(ROUNDS):
            await until(servers.is_settled)
            master = servers.master()
            assert master is not None
            fault = chosen.choice(FAULTS)
            await fault(servers, master)  # type: ignore[misc]
            await until(servers.is_settled)
            current = servers.master()
            assert current is not None
            forget_snapshot(current)
            await until(lambda at=current: has_manifest(at))  # type: ignore[misc]
            print(  # noqa: T201
                f"{number + 1}. {fault.__name__}: {seen.statuses.total()} answers",
                flush=True,
            )
            assert seen.failures == []
    seen.check()
    for each in services:
        assert each.process.poll() is None
