"""Limits: what is refused, what callers are told, and who is taken for whom."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from service.app import create_app
from service.sandbox.server import RunningSandbox
from service.serving import listening
from service.settings import Limits as LimitSettings
from service.web.limits import LIMITS, Callers, Limits, TokenBuckets, parse_address
from service.web.problems import RequestProblem
from tests.clock import Clock
from tests.conftest import MakeClient, MakeSettings, message

SLOWEST: Final = {"rate_per_s": 0.001, "burst": 2}
"""Two requests, and then none for as long as any test takes."""


def limits(**keys: Any) -> LimitSettings:
    """The settings of the limits, with a rate unless told otherwise."""
    given = {
        "rate_per_s": 1.0,
        "burst": 2,
        "max_clients": 10,
        "by_credentials": True,
        "trusted_proxies": (),
    }
    return LimitSettings(**{**given, **keys})


# --- requests in flight -------------------------------------------------------------


async def test_beyond_the_bound_a_request_is_refused(client: MakeClient) -> None:
    """With as many in flight as may be, the next gets 503 and when to come back."""
    service = await client(server={"max_in_flight": 3})
    assert service.app is not None
    service.app[LIMITS].in_flight = 3

    response = await service.get("/usage")

    assert response.status == 503
    assert response.headers["Retry-After"] == "2"
    assert (await response.json())["code"] == "overloaded"


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics"])
async def test_overload_does_not_hide_from_those_who_watch(
    client: MakeClient, path: str
) -> None:
    """Health and metrics answer however much is in flight, and whoever asks."""
    service = await client(server={"max_in_flight": 1}, limits=SLOWEST)
    assert service.app is not None
    service.app[LIMITS].in_flight = 1

    answers = [await service.get(path) for _ in range(5)]

    assert [each.status for each in answers] == [200] * 5
    assert "RateLimit" not in answers[0].headers


async def test_requests_that_wait_are_in_flight(
    client: MakeClient,
    sandbox: RunningSandbox,
    until: Callable[[Callable[[], bool]], Any],
) -> None:
    """Of many callers who wait for one refresh, those within the bound are answered."""
    sandbox.sandbox.set_messages([message(1)])
    service = await client(server={"max_in_flight": 3})
    assert service.app is not None
    entry = service.app[LIMITS]

    asked = [asyncio.create_task(service.get("/usage")) for _ in range(8)]
    statuses = sorted([(await each).status for each in asked])

    assert statuses == [200] * 3 + [503] * 5
    await until(lambda: entry.in_flight == 0)


async def test_what_fails_is_in_flight_no_more(client: MakeClient) -> None:
    """A request that ends in an error leaves its place, as any other."""
    service = await client(server={"max_in_flight": 1})

    answers = [await service.get("/usage/nothing") for _ in range(3)]

    assert [each.status for each in answers] == [404] * 3


def test_a_refused_request_takes_no_place(settings: MakeSettings) -> None:
    """Only what was admitted is to be released."""
    entry = Limits(settings(server={"max_in_flight": 1}))
    request = make_mocked_request("GET", "/usage")
    entry.admit(request)
    with pytest.raises(RequestProblem):
        entry.admit(request)
    assert entry.in_flight == 1

    entry.release()

    entry.admit(request)
    assert entry.in_flight == 1


# --- rates --------------------------------------------------------------------------


def test_a_bucket_refills() -> None:
    """A caller may spend the burst at once, and then what has come in since."""
    clock = Clock()
    buckets = TokenBuckets(limits(rate_per_s=2.0, burst=3), clock)

    first = [buckets.take("a") for _ in range(5)]
    clock.pass_s(1.0)
    later = [buckets.take("a") for _ in range(3)]
    clock.pass_s(1_000.0)
    rested = buckets.take("a")

    assert [each.is_allowed for each in first] == [True, True, True, False, False]
    assert [each.remaining for each in first] == [2, 1, 0, 0, 0]
    assert [each.is_allowed for each in later] == [True, True, False]
    assert rested.remaining == 2


def test_a_refused_request_costs_nothing() -> None:
    """Who keeps asking is let in as soon as who waits; each is told when."""
    clock = Clock()
    buckets = TokenBuckets(limits(rate_per_s=0.1, burst=1), clock)
    buckets.take("a")

    assert {buckets.take("a") for _ in range(9)} == {(False, 0, 10)}
    clock.pass_s(9.5)
    assert buckets.take("a") == (False, 0, 1)
    clock.pass_s(0.5)
    assert buckets.take("a").is_allowed


def test_buckets_are_forgotten_at_last() -> None:
    """The memory for callers is bounded; who was not seen for longest goes first."""
    buckets = TokenBuckets(limits(burst=1, max_clients=2), Clock())
    for caller in ("old", "busy", "busy", "new"):
        buckets.take(caller)

    assert len(buckets) == 2
    assert not buckets.take("busy").is_allowed
    assert buckets.take("old").is_allowed


async def test_answers_tell_the_rate(client: MakeClient) -> None:
    """Policy and remainder stand on every answer, also on problems and held ones."""
    service = await client(limits={"rate_per_s": 0.5, "burst": 5})
    paths = ["/", "/usage", "/nowhere"]
    answers = [await service.get(path) for path in paths]

    assert [each.status for each in answers] == [200, 200, 404]
    told = [each.headers["RateLimit"] for each in answers]
    assert [each.partition(";t=")[0] for each in told] == [
        f'"default";r={left}' for left in (4, 3, 2)
    ]
    policies = {each.headers["RateLimit-Policy"] for each in answers}
    assert policies == {'"default";q=5;w=10'}


async def test_beyond_the_rate_a_caller_is_refused(client: MakeClient) -> None:
    """429 says why, what is left, and when to come back; both times agree."""
    service = await client(limits=SLOWEST)
    for _ in range(2):
        assert (await service.get("/")).status == 200

    response = await service.get("/")

    assert response.status == 429
    assert (await response.json())["code"] == "rate_limited"
    wait_s = response.headers["Retry-After"]
    assert response.headers["RateLimit"] == f'"default";r=0;t={wait_s}'
    assert 990 <= int(wait_s) <= 1_000


async def test_without_a_rate_nothing_is_told(client: MakeClient) -> None:
    """As shipped there is no rate, so no caller is counted or told one."""
    response = await (await client()).get("/")

    assert not {"RateLimit", "RateLimit-Policy"} & response.headers.keys()


async def test_the_front_holds_the_rate_too(
    settings: MakeSettings, sandbox: RunningSandbox
) -> None:
    """A fresh period is answered before routing, yet not more often than allowed."""
    sandbox.sandbox.set_messages([message(1)])
    given = settings(
        server={"port": 0, "drain_s": 0.0},
        limits={"rate_per_s": 0.001, "burst": 4},
        cache={"ttl_s": 60.0},
        upstream={"base_url": sandbox.url},
    )
    async with (
        listening(create_app(given), given.server) as url,
        ClientSession() as session,
    ):
        answers = [await session.get(f"{url}/usage") for _ in range(6)]
        bodies = [await each.read() for each in answers]

    assert [each.status for each in answers] == [200] * 4 + [429] * 2
    told = [each.headers["RateLimit"].partition(";t=")[0] for each in answers]
    assert told == [f'"default";r={left}' for left in (3, 2, 1, 0, 0, 0)]
    assert len(set(bodies[:4])) == 1


# --- who is who ---------------------------------------------------------------------


def who(peer: str, *headers: tuple[str, str], **keys: Any) -> str | bytes:
    """Who is asking, from this address with these headers."""
    request = make_mocked_request("GET", "/", CIMultiDict(headers))
    return Callers(limits(**keys)).identify(request.clone(remote=peer))


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([("Authorization", "Bearer k1")], id="bearer"),
        pytest.param([("authorization", "bearer  k1 ")], id="any case"),
        pytest.param([("X-API-Key", "k1")], id="api key"),
        pytest.param([("Authorization", "Basic eA=="), ("X-API-Key", "k1")], id="both"),
    ],
)
def test_a_key_is_a_caller_wherever_it_comes_from(
    headers: list[tuple[str, str]],
) -> None:
    """One key is one caller, another is another, and neither is kept as it is."""
    callers = Callers(limits())

    def identify(peer: str, headers: list[tuple[str, str]]) -> str | bytes:
        request = make_mocked_request("GET", "/", CIMultiDict(headers))
        return callers.identify(request.clone(remote=peer))

    caller = identify("192.0.2.1", headers)
    assert caller == identify("192.0.2.2", headers)
    assert caller != identify("192.0.2.1", [("X-API-Key", "k2")])
    assert isinstance(caller, bytes)
    assert b"k1" not in caller


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="none"),
        pytest.param([("X-API-Key", "")], id="empty"),
        pytest.param([("Authorization", "Bearer ")], id="empty bearer"),
        pytest.param([("Authorization", "Basic eA==")], id="another scheme"),
    ],
)
def test_without_a_key_the_address_counts(headers: list[tuple[str, str]]) -> None:
    """No key, or none that can be one, is no way to be somebody else."""
    assert who("192.0.2.1", *headers) == "192.0.2.1"


def test_keys_need_not_count() -> None:
    """Where nothing checks keys, a setting leaves them out."""
    assert who("192.0.2.1", ("X-API-Key", "k1"), by_credentials=False) == "192.0.2.1"


TRUSTED: Final = ("10.0.0.0/8", "::1", "2001:db8:aa::/48")


@pytest.mark.parametrize(
    "peer, forwarded, caller",
    [
        pytest.param("192.0.2.1", ["198.51.100.7"], "192.0.2.1", id="untrusted peer"),
        pytest.param("10.0.0.1", [], "10.0.0.1", id="nothing forwarded"),
        pytest.param("10.0.0.1", ["198.51.100.7"], "198.51.100.7", id="one hop"),
        pytest.param(
            "10.0.0.1", ["1.1.1.1, 198.51.100.7"], "198.51.100.7", id="forged first"
        ),
        pytest.param(
            "10.0.0.1",
            ["1.1.1.1, 198.51.100.7, 10.9.9.9 , 10.8.8.8"],
            "198.51.100.7",
            id="several of ours",
        ),
        pytest.param(
            "10.0.0.1", ["1.1.1.1", "198.51.100.7"], "198.51.100.7", id="two headers"
        ),
        pytest.param("10.0.0.1", ["10.0.0.2, 10.0.0.3"], "10.0.0.2", id="all ours"),
        pytest.param("10.0.0.1", ["198.51.100.7, ?"], "10.0.0.1", id="malformed"),
        pytest.param("10.0.0.1", ["?, 198.51.100.7"], "198.51.100.7", id="forged only"),
        pytest.param("10.0.0.1", [""], "10.0.0.1", id="empty"),
        pytest.param("10.0.0.1", ["198.51.100.7,"], "10.0.0.1", id="trailing comma"),
        pytest.param("10.0.0.1", ["198.51.100.7:81"], "198.51.100.7", id="port"),
        pytest.param("::1", ["2001:db8:1:2:3::4"], "2001:db8:1:2::/64", id="IPv6"),
        pytest.param("::1", ["[2001:db8:1:2::9]:8"], "2001:db8:1:2::/64", id="v6 port"),
        pytest.param(
            "2001:db8:aa::1", ["198.51.100.7"], "198.51.100.7", id="IPv6 network"
        ),
        pytest.param("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7", id="mapped"),
        pytest.param("::ffff:192.0.2.1", [], "192.0.2.1", id="mapped caller"),
        pytest.param("2001:db8:1:2:3:4:5:6", [], "2001:db8:1:2::/64", id="IPv6 peer"),
        pytest.param("", ["198.51.100.7"], "unknown", id="no address"),
    ],
)
def test_proxies_are_believed_where_they_are_ours(
    peer: str, forwarded: list[str], caller: str
) -> None:
    """The last hop that no proxy of ours has made is the caller; nothing else is."""
    headers = [("X-Forwarded-For", each) for each in forwarded]
    assert who(peer, *headers, trusted_proxies=TRUSTED) == caller


@pytest.mark.parametrize(
    "text", ["", " ", "a.test", "1.2.3", "1.2.3.4.5", "::g", "[]", "1::2::3", "\x00"]
)
def test_what_is_no_address(text: str) -> None:
    """Nothing but an address is taken for one, and odd text raises nothing."""
    assert parse_address(text) is None
