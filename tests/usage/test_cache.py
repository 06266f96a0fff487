"""Stale serving: which callers wait, for how long, and how often upstream is called.

Over sockets through the whole application, whose snapshot ages by a clock of the test.
"""

import asyncio
import weakref
from typing import Final, NamedTuple

import msgspec
import pytest
from aiohttp import ClientSession, TCPConnector
from structlog.typing import EventDict

from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.usage.handlers import REPEATS
from service.usage.refresh import Refresher
from service.usage.repeats import RequestKind
from service.web.limits import LIMITS
from tests.clock import Clock, LoopTime
from tests.conftest import (
    Client,
    Hurried,
    MakeClient,
    always,
    message,
    report,
)
from tests.faults.cells import bill_of
from tests.patience import GIVE_UP_S
from tests.usage.conftest import Until, current_of

MESSAGES: Final = "/messages/current-period"
REPORT: Final = "/reports/7"
LEASE: Final = report(7, "Short Lease Report", 61)
OLD: Final = [message(1, report_id=7), message(2, "rent rent")]
NEW: Final = [*OLD, message(3, "What is the rent?")]
OLD_BILL: Final = bill_of(OLD, {7: LEASE})
NEW_BILL: Final = bill_of(NEW, {7: LEASE})

HOLDING: Final = {
    "ttl_s": 60,
    "stale_while_revalidate_s": 100,
    "stale_if_error_s": 1_000,
    "pause_after_failure_s": 5,
    "stale_wait_s": GIVE_UP_S,
    "report_ttl_s": 10_000.0,
    "missing_report_ttl_s": 10_000.0,
}
FRESH_S, REVALIDATING_S, EXPIRED_S, TOO_OLD_S = 59.9, 100, 200, 1_100
LATENCY_S: Final = 10.0
ONE_TRY: Final = {"attempts": 1}


class Response(NamedTuple):
    """The response to a request of `/usage`."""

    status: int
    body: bytes
    cache: str | None

    @classmethod
    async def by(
        cls, client: Client | ClientSession, path: str = "/usage"
    ) -> "Response":
        response = await client.get(path)
        body, status = await response.read(), response.headers.get("Cache-Status")
        return cls(response.status, body, status and status.partition("; ")[2])


@pytest.fixture
async def service(client: MakeClient, sandbox: RunningSandbox, clock: Clock) -> Client:
    """Return a service that has answered once; upstream has another message since."""
    sandbox.sandbox.set_report(7, LEASE)
    sandbox.sandbox.set_messages(OLD)
    service = await client(cache=HOLDING, upstream=ONE_TRY)
    assert await Response.by(service) == (200, OLD_BILL, "fwd=miss; stored")
    sandbox.sandbox.set_messages(NEW)
    sandbox.sandbox.calls.clear()
    return service


def refreshes_of(log_entries: list[EventDict]) -> list[str]:
    """Return the events of refreshes, in order."""
    events = [each["event"] for each in log_entries]
    return [each for each in events if each.startswith("usage.refresh.")]


# Fresh, stale, expired.


async def test_a_fresh_answer_makes_no_call(
    service: Client, sandbox: RunningSandbox, clock: Clock
) -> None:
    """Requests get the cached answer until the end of its time to live."""
    clock.pass_s(FRESH_S)

    for _ in range(3):
        assert await Response.by(service) == (200, OLD_BILL, "hit; ttl=1")
    assert sandbox.sandbox.calls == {}


async def test_a_stale_answer_is_sent_while_one_refresh_runs(
    service: Client, sandbox: RunningSandbox, clock: Clock, until: Until
) -> None:
    """Requests get the stale answer until the refresh has finished."""
    sandbox.sandbox.faults = always("hang", times=1)
    clock.pass_s(REVALIDATING_S)

    answers = [await Response.by(service) for _ in range(5)]
    assert set(answers) == {(200, OLD_BILL, "hit; ttl=-40; detail=stale")}
    await until(lambda: sandbox.sandbox.in_flight == 1)
    assert sandbox.sandbox.calls == {MESSAGES: 1}


