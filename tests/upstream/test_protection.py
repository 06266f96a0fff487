"""Protection over real sockets: what upstream sees of us while it is ill."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import pytest
from structlog.typing import EventDict

from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.upstream import errors
from service.upstream.breaker import State
from service.upstream.client import UpstreamClient, UpstreamResponse, open_client
from service.upstream.peers import Peer
from tests.clock import LoopTime
from tests.conftest import Hurried, MakeClient, MakeSettings, always
from tests.upstream.conftest import sections

PATH: Final = "/messages/current-period"
OPEN_S: Final = 5.0
MINIMUM_CALLS: Final = 6
PROBES: Final = 3
NO_CIRCUIT: Final = {"window_calls": 10_000, "minimum_calls": 10_000}
NO_BUDGET: Final = {"retry_floor": 1_000_000}

OpenUpstream = Callable[..., AbstractAsyncContextManager[UpstreamClient]]
Until = Callable[[Callable[[], bool]], Awaitable[None]]


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """What the client's protection measures time by."""
    return Clock()


@pytest.fixture
def opened(
    settings: MakeSettings, sandbox: RunningSandbox, clock: Clock
) -> OpenUpstream:
    """A factory of clients of the sandbox whose circuit opens after few calls."""

    @asynccontextmanager
    async def make(
        breaker: dict[str, Any] | None = None, **upstream: Any
    ) -> AsyncIterator[UpstreamClient]:
        few = {
            "minimum_calls": MINIMUM_CALLS,
            "open_s": OPEN_S,
            "half_open_calls": PROBES,
        }
        made = settings(
            breaker=few | (breaker or {}),
            upstream={"base_url": sandbox.url, "attempts": 1, **upstream},
        )
        async with open_client(*sections(made), clock) as client:
            yield client

    return make


async def fetch(client: UpstreamClient) -> UpstreamResponse:
    return await client.fetch(PATH)


async def fail(client: UpstreamClient) -> errors.UpstreamError:
    with pytest.raises(errors.UpstreamError) as raised:
        await fetch(client)
    return raised.value


async def fail_often(client: UpstreamClient, calls: int) -> list[errors.UpstreamError]:
    """So many calls at once, none of which succeeds."""
    ended = await asyncio.gather(
        *(fetch(client) for _ in range(calls)), return_exceptions=True
    )
    failures = [each for each in ended if isinstance(each, errors.UpstreamError)]
    assert len(failures) == calls
    return failures


# --- the circuit --------------------------------------------------------------------


async def test_an_ill_upstream_is_left_in_peace(
    opened: OpenUpstream, sandbox: RunningSandbox, clock: Clock
) -> None:
    """After the minimum of calls none arrives for `open_s`; then probes close it."""
    calls = sandbox.sandbox.calls
    async with opened() as client:
        sandbox.sandbox.faults = always("server_error")
        for _ in range(MINIMUM_CALLS):
            assert isinstance(await fail(client), errors.UnexpectedStatus)

        refused = await fail_often(client, 50)
        clock.now_s += OPEN_S - 0.5
        refused += await fail_often(client, 50)
        assert {type(error) for error in refused} == {errors.CircuitOpen}
        assert {error.attempts for error in refused} == {0}
        assert {error.retry_after_s for error in refused} == {OPEN_S, 0.5}
        assert calls[PATH] == MINIMUM_CALLS

        sandbox.sandbox.faults = Faults()
        clock.now_s += 0.5
        for _ in range(PROBES):
            assert client.breaker.state is not State.CLOSED
            await fetch(client)
        assert client.breaker.state is State.CLOSED
        assert calls[PATH] == MINIMUM_CALLS + PROBES


