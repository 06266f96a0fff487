"""Large periods are priced in a child process, which may die or stop."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest

from service.sandbox.server import RunningSandbox
from service.usage.snapshots import logged_prices
from service.usage.snapshots import process_worker as worker
from service.usage.snapshots.child import PricingChild
from tests.clock import Clock, LoopTime
from tests.conftest import Client, MakeClient, always, message
from tests.leftovers import child_pids, open_files, wait_for_end
from tests.usage.conftest import Until
from tests.usage.test_cache import (
    EXPIRED_S,
    HOLDING,
    LEASE,
    MESSAGES,
    NEW,
    NEW_BILL,
    OLD,
    OLD_BILL,
    ONE_TRY,
    Response,
)


@pytest.fixture
def the_child() -> Callable[[], int]:
    """Return a function that finds the child process started in this test."""
    others = child_pids()

    def find() -> int:
        (pid,) = child_pids() - others
        return pid

    return find


@pytest.fixture
async def large(client: MakeClient, sandbox: RunningSandbox, clock: Clock) -> Client:
    """As `service`, but every period counts as large."""
    sandbox.sandbox.set_report(7, LEASE)
    sandbox.sandbox.set_messages(OLD)
    service = await client(
        cache=HOLDING, upstream=ONE_TRY, usage={"own_process_bytes": 1}
    )
    assert await Response.by(service) == (200, OLD_BILL, "fwd=miss; stored")
    return service


PATHS: Final = (
    *("/usage", "/usage?limit=1", "/usage?plan=token-estimate", "/usage/1"),
    *("/usage/daily", "/usage/reports", "/usage/99", "/usage?sort=credits_used:desc"),
)


async def test_a_large_period_is_answered_alike(
    large: Client, client: MakeClient, sandbox: RunningSandbox, clock: Clock
) -> None:
    """Answers of a child process have the same bytes, also after a refresh."""
    service = await client(cache=HOLDING, upstream=ONE_TRY)
    for _ in range(2):
        for path in PATHS:
            answers = [await Response.by(each, path) for each in (large, service)]
            assert answers[0][:1] == answers[1][:1]
            assert without_request_id(answers[0].body) == without_request_id(
                answers[1].body
            )
        sandbox.sandbox.set_messages(NEW)
        clock.pass_s(EXPIRED_S)


def without_request_id(body: bytes) -> Any:
    answer = msgspec.json.decode(body)
    return body if "request_id" not in answer else answer | {"request_id": ""}


@pytest.mark.parametrize("is_same", [True, False], ids=["304", "news"])
async def test_a_child_that_was_killed_heals_with_the_next_request(
    the_child: Callable[[], int],
    large: Client,
    sandbox: RunningSandbox,
    *,
    is_same: bool,
) -> None:
    """Fresh or not, what is lost is fetched again, even if upstream has nothing new."""
    killed = the_child()
    os.kill(killed, signal.SIGKILL)
    wait_for_end(killed)
    if not is_same:
        sandbox.sandbox.set_messages(NEW)

    answers = await asyncio.gather(*(Response.by(large, "/usage/2") for _ in range(5)))

    assert {each.status for each in answers} == {200}
    assert (await Response.by(large)).body == (OLD_BILL if is_same else NEW_BILL)
    assert sandbox.sandbox.calls[MESSAGES] == 2
    assert the_child() != killed


async def test_the_cached_answer_survives_a_killed_child(
    the_child: Callable[[], int], large: Client, sandbox: RunningSandbox
) -> None:
    """While upstream fails, the cached answer is sent, and queries are refused."""
    os.kill(the_child(), signal.SIGKILL)
    sandbox.sandbox.faults = always("server_error")

    assert (await Response.by(large)).body == OLD_BILL
    refused = await Response.by(large, "/usage/2")

    assert refused.status == 503
    # The request may notice the loss before it queries the child, or only then.
    code = msgspec.json.decode(refused.body)["code"]
    assert code in {"period_lost", "messages_unavailable"}


async def test_a_period_that_grows_and_shrinks_is_handed_over(
    client: MakeClient, sandbox: RunningSandbox, clock: Clock
) -> None:
    """Answers are right when the period moves between the processes."""
    sandbox.sandbox.set_report(7, LEASE)
    limit = len(msgspec.json.encode({"messages": NEW}))
    service = await client(cache=HOLDING, usage={"own_process_bytes": limit})
    for answers, bill in [(OLD, OLD_BILL), (NEW, NEW_BILL)] * 2:
        sandbox.sandbox.set_messages(answers)
        clock.pass_s(EXPIRED_S)
        assert (await Response.by(service)).body == bill
        assert (await Response.by(service, "/usage/2")).status == 200


async def test_a_large_period_leaves_nothing_behind(
    client: MakeClient, sandbox: RunningSandbox, clock: Clock, until: Until
) -> None:
    """No refresh adds shared memory, and the child ends with the service."""
    children, others = child_pids(), open_files().count("/memfd")
    service = await client(cache=HOLDING, usage={"own_process_bytes": 1})
    for number in range(12):
        sandbox.sandbox.set_messages([message(number)])
        clock.pass_s(EXPIRED_S)
        assert (await Response.by(service)).status == 200
        assert (await Response.by(service, "/usage?plan=token-estimate")).status == 200
        # The answers of both plans are left. A thread frees the body, maybe later.
        await until(lambda: open_files().count("/memfd") <= others + 2)

    await service.close()

    assert child_pids() == children


# A child that is alive and does not answer.

QUERIES: Final = (
    *("/usage/2", "/usage/daily", "/usage/reports", "/usage?limit=1"),
    *("/usage?plan=token-estimate", "/usage?sort=credits_used:desc"),
)


@pytest.fixture
def stopped(
    the_child: Callable[[], int], large: Client, monkeypatch: pytest.MonkeyPatch
) -> int:
    """The child that keeps the snapshot, stopped; that is found out soon."""
    del large
    child = the_child()
    os.kill(child, signal.SIGSTOP)
    monkeypatch.setattr(worker, "CHECK_AFTER_S", 0.1)
    monkeypatch.setattr(worker, "PING_S", 1.0)
    return child


async def assert_serves_what_is_cached(service: Client) -> None:
    assert (await Response.by(service)).body == OLD_BILL
    assert (await service.get("/health/ready")).status == 200
    assert (await service.get("/health/live")).status == 200


@pytest.mark.parametrize("path", QUERIES[::2])
async def test_a_child_that_stopped_is_replaced(
    the_child: Callable[[], int], stopped: int, large: Client, path: str
) -> None:
    """Queries end in bounded time, the cached answer is served, and all recovers."""
    querying = asyncio.create_task(Response.by(large, path))
    await assert_serves_what_is_cached(large)

    assert (await querying).status in {200, 503}  # 200 if the new child has answered
    wait_for_end(stopped)
    assert {(await Response.by(large, each)).status for each in QUERIES} == {200}
    await assert_serves_what_is_cached(large)
    assert the_child() != stopped


DAYS: Final = "/usage/daily?tz=Europe/London"


async def test_days_do_not_wait_for_the_child(
    stopped: int, large: Client, client: MakeClient
) -> None:
    """The sums of quarters of an hour are enough for them, and are kept here."""
    small = await client(cache=HOLDING, upstream=ONE_TRY)
    expected = await Response.by(small, DAYS)
    assert expected.status == 200
    assert (await Response.by(large, DAYS)).body == expected.body
    os.kill(stopped, signal.SIGCONT)


@pytest.mark.parametrize("quarters", [0, 1, 16_000])
async def test_days_of_many_quarters_come_from_the_child(
    client: MakeClient,
    sandbox: RunningSandbox,
    monkeypatch: pytest.MonkeyPatch,
    quarters: int,
) -> None:
    """Too many sums are not sent, and the answer is the same."""
    sandbox.sandbox.set_report(7, LEASE)
    sandbox.sandbox.set_messages(OLD)
    usage = {"own_process_bytes": 10**9}
    service = await client(cache=HOLDING, upstream=ONE_TRY, usage=usage)
    expected = await Response.by(service, DAYS)
    monkeypatch.setattr(logged_prices, "MAX_QUARTERS", quarters)
    service = await client(cache=HOLDING, upstream=ONE_TRY, usage=usage)
    assert await Response.by(service, DAYS) == expected


async def test_a_refresh_of_a_child_that_stopped_is_bounded(
    stopped: int, large: Client, sandbox: RunningSandbox, clock: Clock
) -> None:
    """It fails, the stale answer is served, and the next refresh is right."""
    sandbox.sandbox.set_messages(NEW)
    clock.pass_s(EXPIRED_S)
    answers = await Response.by(large)
    assert (answers.body, answers.cache) == (OLD_BILL, "hit; ttl=-140; detail=stale")
    wait_for_end(stopped)
    clock.pass_s(HOLDING["pause_after_failure_s"])

    assert (await Response.by(large)).body == NEW_BILL


async def test_queries_do_not_wait_for_an_upstream_that_hangs(
    the_child: Callable[[], int],
    large: Client,
    sandbox: RunningSandbox,
    loop_time: LoopTime,
    until: Any,
) -> None:
    """A query without columns waits for about one try, and later ones not at all."""
    killed = the_child()
    os.kill(killed, signal.SIGKILL)
    wait_for_end(killed)
    sandbox.sandbox.faults = always("hang")
    first = asyncio.create_task(Response.by(large, "/usage/2"))
    await until(lambda: sandbox.sandbox.in_flight == 1)
    await loop_time.pass_s(60.0)

    assert (await first).status == 503
    assert (await Response.by(large, "/usage/2")).status == 503
    await assert_serves_what_is_cached(large)


async def test_a_slow_child_is_not_a_stopped_one(
    the_child: Callable[[], int], large: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that takes long has the child checked, which answers the ping."""
    monkeypatch.setattr(worker, "CHECK_AFTER_S", 0.001)
    released = threading.Event()
    called = PricingChild.call

    def call(self: PricingChild, name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "ping":
            released.set()
        elif name == "explain":
            released.wait()
        return called(self, name, *args, **kwargs)

    monkeypatch.setattr(PricingChild, "call", call)
    child = the_child()

    assert (await Response.by(large, "/usage/2")).status == 200
    assert the_child() == child