async def test_a_background_refresh_makes_the_next_answer_fresh(
    service: Client,
    sandbox: RunningSandbox,
    clock: Clock,
    until: Until,
    log_entries: list[EventDict],
) -> None:
    """After the background refresh, requests get the new answer."""
    log_entries.clear()
    clock.pass_s(REVALIDATING_S)
    assert (await Response.by(service)).body == OLD_BILL
    await until(lambda: "usage.refresh.finished" in refreshes_of(log_entries))

    assert await Response.by(service) == (200, NEW_BILL, "hit; ttl=60")
    assert sandbox.sandbox.calls == {MESSAGES: 1}


async def test_nothing_keeps_a_replaced_snapshot(
    service: Client, clock: Clock, until: Until
) -> None:
    """Its columns are dropped after a refresh, also if no request follows."""
    assert service.app is not None
    kind = RequestKind("/usage", None, None)
    assert service.app[REPEATS].find(kind) is not None
    before = weakref.ref(current_of(service).snapshot)
    clock.pass_s(REVALIDATING_S)
    assert (await Response.by(service)).body == OLD_BILL

    await until(lambda: before() is None)
    assert current_of(service).snapshot.summary.messages == len(NEW)


async def test_an_expired_answer_is_waited_for(
    service: Client, sandbox: RunningSandbox, clock: Clock
) -> None:
    """All requests get the new answer of one refresh."""
    clock.pass_s(EXPIRED_S)

    answers = await asyncio.gather(*(Response.by(service) for _ in range(20)))

    assert set(answers) == {(200, NEW_BILL, "fwd=stale; stored")}
    assert sandbox.sandbox.calls == {MESSAGES: 1}


@pytest.mark.parametrize("path", ["/usage/2", "/usage/daily", "/usage/reports"])
async def test_queries_use_the_cached_snapshot(
    service: Client, sandbox: RunningSandbox, clock: Clock, path: str
) -> None:
    """Queries are fresh and stale at the same times as the whole answer."""
    answers = [(await Response.by(service, path)).cache]
    clock.pass_s(FRESH_S)
    answers.append((await Response.by(service, path)).cache)
    assert sandbox.sandbox.calls == {}
    clock.pass_s(EXPIRED_S)
    answers.append((await Response.by(service, path)).cache)

    assert answers == ["hit; ttl=60", "hit; ttl=1", "fwd=stale; stored"]
    assert sandbox.sandbox.calls == {MESSAGES: 1}


# Clients that disconnect.


@pytest.mark.parametrize("who", ["the first", "all"])
async def test_a_client_that_disconnects_does_not_end_the_refresh(
    client: MakeClient,
    sandbox: RunningSandbox,
    *,
    until: Until,
    hurried: Hurried,
    loop_time: LoopTime,
    who: str,
) -> None:
    """Other requests get the answer of the refresh, and later ones too."""
    sandbox.sandbox.set_report(7, LEASE)
    sandbox.sandbox.set_messages(OLD)
    sandbox.sandbox.options = msgspec.structs.replace(
        sandbox.sandbox.options, latency_ms=LATENCY_S * 1_000
    )
    service = await client(cache=HOLDING)
    callers = [asyncio.create_task(Response.by(service)) for _ in range(5)]
    await until(lambda: sandbox.sandbox.in_flight == 1)

    leaving = callers[:1] if who == "the first" else callers
    for each in leaving:
        each.cancel()
    async with hurried(LATENCY_S):
        await loop_time.pass_s(LATENCY_S)
        ended = await asyncio.gather(*callers, return_exceptions=True)
        await until(lambda: sandbox.sandbox.calls == {MESSAGES: 1, REPORT: 1})
    left = [each for each in ended if isinstance(each, asyncio.CancelledError)]

    assert len(left) == len(leaving)
    assert {each for each in ended if each not in left} <= {
        (200, OLD_BILL, "fwd=miss; stored")
    }
    assert (await Response.by(service)).body == OLD_BILL
    assert sandbox.sandbox.calls == {MESSAGES: 1, REPORT: 1}