async def test_an_upstream_that_stays_ill_sees_only_probes(
    opened: OpenUpstream, sandbox: RunningSandbox, clock: Clock
) -> None:
    """Each `open_s` brings it no more than the probes, whatever is asked of us."""
    sandbox.sandbox.faults = always("server_error")
    async with opened() as client:
        await fail_often(client, MINIMUM_CALLS)
        for wave in range(1, 4):
            clock.now_s += OPEN_S
            await fail_often(client, 40)
            assert client.breaker.state is State.OPEN
            arrived = sandbox.sandbox.calls[PATH] - MINIMUM_CALLS
            assert wave <= arrived <= wave * PROBES


async def test_a_burst_of_calls_survives_the_recovery(
    opened: OpenUpstream, sandbox: RunningSandbox, clock: Clock
) -> None:
    """A refresh asks for many reports at once: all wait for the probes and succeed."""
    sandbox.sandbox.faults = always("server_error")
    async with opened() as client:
        await fail_often(client, MINIMUM_CALLS)
        sandbox.sandbox.faults = Faults()
        clock.now_s += OPEN_S

        await asyncio.gather(*(fetch(client) for _ in range(40)))

        assert client.breaker.state is State.CLOSED


async def test_a_sound_refusal_opens_nothing(
    opened: OpenUpstream, sandbox: RunningSandbox
) -> None:
    """Any number of 404s or of redirects is no illness."""
    async with opened() as client:
        for fault in ("not_found", "redirect"):
            sandbox.sandbox.faults = always(fault)
            await fail_often(client, 3 * MINIMUM_CALLS)
            assert client.breaker.state is State.CLOSED


async def test_calls_that_queue_are_not_sent_any_more(
    opened: OpenUpstream, sandbox: RunningSandbox
) -> None:
    """Who waited for a slot while the circuit opened is refused when it gets one."""
    sandbox.sandbox.faults = always("server_error")
    async with opened({"minimum_calls": 1}, concurrency=1) as client:
        failures = await fail_often(client, 20)

    assert [error.error_type for error in failures] == ["500"] + ["CircuitOpen"] * 19
    assert sandbox.sandbox.calls == {PATH: 1}


async def test_a_refusal_waits_for_no_slot(
    opened: OpenUpstream, sandbox: RunningSandbox, until: Until
) -> None:
    """While a hanging call holds the only slot, an open circuit still answers."""
    sandbox.sandbox.faults = Faults(hang=1)
    async with opened({"minimum_calls": 1}, concurrency=1) as client:
        hanging = asyncio.create_task(fetch(client))
        await until(lambda: sandbox.sandbox.in_flight == 1)
        client.breaker.record(client.breaker.allow(), failed=True, duration_s=0)

        assert isinstance(await fail(client), errors.CircuitOpen)

        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging


async def test_a_timed_out_try_opens_the_circuit(
    opened: OpenUpstream, sandbox: RunningSandbox, hurried: Hurried
) -> None:
    """An upstream that hangs is ill although it never says so."""
    sandbox.sandbox.faults = Faults(hang=1)
    async with opened(timeout_s=10.0) as client, hurried(10.0):
        await fail_often(client, MINIMUM_CALLS)

        assert client.breaker.state is State.OPEN


async def test_calls_that_are_left_do_not_open_the_circuit(
    opened: OpenUpstream, sandbox: RunningSandbox, until: Until
) -> None:
    """Callers that leave, as the others do when one report fails, tell nothing."""
    sandbox.sandbox.faults = Faults(hang=1)
    async with opened() as client:
        calls = [asyncio.create_task(fetch(client)) for _ in range(2 * MINIMUM_CALLS)]
        await until(lambda: sandbox.sandbox.in_flight == len(calls))
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

        assert client.breaker.state is State.CLOSED


