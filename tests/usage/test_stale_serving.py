"""Stale serving: which callers wait, for how long, and how often upstream is called.

Over sockets through the whole application, whose snapshot ages by a clock of the test.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import msgspec
import pytest
from aiohttp import ClientSession, TCPConnector
from structlog.typing import EventDict

from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.usage.refresh import Refresher
from service.web.limits import LIMITS
from tests.clock import Clock, LoopTime, drive_periods
from tests.conftest import (
    Client,
    Hurried,
    MakeClient,
    always,
    message,
    report,
)
from tests.faults.matrix import bill_of
from tests.patience import GIVE_UP_S

Until = Callable[[Callable[[], bool]], Awaitable[None]]

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


class Told(NamedTuple):
    """What a caller got of `/usage`."""

    status: int
    body: bytes
    cache: str | None

    @classmethod
    async def by(cls, client: Client | ClientSession, path: str = "/usage") -> "Told":
        response = await client.get(path)
        body, status = await response.read(), response.headers.get("Cache-Status")
        return cls(response.status, body, status and status.partition("; ")[2])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What the application ages by."""
    clock = Clock()
    drive_periods(monkeypatch, clock)
    return clock


@pytest.fixture
async def service(client: MakeClient, sandbox: RunningSandbox, clock: Clock) -> Client:
    """It has answered once, and upstream has had another message since."""
    sandbox.sandbox.set_report(7, LEASE)
    sandbox.sandbox.set_messages(OLD)
    service = await client(cache=HOLDING, upstream=ONE_TRY)
    assert await Told.by(service) == (200, OLD_BILL, "fwd=miss; stored")
    sandbox.sandbox.set_messages(NEW)
    sandbox.sandbox.calls.clear()
    return service


def refreshes_of(log_entries: list[EventDict]) -> list[str]:
    """How refreshes began and ended, in order."""
    events = [each["event"] for each in log_entries]
    return [each for each in events if each.startswith("usage.refresh.")]


# Fresh, stale, expired.


async def test_a_fresh_answer_asks_nothing_of_upstream(
    service: Client, sandbox: RunningSandbox, clock: Clock
) -> None:
    """Until its time to live is over, to the moment, every caller gets it as it is."""
    clock.pass_s(FRESH_S)

    for _ in range(3):
        assert await Told.by(service) == (200, OLD_BILL, "hit; ttl=1")
    assert sandbox.sandbox.calls == {}


async def test_a_stale_answer_is_sent_while_one_refresh_runs(
    service: Client, sandbox: RunningSandbox, clock: Clock, until: Until
) -> None:
    """Nobody waits: callers get the old answer until the refresh is done."""
    sandbox.sandbox.faults = always("hang", times=1)
    clock.pass_s(REVALIDATING_S)

    told = [await Told.by(service) for _ in range(5)]
    assert set(told) == {(200, OLD_BILL, "hit; ttl=-40; detail=stale")}
    await until(lambda: sandbox.sandbox.in_flight == 1)
    assert sandbox.sandbox.calls == {MESSAGES: 1}


async def test_the_refresh_beside_a_stale_answer_is_for_the_next(
    service: Client,
    sandbox: RunningSandbox,
    clock: Clock,
    until: Until,
    log_entries: list[EventDict],
) -> None:
    """One request is enough for those after it to get the new answer, fresh."""
    log_entries.clear()
    clock.pass_s(REVALIDATING_S)
    assert (await Told.by(service)).body == OLD_BILL
    await until(lambda: "usage.refresh.finished" in refreshes_of(log_entries))

    assert await Told.by(service) == (200, NEW_BILL, "hit; ttl=60")
    assert sandbox.sandbox.calls == {MESSAGES: 1}


async def test_an_expired_answer_is_waited_for(
    service: Client, sandbox: RunningSandbox, clock: Clock
) -> None:
    """All who ask get the new one, of one refresh."""
    clock.pass_s(EXPIRED_S)

    told = await asyncio.gather(*(Told.by(service) for _ in range(20)))

    assert set(told) == {(200, NEW_BILL, "fwd=stale; stored")}
    assert sandbox.sandbox.calls == {MESSAGES: 1}


async def test_a_thousand_callers_are_one_refresh(
    client: MakeClient, sandbox: RunningSandbox, log_entries: list[EventDict]
) -> None:
    """Cold, with nothing to send, upstream is asked once and all get the answer."""
    sandbox.sandbox.set_report(7, LEASE)
    sandbox.sandbox.set_messages(OLD)
    sandbox.sandbox.options = msgspec.structs.replace(
        sandbox.sandbox.options, latency_ms=300
    )
    service = await client(cache=HOLDING)

    async with ClientSession(
        service.make_url("/"), connector=TCPConnector(limit=0)
    ) as session:
        told = await asyncio.gather(*(Told.by(session) for _ in range(1_000)))

    assert {each[:2] for each in told} == {(200, OLD_BILL)}
    assert sandbox.sandbox.calls == {MESSAGES: 1, REPORT: 1}
    assert refreshes_of(log_entries) == [
        "usage.refresh.started",
        "usage.refresh.finished",
    ]


