"""The rate of a client holds for three services together that share a Redis."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import ClientSession, TCPConnector

from tests.launcher import Launcher, forked
from tests.redis_servers import RedisServer
from tests.running import Running

pytestmark = pytest.mark.services

BURST: Final = 100
SLACK: Final = 10
SERVICES: Final = 3
PER_SENDER: Final = 50
RATE: Final[dict[str, Any]] = {
    "limits__rate_per_s": 0.001,
    "limits__burst": BURST,
    "auth__session_secret": "the same on all machines, and long enough",
    "auth__require": "",
}


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """Return a running Redis server, which the test kills."""
    made = RedisServer(tmp_path)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def services(
    launcher: Launcher, redis_server: RedisServer, tmp_path: Path
) -> Iterator[list[Running]]:
    """Return three services that share Redis."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                forked(
                    launcher,
                    tmp_path / f"{number}.log",
                    cache__redis_url=redis_server.url,
                    **RATE,
                )
            )
            for number in range(SERVICES)
        ]


async def spray(services: list[Running], client: str) -> Counter[tuple[int, int]]:
    """Send a client's requests to all services at once; count answers by service."""
    answers: Counter[tuple[int, int]] = Counter()

    async def send(session: ClientSession, number: int) -> None:
        url = f"http://127.0.0.1:{services[number].port}/usage"
        headers = {"Authorization": f"Bearer {client}"}
        for _ in range(PER_SENDER):
            async with session.get(url, headers=headers) as answer:
                await answer.read()
                is_named = "Retry-After" in answer.headers
                assert is_named == (answer.status == 429)
                answers[number, answer.status] += 1

    async with ClientSession(connector=TCPConnector(limit=0)) as session:
        numbers = [number for number in range(len(services)) for _ in range(4)]
        await asyncio.gather(*(send(session, number) for number in numbers))
    return answers


def accepted(answers: Counter[tuple[int, int]]) -> list[int]:
    """Return the number of accepted requests of each service; others are refused."""
    assert {status for _, status in answers} <= {200, 429}
    return [answers[number, 200] for number in range(SERVICES)]


async def test_a_client_that_sprays_all_services_gets_one_burst(
    services: list[Running],
) -> None:
    """In sum it is the burst, and at most the slack of each service more."""
    for client in ("one", "another"):
        counts = accepted(await spray(services, client))
        assert BURST <= sum(counts) <= BURST + SERVICES * SLACK
        assert all(counts)


async def test_services_go_on_alone_when_redis_is_killed(
    services: list[Running], redis_server: RedisServer
) -> None:
    """No request fails, and each service accepts at most a burst of its own."""
    spraying = asyncio.create_task(spray(services, "one"))
    await asyncio.sleep(0)
    redis_server.kill()
    counts = accepted(await spraying)
    assert BURST <= sum(counts) <= SERVICES * BURST
    counts = accepted(await spray(services, "another"))
    assert counts == [BURST] * SERVICES
    assert all(each.events("cache.shared.lost") for each in services)
