"""`Retry-After`: all calls wait for the time that upstream has asked for."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpServer
from structlog.typing import EventDict

from service.storage.redis_holds import RedisHolds
from service.storage.redis_store import RedisStore
from service.upstream import errors
from service.upstream.circuit_breaker import CircuitState
from service.upstream.client import UpstreamClient, open_client
from service.upstream.profiles import COPILOT, UpstreamProfile
from service.upstream.retries import parse_retry_after
from tests.clock import Clock
from tests.conftest import MakeSettings
from tests.patience import GIVE_UP_S
from tests.redis_servers import RedisServer, server
from tests.upstream.conftest import Until, sections

__all__ = ["server"]

ONE: Final = "/one"
OTHER: Final = "/other"
VPIC: Final = UpstreamProfile("vpic", "application/json", frozenset({403}))
MAX_WAIT_S: Final = 5.0


class Upstream:
    """Answers as a test says, and counts the calls by path."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: Counter[str] = Counter()
        self.barrier = asyncio.Event()
        self.barrier.set()
        self.status = 200
        self.headers: list[tuple[str, str]] = []
        self.media_type = "application/json"
        self.failing_path = ""

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one call."""
        self.calls[request.path] += 1
        status, headers = self.status, self.headers
        await self.barrier.wait()
        if not request.path.startswith(self.failing_path):
            status, headers = 200, []
        answer = web.Response(status=status, body=b"{}", content_type=self.media_type)
        for name, value in headers:
            answer.headers.add(name, value)
        return answer

    def fail(self, status: int, retry_after: str = "") -> None:
        """Fail from now on, with a `Retry-After`."""
        self.status = status
        self.headers = [("Retry-After", retry_after)] if retry_after else []

    def recover(self) -> None:
        """Succeed from now on."""
        self.status, self.headers = 200, []


@pytest.fixture
async def upstream(aiohttp_server: AiohttpServer) -> Upstream:
    """A server that fails as a test says."""
    made, app = Upstream(), web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    made.url = str((await aiohttp_server(app)).make_url("/")).rstrip("/")
    return made


Open = Callable[..., AbstractAsyncContextManager[UpstreamClient]]


@pytest.fixture
def clock() -> Clock:
    """The clock of the guards."""
    return Clock()


@pytest.fixture
def opened(settings: MakeSettings, upstream: Upstream, clock: Clock) -> Open:
    """A factory of clients whose circuit only a `Retry-After` opens."""

    @asynccontextmanager
    async def make(
        profile: UpstreamProfile = VPIC, *, holds: RedisHolds | None = None, **more: Any
    ) -> AsyncIterator[UpstreamClient]:
        breaker = {"minimum_calls": 100, "open_s": 2.0, **more.pop("breaker", {})}
        calls = {"attempts": 4, "retry_after_max_s": MAX_WAIT_S, "backoff_base_s": 0.0}
        made = settings(
            breaker=breaker, upstream={"base_url": upstream.url, **calls, **more}
        )
        async with open_client(*sections(made), clock, profile) as client:
            if holds is not None:
                client.guard.share(holds)
            yield client

    return make


async def fail(client: UpstreamClient, path: str = ONE) -> errors.UpstreamError:
    with pytest.raises(errors.UpstreamError) as raised:
        await client.fetch(path)
    return raised.value


# --- long waits ---------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 403, 404, 429, 500, 503])
async def test_a_long_wait_ends_the_call_and_refuses_all_others(
    opened: Open, upstream: Upstream, clock: Clock, status: int
) -> None:
    """Whatever the status, one try is made, and none until the wait has ended."""
    upstream.fail(status, "3600")
    async with opened() as client:
        first = await fail(client)
        assert (first.attempts, first.retry_after_s) == (1, 3_600.0)
        clock.pass_s(3_599.0)
        others = [await fail(client, path) for path in (ONE, OTHER)]

        assert {type(each) for each in others} == {errors.CircuitOpen}
        assert {each.retry_after_s for each in others} == {1.0}
        assert client.breaker.state is CircuitState.OPEN
    assert upstream.calls == {ONE: 1}


async def test_one_probe_ends_the_wait(
    opened: Open, upstream: Upstream, clock: Clock, until: Until
) -> None:
    """After the wait one call is sent; the others follow when it has succeeded."""
    upstream.fail(429, "3600")
    async with opened() as client:
        await fail(client)
        upstream.recover()
        upstream.barrier.clear()
        clock.pass_s(3_600.0)

        calls = [asyncio.create_task(client.fetch(ONE)) for _ in range(9)]
        await until(lambda: upstream.calls[ONE] == 2)
        await client.guard._wait_out(ONE)  # takes as many turns as a call
        assert upstream.calls[ONE] == 2
        upstream.barrier.set()
        await asyncio.gather(*calls)

        assert client.breaker.state is CircuitState.CLOSED
    assert upstream.calls[ONE] == 10


async def test_a_probe_may_be_told_to_wait_again(
    opened: Open, upstream: Upstream, clock: Clock
) -> None:
    """A probe that fails opens the circuit: for its own wait, or for `open_s`."""
    upstream.fail(503, "60")
    async with opened() as client:
        await fail(client)
        clock.pass_s(60.0)
        await fail(client)
        assert client.breaker.refuses_for_s == 60.0
        clock.pass_s(60.0)
        upstream.fail(500)
        await fail(client)

        assert client.breaker.refuses_for_s == 2.0
    assert upstream.calls[ONE] == 3


@pytest.mark.parametrize("sent", ["3600", "9" * 400, "Sun, 06 Nov 2094 08:49:37 GMT"])
async def test_a_wait_is_bounded(opened: Open, upstream: Upstream, sent: str) -> None:
    """The circuit is open for at most `breaker.max_open_s`."""
    upstream.fail(429, sent)
    async with opened(breaker={"max_open_s": 600.0}) as client:
        await fail(client)
        assert client.breaker.refuses_for_s == 600.0


async def test_a_shorter_wait_changes_nothing(
    opened: Open, upstream: Upstream, until: Until
) -> None:
    """Of calls that were in flight together, the longest wait counts."""
    upstream.barrier.clear()
    async with opened() as client:
        calls: list[asyncio.Task[errors.UpstreamError]] = []
        for wait_s in ("60", "3600", "600"):
            upstream.fail(429, wait_s)
            calls.append(asyncio.create_task(fail(client)))
            await until(lambda: upstream.calls[ONE] == len(calls))
        upstream.barrier.set()
        await asyncio.gather(*calls)
        assert client.breaker.refuses_for_s == 3_600.0


async def test_a_wait_is_logged_once(
    opened: Open, upstream: Upstream, log_entries: list[EventDict]
) -> None:
    """One line has the upstream, the reason and the time."""
    upstream.fail(429, "3600")
    async with opened(concurrency=9) as client:
        await asyncio.gather(*(fail(client) for _ in range(9)))

    held = [each for each in log_entries if each["event"] == "upstream.breaker.held"]
    assert held == [
        {
            "event": "upstream.breaker.held",
            "log_level": "warning",
            "upstream": "vpic",
            "endpoint": ONE,
            "reason": "429",
            "open_s": 3_600.0,
        }
    ]


async def test_a_page_that_blocks_us_may_name_its_time(
    opened: Open, upstream: Upstream
) -> None:
    """HTML with status 200 and `Retry-After` is a refusal too."""
    upstream.media_type = "text/html"
    upstream.fail(200, "3600")
    async with opened() as client:
        assert isinstance(await fail(client), errors.WrongMediaType)
        assert client.breaker.refuses_for_s == 3_600.0


async def test_a_good_answer_asks_for_nothing(opened: Open, upstream: Upstream) -> None:
    """`Retry-After` of a usable answer is ignored: it refuses nothing."""
    upstream.fail(200, "3600")
    async with opened() as client:
        for _ in range(2):
            await client.fetch(ONE)
        assert client.breaker.state is CircuitState.CLOSED


async def test_an_operator_ends_the_wait(opened: Open, upstream: Upstream) -> None:
    """A circuit that is given back permits calls at once."""
    upstream.fail(429, "3600")
    async with opened() as client:
        await fail(client)
        upstream.recover()
        client.guard.force(None)
        await client.fetch(ONE)


# --- short waits --------------------------------------------------------------------


async def test_a_short_wait_is_waited_out_by_all(
    opened: Open, upstream: Upstream, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call is sent during the wait, and none is refused."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        upstream.recover()
        clock.pass_s(seconds)

    upstream.fail(429, "5")
    async with opened(attempts=1) as client:
        assert (await fail(client)).retry_after_s == 5.0
        monkeypatch.setattr("service.upstream.guard.asyncio.sleep", sleep)
        await client.fetch(OTHER)

    assert slept == [5.0]
    assert upstream.calls == {ONE: 1, OTHER: 1}


# --- endpoints ----------------------------------------------------------------------


async def test_an_endpoint_does_not_close_the_others(
    opened: Open, upstream: Upstream, clock: Clock
) -> None:
    """The wait of one report closes the reports for a minute, and not the messages."""
    upstream.fail(503, "3600")
    upstream.failing_path = "/reports"
    async with opened(COPILOT) as client:
        with pytest.raises(errors.UnexpectedStatus):
            await client.fetch("/reports/1", template="/reports/{id}")
        with pytest.raises(errors.CircuitOpen):
            await client.fetch("/reports/2", template="/reports/{id}")
        await client.fetch("/messages")
        assert client.breaker.state is CircuitState.CLOSED
        assert client.guard.blocked_endpoints() == {"/reports/{id}": 60.0}

        upstream.recover()
        clock.pass_s(60.0)
        await client.fetch("/reports/2", template="/reports/{id}")
        assert client.guard.blocked_endpoints() == {}
    assert upstream.calls == {"/reports/1": 1, "/messages": 1, "/reports/2": 1}


async def test_calls_that_wait_for_an_endpoint_take_no_slots(
    opened: Open,
    upstream: Upstream,
    *,
    clock: Clock,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While reports wait for the time that upstream has named, messages are read."""
    may_end, sleeping = asyncio.Event(), Counter[float]()

    async def sleep(seconds: float) -> None:
        sleeping[seconds] += 1
        await may_end.wait()
        upstream.recover()
        clock.pass_s(seconds)

    def report(number: int) -> asyncio.Task[Any]:
        path = f"/reports/{number}"
        return asyncio.create_task(client.fetch(path, template="/reports/{id}"))

    upstream.fail(503, str(MAX_WAIT_S))
    upstream.failing_path = "/reports"
    upstream.barrier.clear()
    async with opened(COPILOT, concurrency=2, attempts=1) as client:
        sent = [report(1), report(2)]
        await until(lambda: upstream.calls.total() == 2)
        queued = [report(3), report(4)]
        monkeypatch.setattr("service.upstream.guard.asyncio.sleep", sleep)
        upstream.barrier.set()
        await asyncio.wait(sent)
        async with asyncio.timeout(GIVE_UP_S):
            await client.fetch("/messages")
        may_end.set()
        await asyncio.gather(*queued)
    assert sleeping == {MAX_WAIT_S: 2}
    assert upstream.calls.total() == 5