@pytest.mark.parametrize("path", ["/usage/2", "/usage/daily", "/usage/reports"])
async def test_questions_are_answered_from_what_is_held(
    service: Client, sandbox: RunningSandbox, clock: Clock, path: str
) -> None:
    """They stand in time as the whole answer does, and tell it alike."""
    told = [(await Told.by(service, path)).cache]
    clock.pass_s(FRESH_S)
    told.append((await Told.by(service, path)).cache)
    assert sandbox.sandbox.calls == {}
    clock.pass_s(EXPIRED_S)
    told.append((await Told.by(service, path)).cache)

    assert told == ["hit; ttl=60", "hit; ttl=1", "fwd=stale; stored"]
    assert sandbox.sandbox.calls == {MESSAGES: 1}


# Callers who leave.


@pytest.mark.parametrize("who", ["the first", "all"])
async def test_who_leaves_does_not_end_the_refresh(
    client: MakeClient,
    sandbox: RunningSandbox,
    *,
    until: Until,
    hurried: Hurried,
    loop_time: LoopTime,
    who: str,
) -> None:
    """It belongs to no caller: the others get its answer, and whoever comes next."""
    sandbox.sandbox.set_report(7, LEASE)
    sandbox.sandbox.set_messages(OLD)
    sandbox.sandbox.options = msgspec.structs.replace(
        sandbox.sandbox.options, latency_ms=LATENCY_S * 1_000
    )
    service = await client(cache=HOLDING)
    callers = [asyncio.create_task(Told.by(service)) for _ in range(5)]
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
    assert (await Told.by(service)).body == OLD_BILL
    assert sandbox.sandbox.calls == {MESSAGES: 1, REPORT: 1}


async def test_a_refresh_does_not_outlive_the_service(
    service: Client, sandbox: RunningSandbox, clock: Clock, until: Until
) -> None:
    """At the end, one that runs beside stale answers is ended too."""
    sandbox.sandbox.faults = always("hang")
    clock.pass_s(REVALIDATING_S)
    await Told.by(service)
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
    """Within `stale_if_error_s` the old answer, said to be stale; then a problem."""
    sandbox.sandbox.faults = always("server_error")
    clock.pass_s(age_s)

    told = await Told.by(service)

    if cache is None:
        assert told.status == 503
        assert msgspec.json.decode(told.body)["code"] == "messages_unavailable"
    else:
        assert told == (200, OLD_BILL, cache)


async def test_after_a_failure_upstream_is_left_in_peace(
    service: Client, sandbox: RunningSandbox, clock: Clock
) -> None:
    """For `pause_after_failure_s` the stale answer is sent without another try."""
    sandbox.sandbox.faults = always("server_error")
    clock.pass_s(EXPIRED_S)
    for _ in range(3):
        assert (await Told.by(service)).body == OLD_BILL
    clock.pass_s(4.9)
    assert (await Told.by(service)).body == OLD_BILL
    assert sandbox.sandbox.calls == {MESSAGES: 1}

    sandbox.sandbox.faults = Faults()
    clock.pass_s(0.1)
    assert await Told.by(service) == (200, NEW_BILL, "fwd=stale; stored")


async def test_without_an_answer_there_is_no_pause(
    service: Client, sandbox: RunningSandbox, clock: Clock
) -> None:
    """Who cannot be sent anything is worth another try, which may succeed."""
    sandbox.sandbox.faults = always("server_error", times=1)
    clock.pass_s(TOO_OLD_S)

    assert (await Told.by(service)).status == 503
    assert (await Told.by(service)).body == NEW_BILL


async def test_those_who_wait_share_a_failure_too(
    service: Client, sandbox: RunningSandbox, clock: Clock
) -> None:
    """One call for all of them, and all are told the same."""
    sandbox.sandbox.faults = always("server_error")
    clock.pass_s(EXPIRED_S)
    told = await asyncio.gather(*(Told.by(service) for _ in range(20)))

    assert set(told) == {(200, OLD_BILL, "hit; ttl=-140; detail=stale")}
    assert sandbox.sandbox.calls == {MESSAGES: 1}


