"""Limits of requests in flight, and of the rate of a client."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest
from aiohttp import ClientSession

from service.app import create_app
from service.sandbox.server import RunningSandbox
from service.server.runner import listening
from service.web.limits import LIMITS
from tests.conftest import MakeClient, MakeSettings, message

SLOWEST: Final = {"rate_per_s": 0.001, "burst": 2}
"""Two requests, and then none for as long as any test takes."""


# --- requests in flight -------------------------------------------------------------


async def test_too_many_requests_in_flight_are_refused(client: MakeClient) -> None:
    """The next request gets 503 and `Retry-After`."""
    service = await client(server={"max_in_flight": 3})
    assert service.app is not None
    service.app[LIMITS].in_flight["usage"] = 3

    response = await service.get("/usage")

    assert response.status == 503
    assert response.headers["Retry-After"] == "2"
    assert (await response.json())["code"] == "overloaded"


async def test_each_domain_has_places_of_its_own(client: MakeClient) -> None:
    """Requests of usage that all wait leave those of other domains their places."""
    service = await client(server={"max_in_flight": 1})
    assert service.app is not None
    service.app[LIMITS].in_flight["usage"] = 1

    full = [await service.get(path) for path in ("/v1/usage", "/usage/daily")]
    free = await service.get("/docs")

    assert [each.status for each in full] == [503, 503]
    assert free.status == 200


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics"])
async def test_health_and_metrics_have_no_limits(client: MakeClient, path: str) -> None:
    """They answer in spite of requests in flight and of the rate."""
    service = await client(server={"max_in_flight": 1}, limits=SLOWEST)
    assert service.app is not None
    service.app[LIMITS].in_flight["other"] = 1

    answers = [await service.get(path) for _ in range(5)]

    assert [each.status for each in answers] == [200] * 5
    assert "RateLimit" not in answers[0].headers


async def test_requests_that_wait_are_in_flight(
    client: MakeClient,
    sandbox: RunningSandbox,
    until: Callable[[Callable[[], bool]], Any],
) -> None:
    """Of many clients that wait for a refresh, as many as allowed are answered."""
    sandbox.sandbox.set_messages([message(1)])
    service = await client(server={"max_in_flight": 3})
    assert service.app is not None
    limits = service.app[LIMITS]

    requests = [asyncio.create_task(service.get("/usage")) for _ in range(8)]
    statuses = sorted([(await each).status for each in requests])

    assert statuses == [200] * 3 + [503] * 5
    await until(lambda: limits.in_flight["usage"] == 0)


async def test_a_failed_request_is_released(client: MakeClient) -> None:
    """After an error a request is no longer in flight."""
    service = await client(server={"max_in_flight": 1})

    answers = [await service.get("/usage/nothing") for _ in range(3)]

    assert [each.status for each in answers] == [404] * 3


# --- rates --------------------------------------------------------------------------


async def test_answers_have_rate_headers(client: MakeClient) -> None:
    """Policy and remainder are on every answer, problems included."""
    service = await client(limits={"rate_per_s": 0.5, "burst": 5})
    paths = ["/", "/usage", "/nowhere"]
    answers = [await service.get(path) for path in paths]

    assert [each.status for each in answers] == [200, 200, 404]
    quotas = [each.headers["RateLimit"] for each in answers]
    assert [each.partition(";t=")[0] for each in quotas] == [
        f'"default";r={left}' for left in (4, 3, 2)
    ]
    policies = {each.headers["RateLimit-Policy"] for each in answers}
    assert policies == {'"default";q=5;w=10'}


async def test_a_client_over_its_rate_is_refused(client: MakeClient) -> None:
    """429 has the remainder and `Retry-After`, which agree."""
    service = await client(limits=SLOWEST)
    for _ in range(2):
        assert (await service.get("/")).status == 200

    response = await service.get("/")

    assert response.status == 429
    assert (await response.json())["code"] == "rate_limited"
    wait_s = response.headers["Retry-After"]
    assert response.headers["RateLimit"] == f'"default";r=0;t={wait_s}'
    assert 990 <= int(wait_s) <= 1_000


async def test_the_fast_path_applies_the_rate(
    settings: MakeSettings, sandbox: RunningSandbox
) -> None:
    """Answers before routing are charged too."""
    sandbox.sandbox.set_messages([message(1)])
    made = settings(
        server={"port": 0, "drain_s": 0.0},
        limits={"rate_per_s": 0.001, "burst": 4},
        cache={"ttl_s": 60.0},
        upstream={"base_url": sandbox.url},
    )
    async with (
        listening(create_app(made), made.server) as url,
        ClientSession() as session,
    ):
        answers = [await session.get(f"{url}/usage") for _ in range(6)]
        bodies = [await each.read() for each in answers]

    assert [each.status for each in answers] == [200] * 4 + [429] * 2
    quotas = [each.headers["RateLimit"].partition(";t=")[0] for each in answers]
    assert quotas == [f'"default";r={left}' for left in (3, 2, 1, 0, 0, 0)]
    assert len(set(bodies[:4])) == 1