# --- forms --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers, wait_s",
    [
        pytest.param([("Retry-After", "600")], 600.0, id="seconds"),
        pytest.param([("Retry-After", "600.5")], 600.5, id="fraction"),
        pytest.param([("Retry-After", "60, 600")], 600.0, id="joined"),
        pytest.param([("Retry-After", "60"), ("Retry-After", "600")], 600.0, id="two"),
        pytest.param([("Retry-After", "x"), ("Retry-After", "600")], 600.0, id="one"),
        pytest.param([("Retry-After", "-600")], 0.0, id="negative"),
        pytest.param([("Retry-After", "soon")], 0.0, id="garbage"),
        pytest.param([("Retry-After", "")], 0.0, id="empty"),
        pytest.param(
            [
                ("Date", "Sun, 06 Nov 1994 08:49:37 GMT"),
                ("Retry-After", "Sun, 06 Nov 1994 08:59:37 GMT"),
            ],
            600.0,
            id="date of another clock",
        ),
        pytest.param(
            [("Retry-After", "Sun, 06 Nov 1994 08:59:37 GMT")], 0.0, id="past"
        ),
    ],
)
async def test_forms(
    opened: Open, upstream: Upstream, headers: list[tuple[str, str]], wait_s: float
) -> None:
    """Each valid form is obeyed; an invalid or past one is no wait."""
    upstream.status, upstream.headers = 429, headers
    async with opened(attempts=1) as client:
        await fail(client)
        assert client.breaker.refuses_for_s == wait_s