async def test_the_caller_is_told_when_to_come_back(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """While the circuit is open, the 503's Retry-After is what is left of its time."""
    sandbox.sandbox.faults = always("server_error")
    breaker = {"minimum_calls": 1, "open_s": 3_000.0}
    api = await client(breaker=breaker, upstream={"attempts": 1})

    for _ in range(2):  # the call that opens it, and one that it refuses
        answer = await api.get("/usage")
        assert answer.status == 503
        assert (await answer.json())["code"] == "messages_unavailable"
        assert 2_000 < int(answer.headers["Retry-After"]) <= 3_000
    assert sandbox.sandbox.calls == {PATH: 1}


# --- the budget ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "budget, fewest, most",
    [
        (NO_BUDGET, 800, 800),
        ({"retry_floor": 10, "retry_rate": 0.2}, 210, 240),
        ({"retry_floor": 10, "retry_rate": 0.0}, 210, 210),
        ({"retry_floor": 0, "retry_rate": 0.0}, 200, 200),
    ],
    ids=["without it", "as shipped", "floor alone", "none"],
)
async def test_retries_do_not_multiply_the_load(
    opened: OpenUpstream,
    sandbox: RunningSandbox,
    budget: dict[str, Any],
    fewest: int,
    most: int,
) -> None:
    """200 calls that all fail are 800 tries, but 240 at most with the budget."""
    sandbox.sandbox.faults = always("server_error")
    async with opened(NO_CIRCUIT, attempts=4, **budget) as client:
        await fail_often(client, 200)

    assert fewest <= sandbox.sandbox.calls[PATH] <= most


async def test_retries_come_back_with_time(
    opened: OpenUpstream, sandbox: RunningSandbox, clock: Clock
) -> None:
    """A spent budget is whole again when its window has gone by."""
    sandbox.sandbox.faults = always("server_error", times=3)
    budget = {"retry_floor": 1, "retry_window_s": 10.0}
    async with opened(NO_CIRCUIT, attempts=3, **budget) as client:
        assert (await fail(client)).attempts == 2
        clock.now_s += 10.0

        fetched = await client.fetch(PATH)

    assert fetched.attempts == 2


async def test_without_budget_the_last_error_is_final(
    opened: OpenUpstream, sandbox: RunningSandbox, log_entries: list[EventDict]
) -> None:
    """What the try has met is what the call ends with; the refusal is logged once."""
    sandbox.sandbox.faults = Faults(unavailable=1, retry_after="3")
    async with opened(attempts=4, retry_floor=0) as client:
        error = await fail(client)

    assert isinstance(error, errors.UnexpectedStatus)
    assert (error.status, error.attempts, error.retry_after_s) == (503, 1, 3.0)
    events = [entry["event"] for entry in log_entries]
    assert events == ["upstream.request", "upstream.retry_refused"]
    assert log_entries[1] == {
        "event": "upstream.retry_refused",
        "log_level": "warning",
        "upstream": "copilot",
        "reason": "budget",
    }


@pytest.mark.parametrize(
    "retry_after, expected_s", [("", OPEN_S), ("3", OPEN_S), ("60", 60.0)]
)
async def test_with_an_open_circuit_the_last_error_is_final(
    opened: OpenUpstream,
    sandbox: RunningSandbox,
    log_entries: list[EventDict],
    retry_after: str,
    expected_s: float,
) -> None:
    """No wait is begun that could only end in a refusal; the longer wish is told."""
    sandbox.sandbox.faults = Faults(unavailable=1, retry_after=retry_after)
    async with opened({"minimum_calls": 1}, attempts=4) as client:
        error = await fail(client)

    assert isinstance(error, errors.UnexpectedStatus)
    assert (error.attempts, error.retry_after_s) == (1, expected_s)
    assert sandbox.sandbox.calls == {PATH: 1}
    refusals = [each for each in log_entries if each["event"].endswith("_refused")]
    assert [each["reason"] for each in refusals] == ["circuit"]
    assert "upstream.retry" not in {each["event"] for each in log_entries}


# --- a peer of its own --------------------------------------------------------------

UNPACED: Final = Peer("other", "application/json", frozenset({403}))
BATCH: Final = "/api/vehicles/DecodeVINValuesBatch/"