async def test_a_refresh_does_not_outlive_the_service(
    service: Client, sandbox: RunningSandbox, clock: Clock, until: Until
) -> None:
    """Closing the service ends a background refresh."""
    sandbox.sandbox.faults = always("hang")
    clock.pass_s(REVALIDATING_S)
    await Response.by(service)
    await until(lambda: sandbox.sandbox.in_flight == 1)

    await service.close()

    await until(lambda: sandbox.sandbox.in_flight == 0)
    ours = [getattr(each.get_coro(), "cr_code", None) for each in asyncio.all_tasks()]
    assert not [each for each in ours if each and "service/usage/" in each.co_filename]


# Failures.


@pytest.mark.parametrize(
    "age_s, cache",
    [
        (REVALIDATING_S, "hit; ttl=-40; detail=stale"),
        (EXPIRED_S, "hit; ttl=-140; detail=stale"),
        (1_059.5, "hit; ttl=-999; detail=stale"),
        (1_060, None),
        (TOO_OLD_S, None),
    ],
    ids=["revalidating", "expired", "just young enough", "just too old", "too old"],
)
async def test_a_failure_is_covered_for_its_time(
    service: Client,
    sandbox: RunningSandbox,
    clock: Clock,
    age_s: float,
    cache: str | None,
) -> None:
    """Requests get the stale answer within `stale_if_error_s`, then a problem."""
    sandbox.sandbox.faults = always("server_error")
    clock.pass_s(age_s)

    answers = await Response.by(service)

    if cache is None:
        assert answers.status == 503
        assert msgspec.json.decode(answers.body)["code"] == "messages_unavailable"
    else:
        assert answers == (200, OLD_BILL, cache)


async def test_after_a_failure_refreshes_pause(
    service: Client, sandbox: RunningSandbox, clock: Clock
) -> None:
    """For `pause_after_failure_s` the stale answer is sent without another try."""
    sandbox.sandbox.faults = always("server_error")
    clock.pass_s(EXPIRED_S)
    for _ in range(3):
        assert (await Response.by(service)).body == OLD_BILL
    clock.pass_s(4.9)
    assert (await Response.by(service)).body == OLD_BILL
    assert sandbox.sandbox.calls == {MESSAGES: 1}

    sandbox.sandbox.faults = Faults()
    clock.pass_s(0.1)
    assert await Response.by(service) == (200, NEW_BILL, "fwd=stale; stored")


async def test_without_an_answer_there_is_no_pause(
    service: Client, sandbox: RunningSandbox, clock: Clock
) -> None:
    """A request without a stale answer calls the upstream again at once."""
    sandbox.sandbox.faults = always("server_error", times=1)
    clock.pass_s(TOO_OLD_S)

    assert (await Response.by(service)).status == 503
    assert (await Response.by(service)).body == NEW_BILL


async def test_waiting_requests_share_a_failure(
    service: Client, sandbox: RunningSandbox, clock: Clock
) -> None:
    """All waiting requests get the same answer, after one call."""
    sandbox.sandbox.faults = always("server_error")
    clock.pass_s(EXPIRED_S)
    answers = await asyncio.gather(*(Response.by(service) for _ in range(20)))

    assert set(answers) == {(200, OLD_BILL, "hit; ttl=-140; detail=stale")}
    assert sandbox.sandbox.calls == {MESSAGES: 1}