def test_a_date_is_compared_with_that_of_the_answer() -> None:
    """An invalid `Date` counts as absent."""
    later = "Sun, 06 Nov 2094 08:49:37 GMT"
    assert parse_retry_after(later, later) == 0.0
    assert (parse_retry_after(later, "yesterday") or 0.0) > 1e9


# --- processes ----------------------------------------------------------------------


@asynccontextmanager
async def holds_of(url: str) -> AsyncIterator[RedisHolds]:
    """The waits as another process knows them."""
    store = RedisStore(url, "test")
    try:
        yield RedisHolds(store, "vpic")
    finally:
        await store.close()


@pytest.mark.services
async def test_processes_share_a_wait(
    opened: Open, upstream: Upstream, server: RedisServer
) -> None:
    """What one process was told, another one and one that starts later obey."""
    upstream.fail(429, "3600")
    async with (
        holds_of(server.url) as one,
        holds_of(server.url) as two,
        holds_of(server.url) as three,
        opened(holds=one) as first,
        opened(holds=two) as second,
    ):
        await fail(first)
        refused = await fail(second, OTHER)
        async with opened(holds=three) as later:
            assert isinstance(await fail(later), errors.CircuitOpen)

        assert isinstance(refused, errors.CircuitOpen)
        assert 3_590 < (refused.retry_after_s or 0) <= 3_600
    assert upstream.calls == {ONE: 1}