@asynccontextmanager
async def calling(
    settings: MakeSettings,
    sandbox: RunningSandbox,
    peer: Peer,
    minimum_calls: int = 1,
    **upstream: Any,
) -> AsyncIterator[UpstreamClient]:
    """A client of the sandbox as of another peer; its circuit opens at the first."""
    made = settings(
        breaker={"minimum_calls": minimum_calls, "open_s": OPEN_S},
        upstream={"base_url": sandbox.url, "attempts": 1, **upstream},
    )
    async with open_client(*sections(made), peer=peer) as client:
        yield client


@pytest.mark.parametrize(
    "fault, error, opens",
    [
        ("forbidden", errors.ShutOut, True),
        ("html", errors.WrongMediaType, True),
        ("xml", errors.WrongMediaType, True),
        ("redirect", errors.UnexpectedStatus, False),
        ("not_found", errors.UnexpectedStatus, False),
    ],
)
async def test_being_shut_out_opens_the_circuit(
    settings: MakeSettings,
    sandbox: RunningSandbox,
    fault: str,
    error: type[errors.UpstreamError],
    *,
    opens: bool,
) -> None:
    """To go on asking would make it worse, whether 403 says so or a page."""
    sandbox.sandbox.faults = always(fault)
    form = {"format": "json", "data": "A"}
    async with calling(settings, sandbox, UNPACED, attempts=3) as client:
        with pytest.raises(error):
            await client.fetch(BATCH, form=form)

        assert (client.breaker.state is State.OPEN) is opens
    assert sandbox.sandbox.calls == {BATCH: 1}


async def test_circuits_are_apart(
    settings: MakeSettings, sandbox: RunningSandbox, log_entries: list[EventDict]
) -> None:
    """What one peer suffers is no other's, and is logged under its name."""
    sandbox.sandbox.faults = always("server_error", times=1)
    async with (
        calling(settings, sandbox, UNPACED) as ill,
        calling(settings, sandbox, Peer("well")) as well,
    ):
        await fail(ill)
        await fetch(well)
        assert isinstance(await fail(ill), errors.CircuitOpen)

    opened = [each for each in log_entries if each["event"].endswith("opened")]
    assert opened == [
        {
            "event": "upstream.breaker.opened",
            "log_level": "warning",
            "upstream": "other",
            "failure_rate": 1.0,
            "slow_rate": 0.0,
            "calls": 1,
            "open_s": OPEN_S,
        }
    ]


# --- the pace -----------------------------------------------------------------------


async def passers_by(settings: MakeSettings, sandbox: RunningSandbox) -> None:
    """Make calls that nothing holds back: what could be sent before them was."""
    made = settings(upstream={"base_url": sandbox.url})
    async with open_client(*sections(made)) as client:
        for _ in range(3):
            await client.fetch("/reports/1", template="/reports")


async def test_tries_beyond_the_pace_wait(
    settings: MakeSettings, sandbox: RunningSandbox, loop_time: LoopTime
) -> None:
    """A second's tries go at once, then each when its time has come."""
    sandbox.sandbox.set_report(1, {"id": 1})
    paced = Peer("paced", requests_per_s=3.0)
    async with calling(settings, sandbox, paced, timeout_s=60.0) as client:
        began = loop_time()
        calls = [asyncio.create_task(fetch(client)) for _ in range(5)]
        for expected in (3, 4, 5):
            await passers_by(settings, sandbox)
            within_pace = 3 + 3.0 * (loop_time() - began)
            assert expected <= sandbox.sandbox.calls[PATH] <= within_pace
            await loop_time.pass_s(0.34)
        await asyncio.gather(*calls)