async def test_what_nobody_foresaw_is_covered_and_logged(
    service: Client,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    log_entries: list[EventDict],
) -> None:
    """A mistake of ours fails the refresh like any other, and is not kept quiet."""

    async def fail(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(Refresher, "_build", fail)
    clock.pass_s(EXPIRED_S)

    assert (await Told.by(service)).body == OLD_BILL
    (failed,) = [e for e in log_entries if e["event"] == "usage.refresh.failed"]
    assert (failed["error.type"], failed["reason"]) == ("ZeroDivisionError", "ours")
    assert isinstance(failed["exc_info"], ZeroDivisionError)


# Upstream's own tags.


async def test_what_upstream_has_not_changed_is_kept(
    service: Client,
    sandbox: RunningSandbox,
    clock: Clock,
    log_entries: list[EventDict],
) -> None:
    """Its 304 makes the held answer fresh: nothing is read, priced or logged again."""
    sandbox.sandbox.set_messages(OLD)
    log_entries.clear()
    clock.pass_s(EXPIRED_S)

    assert await Told.by(service) == (200, OLD_BILL, "fwd=stale; stored")
    statuses = {
        each["http.response.status_code"]
        for each in log_entries
        if each["event"] == "upstream.request"
    }
    (finished,) = [e for e in log_entries if e["event"] == "usage.refresh.finished"]
    assert statuses == {304}
    assert (finished["messages"], finished["reused"]) == (2, 2)
    assert "credits.rated" not in {each["event"] for each in log_entries}


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
async def test_reports_are_asked_for_again_in_their_own_time(
    service: Client,
    sandbox: RunningSandbox,
    clock: Clock,
    now: dict[str, object] | None,
    bill: bytes,
) -> None:
    """Though the messages are the same, a report's new price is seen when it is due."""
    sandbox.sandbox.set_messages(OLD)
    sandbox.sandbox.set_report(7, now)
    clock.pass_s(HOLDING["report_ttl_s"] - 0.1)
    assert (await Told.by(service)).body == OLD_BILL
    assert sandbox.sandbox.calls == {MESSAGES: 1}

    clock.pass_s(EXPIRED_S)
    assert (await Told.by(service)).body == bill
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
    assert (await Told.by(service)).status == 200
    sandbox.sandbox.faults = always("hang")
    sandbox.sandbox.calls.clear()
    clock.pass_s(EXPIRED_S)
    return service


@pytest.mark.parametrize("path", QUERIES)
async def test_callers_wait_for_a_refresh_that_hangs_as_long_as_is_set(
    hanging: Client,
    sandbox: RunningSandbox,
    loop_time: LoopTime,
    until: Until,
    path: str,
) -> None:
    """They get the stale answer `stale_wait_s` after its start; later ones at once."""
    first = asyncio.create_task(Told.by(hanging, path))
    await until(lambda: sandbox.sandbox.in_flight == 1)
    await loop_time.pass_s(WAIT_S / 2)
    second = asyncio.create_task(Told.by(hanging, path))
    await passers_by(hanging)
    assert not first.done()
    assert not second.done()

    await loop_time.pass_s(WAIT_S / 2)

    told = [await first, await second, await Told.by(hanging, path)]
    assert {(each.status, each.cache) for each in told} == {(200, STALE)}
    assert sandbox.sandbox.calls == {MESSAGES: 1}
    assert sandbox.sandbox.in_flight == 1


async def passers_by(service: Client) -> None:
    """Make requests that wait for nothing: those before them are served by then."""
    for _ in range(3):
        assert (await service.get("/health/live")).status == 200


async def test_a_crowd_does_not_exhaust_the_service(
    hanging: Client, sandbox: RunningSandbox, loop_time: LoopTime, until: Until
) -> None:
    """1,000 callers at once, and 1,000 later ones, all get the stale answer."""
    async with ClientSession(
        hanging.make_url("/"), connector=TCPConnector(limit=0)
    ) as session:
        first = [asyncio.create_task(Told.by(session)) for _ in range(1_000)]
        await until(lambda: in_flight(hanging) == len(first))
        await loop_time.pass_s(WAIT_S)
        told = await asyncio.gather(*first)
        paths = [QUERIES[number % len(QUERIES)] for number in range(1_000)]
        told += await asyncio.gather(*(Told.by(session, path) for path in paths))

    assert {(each.status, each.cache) for each in told} == {(200, STALE)}
    assert sandbox.sandbox.calls == {MESSAGES: 1}


def in_flight(service: Client) -> int:
    assert service.app is not None
    return service.app[LIMITS].in_flight


async def test_the_wait_may_be_none(
    client: MakeClient, sandbox: RunningSandbox, clock: Clock
) -> None:
    """With `stale_wait_s` 0 even the first caller gets the stale answer at once."""
    sandbox.sandbox.set_messages(OLD)
    service = await client(cache=HOLDING | {"stale_wait_s": 0.0}, upstream=ONE_TRY)
    await Told.by(service)
    sandbox.sandbox.faults = always("hang")
    clock.pass_s(EXPIRED_S)

    assert (await Told.by(service)).cache == STALE


async def test_a_snapshot_that_is_too_old_is_not_sent_while_upstream_hangs(
    hanging: Client, clock: Clock, loop_time: LoopTime, sandbox: RunningSandbox
) -> None:
    """Beyond `stale_if_error_s` callers wait for the refresh, and get its failure."""
    clock.pass_s(TOO_OLD_S)
    asked = asyncio.create_task(Told.by(hanging))
    async with loop_time.passing(60.0, at_each=lambda: sandbox.sandbox.calls[MESSAGES]):
        told = await asked

    assert told.status == 503
    assert msgspec.json.decode(told.body)["code"] == "messages_unavailable"