@pytest.mark.services
async def test_concurrent_first_calls_obey_a_shared_wait(
    opened: Open, upstream: Upstream, server: RedisServer
) -> None:
    """None of the first calls of a process overtakes its read of the waits."""
    upstream.fail(429, "3600")
    async with (
        holds_of(server.url) as one,
        holds_of(server.url) as two,
        opened(holds=one) as first,
        opened(holds=two) as second,
    ):
        await fail(first)
        refused = await asyncio.gather(*(fail(second) for _ in range(10)))
    assert {each.error_type for each in refused} == {"CircuitOpen"}
    assert upstream.calls == {ONE: 1}


@pytest.mark.services
async def test_an_operator_ends_the_wait_of_all_processes(
    opened: Open, upstream: Upstream, server: RedisServer, until: Until
) -> None:
    """A process that has not obeyed yet does not wait any more."""
    upstream.fail(429, "3600")
    async with (
        holds_of(server.url) as one,
        holds_of(server.url) as two,
        opened(holds=one) as first,
        opened(holds=two) as second,
    ):
        await fail(first)
        upstream.recover()
        first.guard.force(None)
        await until(lambda: one._clearing is not None and one._clearing.done())
        await second.fetch(ONE)
        await first.fetch(ONE)


@pytest.mark.services
async def test_without_redis_each_process_obeys_for_itself(
    opened: Open, upstream: Upstream, server: RedisServer
) -> None:
    """Redis is away, also after the wait began; each process is told once."""
    upstream.fail(429, "3600")
    async with (
        holds_of(server.url) as one,
        holds_of(server.url) as two,
        opened(holds=one) as first,
        opened(holds=two) as second,
    ):
        await fail(first)
        server.kill()
        for client in (first, second, first, second):
            await fail(client)
    assert upstream.calls == {ONE: 2}