async def test_an_unexpected_error_is_covered_and_logged(
    service: Client,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    log_entries: list[EventDict],
) -> None:
    """A bug fails the refresh like any other error, and is logged with its trace."""

    async def fail(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(Refresher, "_build", fail)
    clock.pass_s(EXPIRED_S)

    assert (await Response.by(service)).body == OLD_BILL
    (failed,) = [e for e in log_entries if e["event"] == "usage.refresh.failed"]
    assert (failed["error.type"], failed["reason"]) == ("ZeroDivisionError", "ours")
    assert isinstance(failed["exc_info"], ZeroDivisionError)


# Unmodified messages.


def statuses_of_upstream(entries: list[EventDict]) -> list[int]:
    """Return the status of each answer of the upstream."""
    calls = [each for each in entries if each["event"] == "upstream.request"]
    return [each["http.response.status_code"] for each in calls]


async def test_unmodified_messages_keep_the_snapshot(
    service: Client,
    sandbox: RunningSandbox,
    clock: Clock,
    log_entries: list[EventDict],
) -> None:
    """A 304 makes the cached answer fresh; nothing is decoded, priced or logged."""
    sandbox.sandbox.set_messages(OLD)
    log_entries.clear()
    clock.pass_s(EXPIRED_S)

    assert await Response.by(service) == (200, OLD_BILL, "fwd=stale; stored")
    (finished,) = [e for e in log_entries if e["event"] == "usage.refresh.finished"]
    assert set(statuses_of_upstream(log_entries)) == {304}
    assert (finished["messages"], finished["reused"]) == (2, 2)
    assert "credits.rated" not in {each["event"] for each in log_entries}


async def test_another_tag_of_equal_messages_is_learned(
    service: Client,
    sandbox: RunningSandbox,
    clock: Clock,
    log_entries: list[EventDict],
) -> None:
    """A file that is written again with the same content has one."""
    sandbox.sandbox.set_messages(OLD)
    fake = sandbox.sandbox._copilot
    fake._messages = fake._messages._replace(etag="another")
    for _ in range(2):
        clock.pass_s(EXPIRED_S)
        assert (await Response.by(service)).body == OLD_BILL
    assert statuses_of_upstream(log_entries)[-2:] == [200, 304]


@pytest.mark.parametrize(
    "now, bill",
    [
        (LEASE, OLD_BILL),
        (LEASE | {"credit_cost": 70}, bill_of(OLD, {7: LEASE | {"credit_cost": 70}})),
        (LEASE | {"name": "Long"}, bill_of(OLD, {7: LEASE | {"name": "Long"}})),
        (None, bill_of(OLD, {})),
    ],
    ids=["same", "dearer", "renamed", "gone"],
)
async def test_reports_are_fetched_again_after_their_own_ttl(
    service: Client,
    sandbox: RunningSandbox,
    clock: Clock,
    now: dict[str, object] | None,
    bill: bytes,
) -> None:
    """Unmodified messages do not hide the new price of a report."""
    sandbox.sandbox.set_messages(OLD)
    sandbox.sandbox.set_report(7, now)
    clock.pass_s(HOLDING["report_ttl_s"] - 0.1)
    assert (await Response.by(service)).body == OLD_BILL
    assert sandbox.sandbox.calls == {MESSAGES: 1}

    clock.pass_s(EXPIRED_S)
    assert (await Response.by(service)).body == bill
    assert sandbox.sandbox.calls == {MESSAGES: 2, REPORT: 1}


# An upstream that hangs.

STALE: Final = "hit; ttl=-140; detail=stale"
WAIT_S: Final = 20.0
QUERIES: Final = (
    *("/usage", "/usage/1", "/usage/daily", "/usage/daily?tz=Asia/Tokyo"),
    *("/usage/reports", "/usage?limit=1", "/usage?plan=token-estimate"),
    *("/usage/2?plan=token-estimate", "/usage?sort=credits_used:desc"),
)


@pytest.fixture
async def hanging(client: MakeClient, sandbox: RunningSandbox, clock: Clock) -> Client:
    """A service whose snapshot is expired, and whose upstream hangs."""
    sandbox.sandbox.set_report(7, LEASE)
    sandbox.sandbox.set_messages(OLD)
    cache = HOLDING | {"stale_wait_s": WAIT_S}
    service = await client(cache=cache, upstream=ONE_TRY)
    assert (await Response.by(service)).status == 200
    sandbox.sandbox.faults = always("hang")
    sandbox.sandbox.calls.clear()
    clock.pass_s(EXPIRED_S)
    return service


@pytest.mark.parametrize("path", QUERIES)
async def test_requests_wait_for_a_hanging_refresh_for_the_configured_time(
    hanging: Client,
    sandbox: RunningSandbox,
    loop_time: LoopTime,
    until: Until,
    path: str,
) -> None:
    """Requests get the stale answer `stale_wait_s` after the refresh has started."""
    first = asyncio.create_task(Response.by(hanging, path))
    await until(lambda: sandbox.sandbox.in_flight == 1)
    await loop_time.pass_s(WAIT_S / 2)
    second = asyncio.create_task(Response.by(hanging, path))
    await make_other_requests(hanging)
    assert not first.done()
    assert not second.done()

    await loop_time.pass_s(WAIT_S / 2)

    answers = [await first, await second, await Response.by(hanging, path)]
    assert {(each.status, each.cache) for each in answers} == {(200, STALE)}
    assert sandbox.sandbox.calls == {MESSAGES: 1}
    assert sandbox.sandbox.in_flight == 1


async def make_other_requests(service: Client) -> None:
    """Make requests that wait for nothing, so that earlier ones have been started."""
    for _ in range(3):
        assert (await service.get("/health/live")).status == 200


async def test_a_crowd_does_not_exhaust_the_service(
    hanging: Client, sandbox: RunningSandbox, loop_time: LoopTime, until: Until
) -> None:
    """1,000 concurrent requests, and 1,000 later ones, get the stale answer."""
    async with ClientSession(
        hanging.make_url("/"), connector=TCPConnector(limit=0)
    ) as session:
        first = [asyncio.create_task(Response.by(session)) for _ in range(1_000)]
        await until(lambda: in_flight(hanging) == len(first))
        await loop_time.pass_s(WAIT_S)
        answers = await asyncio.gather(*first)
        paths = [QUERIES[number % len(QUERIES)] for number in range(1_000)]
        answers += await asyncio.gather(*(Response.by(session, path) for path in paths))

    assert {(each.status, each.cache) for each in answers} == {(200, STALE)}
    assert sandbox.sandbox.calls == {MESSAGES: 1}


def in_flight(service: Client) -> int:
    assert service.app is not None
    return service.app[LIMITS].in_flight["usage"]


async def test_the_wait_may_be_none(
    client: MakeClient, sandbox: RunningSandbox, clock: Clock
) -> None:
    """With `stale_wait_s` 0 the first request gets the stale answer at once."""
    sandbox.sandbox.set_messages(OLD)
    service = await client(cache=HOLDING | {"stale_wait_s": 0.0}, upstream=ONE_TRY)
    await Response.by(service)
    sandbox.sandbox.faults = always("hang")
    clock.pass_s(EXPIRED_S)

    assert (await Response.by(service)).cache == STALE


async def test_a_snapshot_that_is_too_old_is_not_sent_while_upstream_hangs(
    hanging: Client, clock: Clock, loop_time: LoopTime, sandbox: RunningSandbox
) -> None:
    """Beyond `stale_if_error_s` requests wait for the refresh, and get its failure."""
    clock.pass_s(TOO_OLD_S)
    asked = asyncio.create_task(Response.by(hanging))
    async with loop_time.passing(60.0, at_each=lambda: sandbox.sandbox.calls[MESSAGES]):
        answers = await asked

    assert answers.status == 503
    assert msgspec.json.decode(answers.body)["code"] == "messages_unavailable"
