"""Protection of a failing upstream, over real sockets: circuit, retries and pace."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import pytest
from structlog.typing import EventDict

from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.upstream import errors
from service.upstream.bodies import UpstreamResponse
from service.upstream.circuit_breaker import CircuitState
from service.upstream.client import UpstreamClient, open_client
from service.upstream.profiles import UpstreamProfile
from tests.clock import Clock, LoopTime
from tests.conftest import MakeClient, MakeSettings, always
from tests.upstream.conftest import Until, sections

PATH: Final = "/messages/current-period"
OPEN_S: Final = 5.0
MINIMUM_CALLS: Final = 6
PROBES: Final = 3
NO_CIRCUIT: Final = {"window_calls": 10_000, "minimum_calls": 10_000}
NO_BUDGET: Final = {"retry_floor": 1_000_000}

OpenUpstream = Callable[..., AbstractAsyncContextManager[UpstreamClient]]


@pytest.fixture
def clock() -> Clock:
    """The clock of the client's guard."""
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
    """Make so many concurrent calls, all of which fail."""
    ended = await asyncio.gather(
        *(fetch(client) for _ in range(calls)), return_exceptions=True
    )
    failures = [each for each in ended if isinstance(each, errors.UpstreamError)]
    assert len(failures) == calls
    return failures


# --- the circuit --------------------------------------------------------------------


