"""Caching as RFC 9111 and RFC 9110 §13 have it, seen from a cache before the service.

The cases restate what the public tests of HTTP caches ask of freshness and of
conditional requests, for the answers of an origin server.
"""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer
from multidict import CIMultiDict

from service.app import create_app
from service.sandbox.server import RunningSandbox
from service.server.runner import listening
from tests.clock import Clock, drive_periods
from tests.conftest import MakeSettings, message

TTL_S: Final = 60
STALE_S: Final = 300
CACHED_PATHS: Final = ("/usage", "/usage/daily", "/usage/reports", "/usage?limit=2")
REPEATED_IN_304: Final = ("Cache-Control", "ETag", "Vary", "Date", "Usage-Revision")


class Stored(NamedTuple):
    """An answer as a cache stores it."""

    headers: CIMultiDict[str]

    @property
    def directives(self) -> dict[str, int | None]:
        """The directives of `Cache-Control`, with their seconds."""
        found = re.findall(r"([\w-]+)(?:=(\d+))?", self.headers["Cache-Control"])
        return {name: int(value) if value else None for name, value in found}

    @property
    def lifetime_s(self) -> int:
        """The freshness lifetime (RFC 9111 §4.2.1)."""
        return self.directives["max-age"] or 0

    @property
    def age_s(self) -> int:
        """The age when the answer was received (RFC 9111 §4.2.3)."""
        return int(self.headers["Age"])

    def is_fresh_after(self, seconds: float) -> bool:
        """Return whether a cache may use it so long after it was received."""
        return self.lifetime_s > self.age_s + seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that ages the snapshot by hand."""
    clock = Clock()
    drive_periods(monkeypatch, clock)
    return clock


@pytest.fixture(params=["routed", "fast path"])
async def service(
    request: pytest.FixtureRequest,
    settings: MakeSettings,
    sandbox: RunningSandbox,
    clock: Clock,
) -> AsyncIterator[ClientSession]:
    """A service whose answers are fresh for a minute, and usable for five more.

    The fast path answers what it can of the same requests, and has to do it alike.
    """
    sandbox.sandbox.set_messages([message(each) for each in range(20)])
    cache = {
        "ttl_s": TTL_S,
        "stale_while_revalidate_s": STALE_S,
        "stale_if_error_s": STALE_S,
    }
    chosen = settings(
        cache=cache,
        upstream={"base_url": sandbox.url},
        server={"port": 0, "drain_s": 0},
    )
    app = create_app(chosen)
    serving = TestServer(app) if request.param == "routed" else None
    async with AsyncExitStack() as stack:
        if serving is not None:
            await stack.enter_async_context(serving)
            url = str(serving.make_url("/"))
        else:
            url = await stack.enter_async_context(listening(app, chosen.server))
        yield await stack.enter_async_context(ClientSession(url))


async def store(service: ClientSession, path: str = "/usage", **headers: str) -> Stored:
    """Ask as a cache does that has nothing stored."""
    answer = await service.get(path, headers=headers)
    assert answer.status == 200
    await answer.read()
    return Stored(CIMultiDict(answer.headers))


# --- freshness ----------------------------------------------------------------------


@pytest.mark.parametrize("path", CACHED_PATHS)
async def test_the_lifetime_is_whole_whatever_the_age(
    service: ClientSession, clock: Clock, path: str
) -> None:
    """A cache subtracts `Age` from `max-age`, so that both are of the whole time."""
    assert (await store(service, path)).lifetime_s == TTL_S
    clock.pass_s(TTL_S / 2)
    stored = await store(service, path)
    assert (stored.lifetime_s, stored.age_s) == (TTL_S, TTL_S // 2)


@pytest.mark.parametrize("path", CACHED_PATHS)
async def test_a_cache_uses_an_answer_until_its_time_is_over(
    service: ClientSession, clock: Clock, path: str
) -> None:
    """The cache and the service agree on the second at which the answer is stale."""
    await store(service, path)
    clock.pass_s(TTL_S - 10)
    stored = await store(service, path)
    assert stored.is_fresh_after(9)
    assert not stored.is_fresh_after(10)


async def test_a_stale_answer_is_stale_for_a_cache_too(
    service: ClientSession, clock: Clock
) -> None:
    """It may be used while it is revalidated, for as long as the directive says."""
    await store(service)
    clock.pass_s(TTL_S + 10)
    stored = await store(service)
    assert not stored.is_fresh_after(0)
    assert stored.directives["stale-while-revalidate"] == STALE_S
    assert stored.directives["stale-if-error"] == STALE_S


@pytest.mark.parametrize(
    "path", ["/usage/none", "/usage?limit=0", "/none", "/usage?plan=none"]
)
async def test_errors_are_not_stored(service: ClientSession, path: str) -> None:
    """Some statuses are cacheable by default, such as 404: they say no-store."""
    answer = await service.get(path)
    assert answer.status >= 400
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Age" not in answer.headers


async def test_headers_that_choose_a_representation_are_in_vary(
    service: ClientSession,
) -> None:
    """A cache must not give gzip or CSV to a client that asked for neither."""
    stored = await store(service)
    varied = {each.strip().lower() for each in stored.headers["Vary"].split(",")}
    assert varied >= {"accept", "accept-encoding"}


# --- conditional requests -----------------------------------------------------------


async def test_a_stored_answer_is_confirmed_without_its_body(
    service: ClientSession,
) -> None:
    """304 repeats the headers that a cache updates (RFC 9110 §15.4.5)."""
    stored = await store(service)
    answer = await service.get(
        "/usage", headers={"If-None-Match": stored.headers["ETag"]}
    )
    assert (answer.status, await answer.read()) == (304, b"")
    assert all(name in answer.headers for name in REPEATED_IN_304)
    assert answer.headers["ETag"] == stored.headers["ETag"]


@pytest.mark.parametrize(
    "field, status",
    [
        pytest.param(["{tag}"], 304, id="strong"),
        pytest.param(["W/{tag}"], 304, id="weak"),
        pytest.param(['"other", {tag}'], 304, id="one of two"),
        pytest.param(['"other"', "{tag}"], 304, id="second line"),
        pytest.param(['"a,b", {tag}'], 304, id="comma in a tag"),
        pytest.param([',, "x" ,,{tag},'], 304, id="empty members"),
        pytest.param(["*"], 304, id="any"),
        pytest.param(['"other"'], 200, id="another"),
        pytest.param(["{bare}"], 200, id="without quotes"),
        pytest.param(["w/{tag}"], 200, id="lower-case weak"),
        pytest.param(['"{bare}-x"'], 200, id="longer"),
        pytest.param([""], 200, id="empty"),
        pytest.param(['"*"'], 200, id="quoted star"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_if_none_match(
    service: ClientSession, field: list[str], status: int, method: str
) -> None:
    """Tags are compared weakly, and all lines of the field count (RFC 9110 §13.1.2)."""
    tag = (await store(service)).headers["ETag"]
    lines = [each.format(tag=tag, bare=tag.strip('"')) for each in field]
    headers = [("If-None-Match", line) for line in lines]
    answer = await service.request(method, "/usage", headers=headers)
    assert answer.status == status


@pytest.mark.parametrize(
    "field, status",
    [
        pytest.param(["{tag}"], 200, id="strong"),
        pytest.param(["W/{tag}"], 412, id="weak"),
        pytest.param(['"other", {tag}'], 200, id="one of two"),
        pytest.param(['"other"', "{tag}"], 200, id="second line"),
        pytest.param(["*"], 200, id="any"),
        pytest.param(['"other"'], 412, id="another"),
        pytest.param([""], 412, id="empty"),
    ],
)
async def test_if_match(service: ClientSession, field: list[str], status: int) -> None:
    """Tags are compared strongly; another version gets 412 (RFC 9110 §13.1.1)."""
    tag = (await store(service)).headers["ETag"]
    headers = [("If-Match", each.format(tag=tag)) for each in field]
    answer = await service.get("/usage", headers=headers)
    assert answer.status == status
    if status == 412:
        assert (await answer.json())["code"] == "precondition_failed"


async def test_if_match_goes_before_if_none_match(service: ClientSession) -> None:
    """The order of RFC 9110 §13.2.2."""
    tag = (await store(service)).headers["ETag"]
    headers = {"If-Match": '"other"', "If-None-Match": tag}
    assert (await service.get("/usage", headers=headers)).status == 412


async def test_dates_are_ignored_where_there_are_none(service: ClientSession) -> None:
    """An answer without `Last-Modified` has no date to compare with."""
    headers = {"If-Modified-Since": "Sat, 28 Nov 2026 07:00:00 GMT"}
    assert (await service.get("/usage", headers=headers)).status == 200


async def test_each_coding_has_its_own_tag(service: ClientSession) -> None:
    """A strong tag names one sequence of bytes, so gzip has another than identity."""
    plain = await store(service, **{"Accept-Encoding": "identity"})
    zipped = await store(service, **{"Accept-Encoding": "gzip"})
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert plain.headers["ETag"] != zipped.headers["ETag"]


# --- preferences --------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines, coding",
    [
        pytest.param(["gzip"], "gzip", id="one"),
        pytest.param(["zstd;q=0", "gzip"], "gzip", id="second line"),
        pytest.param(["identity", "gzip;q=0.5"], None, id="second line is worse"),
        pytest.param(["gzip;q=0"], None, id="refused"),
        pytest.param(["br"], None, id="unknown"),
        pytest.param(["*;q=0.1, zstd;q=0"], "gzip", id="any"),
    ],
)
async def test_all_lines_of_accept_encoding_count(
    service: ClientSession, lines: list[str], coding: str | None
) -> None:
    """RFC 9110 §5.3 and §12.5.3."""
    await store(service)
    headers = [("Accept-Encoding", line) for line in lines]
    answer = await service.get("/usage", headers=headers)
    assert answer.headers.get("Content-Encoding") == coding


@pytest.mark.parametrize(
    "accept, status",
    [
        pytest.param('application/json;profile="a;q=0"', 200, id="quoted weight"),
        pytest.param('application/json;profile="a,text/csv"', 200, id="quoted comma"),
        pytest.param('application/json;profile="\\";q=0"', 200, id="escaped quote"),
        pytest.param("application/json;q=0", 406, id="refused"),
        pytest.param("application/json;q=0, */*", 200, id="another one"),
        pytest.param("application/json;Q=1.000", 200, id="upper case"),
        pytest.param("image/png", 406, id="not offered"),
    ],
)
async def test_quoted_strings_in_accept_separate_nothing(
    service: ClientSession, accept: str, status: int
) -> None:
    """RFC 9110 §5.6.4 and §12.5.1."""
    assert (await service.get("/usage", headers={"Accept": accept})).status == status