async def test_who_would_wait_too_long_is_refused(
    settings: MakeSettings, sandbox: RunningSandbox
) -> None:
    """At once, with the time that the queue takes; who has patience left waits."""
    paced = Peer("paced", requests_per_s=0.01, patience_s=150.0)
    async with calling(settings, sandbox, paced, timeout_s=600.0) as client:
        await fetch(client)
        waiting = [asyncio.create_task(fetch(client)) for _ in range(2)]
        await asyncio.sleep(0)
        error = await fail(client)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)

        assert isinstance(error, errors.TooManyWait)
        assert error.retry_after_s == 200.0
        assert client.breaker.state is State.CLOSED
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await fetch(client)  # those who left make room: it waits
    assert sum(sandbox.sandbox.calls.values()) == 1


async def test_a_pace_below_one(
    settings: MakeSettings, sandbox: RunningSandbox, loop_time: LoopTime
) -> None:
    """Of every hundred seconds one try, if it says so."""
    sandbox.sandbox.set_report(1, {"id": 1})
    slow = Peer("slow", requests_per_s=0.01)
    async with calling(settings, sandbox, slow, timeout_s=600.0) as client:
        calls = [asyncio.create_task(fetch(client)) for _ in range(2)]
        await passers_by(settings, sandbox)
        await loop_time.pass_s(50.0)
        await passers_by(settings, sandbox)
        assert sandbox.sandbox.calls[PATH] == 1
        await loop_time.pass_s(51.0)
        await asyncio.gather(*calls)


async def test_retries_keep_the_pace_too(
    settings: MakeSettings, sandbox: RunningSandbox, loop_time: LoopTime
) -> None:
    """What is repeated is one more try."""
    sandbox.sandbox.set_report(1, {"id": 1})
    sandbox.sandbox.faults = always("server_error", path=PATH)
    paced = Peer("paced", requests_per_s=2.0)
    async with calling(
        settings, sandbox, paced, minimum_calls=9, attempts=3, timeout_s=60.0
    ) as client:
        began = loop_time()
        call = asyncio.create_task(fail(client))
        await passers_by(settings, sandbox)
        within_pace = 2 + 2.0 * (loop_time() - began)
        assert 2 <= sandbox.sandbox.calls[PATH] <= within_pace
        await loop_time.pass_s(0.51)

        assert (await call).attempts == 3


async def test_leave_to_call_is_not_saved_up(
    settings: MakeSettings,
    sandbox: RunningSandbox,
    loop_time: LoopTime,
    until: Until,
) -> None:
    """Who waited for a slot of a slow upstream does not burst out when it is well."""
    sandbox.sandbox.set_report(1, {"id": 1})
    sandbox.sandbox.faults = Faults(hang=1)
    paced = Peer("paced", requests_per_s=0.01)
    async with calling(
        settings, sandbox, paced, concurrency=1, timeout_s=9_000.0
    ) as client:
        calls = [asyncio.create_task(fetch(client)) for _ in range(4)]
        await until(lambda: sandbox.sandbox.in_flight == 1)
        for _ in range(4):
            await loop_time.pass_s(100.0)
        sandbox.sandbox.faults = Faults()
        calls[0].cancel()
        await until(lambda: sandbox.sandbox.calls[PATH] == 2)

        await passers_by(settings, sandbox)

        assert sandbox.sandbox.calls[PATH] == 2
        for _ in range(3):
            await loop_time.pass_s(101.0)
            await passers_by(settings, sandbox)
        await asyncio.gather(*calls[1:])


async def test_an_open_circuit_waits_for_no_pace(
    settings: MakeSettings, sandbox: RunningSandbox
) -> None:
    """Who would be refused is so at once, and who waits as soon as its slot is free."""
    sandbox.sandbox.faults = always("server_error")
    slow = Peer("slow", requests_per_s=0.001)
    async with calling(settings, sandbox, slow, concurrency=1) as client:
        failures = await fail_often(client, 5)
        assert isinstance(await fail(client), errors.CircuitOpen)

    assert [each.error_type for each in failures] == ["500"] + ["CircuitOpen"] * 4
    assert sandbox.sandbox.calls == {PATH: 1}