async def test_failing_upstream_gets_no_calls(
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
            assert client.breaker.state is not CircuitState.CLOSED
            await fetch(client)
        assert client.breaker.state is CircuitState.CLOSED
        assert calls[PATH] == MINIMUM_CALLS + PROBES


async def test_queued_calls_are_refused(
    opened: OpenUpstream, sandbox: RunningSandbox
) -> None:
    """A call that waited for a slot while the circuit opened is refused."""
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


async def test_open_circuit_sets_retry_after(
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
    """The retry budget limits 200 failing calls to 240 attempts instead of 800."""
    sandbox.sandbox.faults = always("server_error")
    async with opened(NO_CIRCUIT, attempts=4, **budget) as client:
        await fail_often(client, 200)

    assert fewest <= sandbox.sandbox.calls[PATH] <= most


async def test_without_budget_the_last_error_is_final(
    opened: OpenUpstream, sandbox: RunningSandbox, log_entries: list[EventDict]
) -> None:
    """The call ends with the error of its last try; the refusal is logged once."""
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
    """A retry that would be refused after its wait is refused at once.

    `Retry-After` is the longer of the two waits.
    """
    sandbox.sandbox.faults = Faults(unavailable=1, retry_after=retry_after)
    async with opened({"minimum_calls": 1}, attempts=4) as client:
        error = await fail(client)

    assert isinstance(error, errors.UnexpectedStatus)
    assert (error.attempts, error.retry_after_s) == (1, expected_s)
    assert sandbox.sandbox.calls == {PATH: 1}
    refusals = [each for each in log_entries if each["event"].endswith("_refused")]
    assert [each["reason"] for each in refusals] == ["circuit"]
    assert "upstream.retry" not in {each["event"] for each in log_entries}


# --- a profile of its own -----------------------------------------------------------

UNLIMITED: Final = UpstreamProfile("other", "application/json", frozenset({403}))
BATCH: Final = "/api/vehicles/DecodeVINValuesBatch/"


@asynccontextmanager
async def calling(
    settings: MakeSettings,
    sandbox: RunningSandbox,
    profile: UpstreamProfile,
    minimum_calls: int = 1,
    **upstream: Any,
) -> AsyncIterator[UpstreamClient]:
    """A client of the sandbox with another profile; one failure opens its circuit."""
    made = settings(
        breaker={"minimum_calls": minimum_calls, "open_s": OPEN_S},
        upstream={"base_url": sandbox.url, "attempts": 1, **upstream},
    )
    async with open_client(*sections(made), profile=profile) as client:
        yield client


@pytest.mark.parametrize(
    "fault, error, opens",
    [
        ("forbidden", errors.Blocked, True),
        ("html", errors.WrongMediaType, True),
        ("xml", errors.WrongMediaType, True),
        ("redirect", errors.UnexpectedStatus, False),
        ("not_found", errors.UnexpectedStatus, False),
    ],
)
async def test_block_opens_the_circuit(
    settings: MakeSettings,
    sandbox: RunningSandbox,
    fault: str,
    error: type[errors.UpstreamError],
    *,
    opens: bool,
) -> None:
    """A 403 or an HTML page opens the circuit, since further calls prolong a block."""
    sandbox.sandbox.faults = always(fault)
    form = {"format": "json", "data": "A"}
    async with calling(settings, sandbox, UNLIMITED, attempts=3) as client:
        with pytest.raises(error):
            await client.fetch(BATCH, form=form)

        assert (client.breaker.state is CircuitState.OPEN) is opens
    assert sandbox.sandbox.calls == {BATCH: 1}


async def test_circuits_are_separate(
    settings: MakeSettings, sandbox: RunningSandbox, log_entries: list[EventDict]
) -> None:
    """Each upstream has its own circuit, and its name in the log."""
    sandbox.sandbox.faults = always("server_error", times=1)
    async with (
        calling(settings, sandbox, UNLIMITED) as ill,
        calling(settings, sandbox, UpstreamProfile("well")) as well,
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
    """Make calls without a limit, so that all calls that may be sent are sent first."""
    made = settings(upstream={"base_url": sandbox.url})
    async with open_client(*sections(made)) as client:
        for _ in range(3):
            await client.fetch("/reports/1", template="/reports")


async def test_tries_beyond_the_rate_wait(
    settings: MakeSettings, sandbox: RunningSandbox, loop_time: LoopTime
) -> None:
    """As many attempts as one second allows are sent at once, and later ones paced."""
    sandbox.sandbox.set_report(1, {"id": 1})
    paced = UpstreamProfile("paced", requests_per_s=3.0)
    async with calling(settings, sandbox, paced, timeout_s=60.0) as client:
        began = loop_time()
        calls = [asyncio.create_task(fetch(client)) for _ in range(5)]
        for expected in (3, 4, 5):
            await passers_by(settings, sandbox)
            within_pace = 3 + 3.0 * (loop_time() - began)
            assert expected <= sandbox.sandbox.calls[PATH] <= within_pace
            await loop_time.pass_s(0.34)
        await asyncio.gather(*calls)


async def test_a_reserved_slot_is_that_of_the_first_try(
    settings: MakeSettings, sandbox: RunningSandbox, until: Until
) -> None:
    """A call in a reserved slot waits for no permit; an unused slot is free again."""
    paced = UpstreamProfile("paced", requests_per_s=0.01)
    async with calling(
        settings, sandbox, paced, concurrency=1, timeout_s=600.0, deadline_s=600.0
    ) as client:
        slot = await client.guard.reserve(PATH)
        waiting = asyncio.create_task(client.guard.reserve(PATH))
        await client.fetch(PATH, slot=slot)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])

        assert not client.guard._slots.locked()
    assert sum(sandbox.sandbox.calls.values()) == 1


async def test_retries_keep_the_pace_too(
    settings: MakeSettings, sandbox: RunningSandbox, loop_time: LoopTime
) -> None:
    """A retry counts in the rate limit."""
    sandbox.sandbox.set_report(1, {"id": 1})
    sandbox.sandbox.faults = always("server_error", path=PATH)
    paced = UpstreamProfile("paced", requests_per_s=2.0)
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


async def test_permits_are_not_saved_up(
    settings: MakeSettings,
    sandbox: RunningSandbox,
    loop_time: LoopTime,
    until: Until,
) -> None:
    """Calls that waited for a slot do not exceed the rate afterwards."""
    sandbox.sandbox.set_report(1, {"id": 1})
    sandbox.sandbox.faults = Faults(hang=1)
    paced = UpstreamProfile("paced", requests_per_s=0.01)
    async with calling(
        settings, sandbox, paced, concurrency=1, timeout_s=9_000.0, deadline_s=9_000.0
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


async def test_open_circuit_does_not_wait_for_the_rate_limit(
    settings: MakeSettings, sandbox: RunningSandbox
) -> None:
    """Calls are refused at once, and waiting ones as soon as they get a slot."""
    sandbox.sandbox.faults = always("server_error")
    slow = UpstreamProfile("slow", requests_per_s=0.001)
    async with calling(settings, sandbox, slow, concurrency=1) as client:
        failures = await fail_often(client, 5)
        assert isinstance(await fail(client), errors.CircuitOpen)

    assert [each.error_type for each in failures] == ["500"] + ["CircuitOpen"] * 4
    assert sandbox.sandbox.calls == {PATH: 1}
