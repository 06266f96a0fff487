"""The circuit breaker: its machine against a naive model, then around real calls."""

import asyncio
from collections.abc import Callable
from itertools import count, product
from typing import Final, NamedTuple

import pytest
from structlog.typing import EventDict

from service.settings import BreakerSettings
from service.upstream import errors
from service.upstream.circuit_breaker import (
    PROBE_S,
    CircuitBreaker,
    CircuitState,
    Permit,
    is_failure,
)
from service.upstream.retries import unexpected_status
from tests.clock import Clock

OPEN_S: Final = 5.0
SLOW_S: Final = 3.0
SETTINGS: Final = BreakerSettings(
    window_calls=4,
    minimum_calls=2,
    failure_rate=0.5,
    slow_rate=0.75,
    slow_call_s=SLOW_S,
    open_s=OPEN_S,
    max_open_s=3_600.0,
    half_open_calls=2,
)
CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


class Outcome(NamedTuple):
    """Outcome of a call."""

    failed: bool = False
    slow: bool = False


GOOD, BAD, SLOW = Outcome(), Outcome(failed=True), Outcome(slow=True)


class Model:
    """The breaker as it is described, without a thought for speed.

    It keeps every outcome since the last change of state, and counts them anew.
    """

    state: CircuitState
    outcomes: list[Outcome]
    under_way: set[int]
    since_s: float

    def __init__(self) -> None:
        self.become(CLOSED, now_s=0.0)

    def become(self, state: CircuitState, now_s: float) -> None:
        self.state, self.since_s = state, now_s
        self.outcomes, self.under_way = [], set()

    def refuses(self, now_s: float) -> bool:
        probes = len(self.under_way) + len(self.outcomes)
        return {
            CLOSED: False,
            OPEN: now_s < self.since_s + SETTINGS.open_s,
            HALF_OPEN: probes >= SETTINGS.half_open_calls,
        }[self.state]

    def begin(self, call: int, now_s: float) -> None:
        if self.state is OPEN:
            self.become(HALF_OPEN, now_s)
        self.under_way.add(call)

    def end(self, call: int, outcome: Outcome | None, now_s: float) -> None:
        if call not in self.under_way:
            return
        self.under_way.remove(call)
        if outcome is None:
            return
        self.outcomes.append(outcome)
        verdict = self.judge_probes() if self.state is HALF_OPEN else self.judge_last()
        if verdict is not self.state:
            self.become(verdict, now_s)

    def judge_last(self) -> CircuitState:
        last = self.outcomes[-SETTINGS.window_calls :]
        if len(last) < SETTINGS.minimum_calls:
            return CLOSED
        return OPEN if self.is_ill(last, len(last)) else CLOSED

    def judge_probes(self) -> CircuitState:
        if self.is_ill(self.outcomes, SETTINGS.half_open_calls):
            return OPEN
        is_complete = len(self.outcomes) == SETTINGS.half_open_calls
        return CLOSED if is_complete else HALF_OPEN

    def is_ill(self, outcomes: list[Outcome], of: int) -> bool:
        failed = sum(each.failed for each in outcomes)
        slow = sum(each.slow for each in outcomes)
        return failed / of >= SETTINGS.failure_rate or slow / of >= SETTINGS.slow_rate


class Pair:
    """A breaker and the model, driven as one; `compare` holds them together."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.breaker = CircuitBreaker(SETTINGS, self.clock)
        self.changes = [CLOSED]
        self.breaker.on_change = self.changes.append
        self.model = Model()
        self.permits: dict[int, Permit] = {}
        self.numbers = count()

    def begin(self) -> int | None:
        """Ask for leave: the call's number, or None where it is refused."""
        is_refused = self.model.refuses(self.clock.now_s)
        try:
            permit = self.breaker.allow()
        except errors.CircuitOpen as error:
            refused_s = error.retry_after_s
            assert (is_refused, refused_s) == (True, self.left_s())
            return None
        assert not is_refused
        call = next(self.numbers)
        self.permits[call] = permit
        self.model.begin(call, self.clock.now_s)
        return call

    def left_s(self) -> float:
        if self.model.state is HALF_OPEN:
            return PROBE_S
        return self.model.since_s + OPEN_S - self.clock.now_s

    def end(self, call: int, outcome: Outcome | None) -> None:
        """End a call, with an outcome or without telling anything."""
        permit = self.permits.pop(call)
        if outcome is None:
            self.breaker.release(permit)
        else:
            took_s = SLOW_S if outcome.slow else SLOW_S - 0.001
            self.breaker.record(permit, failed=outcome.failed, duration_s=took_s)
        self.model.end(call, outcome, self.clock.now_s)

    def call(self, outcome: Outcome) -> None:
        """A whole call with nothing between its begin and its end."""
        call = self.begin()
        if call is not None:
            self.end(call, outcome)

    def end_oldest(self, outcome: Outcome | None) -> None:
        if self.permits:
            self.end(min(self.permits), outcome)

    def wait(self) -> None:
        self.clock.now_s += OPEN_S

    def compare(self) -> None:
        assert self.breaker.state is self.model.state
        assert self.changes[-1] is self.model.state


# --- the machine --------------------------------------------------------------------

STEPS: Final[dict[str, Callable[[Pair], object]]] = {
    "good": lambda pair: pair.call(GOOD),
    "bad": lambda pair: pair.call(BAD),
    "slow": lambda pair: pair.call(SLOW),
    "begin": lambda pair: pair.begin(),
    "oldest is good": lambda pair: pair.end_oldest(GOOD),
    "oldest is bad": lambda pair: pair.end_oldest(BAD),
    "oldest leaves": lambda pair: pair.end_oldest(None),
    "wait": lambda pair: pair.wait(),
}
SEQUENCE_STEPS: Final = 4


def follow(*steps: str) -> Pair:
    """A pair that went these steps, compared after each."""
    pair = Pair()
    for step in steps:
        STEPS[step](pair)
        pair.compare()
    return pair


@pytest.mark.parametrize(
    "state, way",
    [
        (CLOSED, ("begin",)),
        (OPEN, ("begin", "bad", "bad")),
        (HALF_OPEN, ("bad", "bad", "wait", "begin")),
        (HALF_OPEN, ("begin", "bad", "bad", "wait", "begin")),
    ],
    ids=["closed", "open", "half-open", "half-open, with a call from before"],
)
def test_every_sequence_is_as_the_model_says(
    state: CircuitState, way: tuple[str, ...]
) -> None:
    """From each state, whatever happens in the next steps, the model says the same."""
    assert follow(*way).breaker.state is state

    for steps in product(STEPS, repeat=SEQUENCE_STEPS):
        follow(*way, *steps)


@pytest.mark.parametrize(
    "steps, state",
    [
        ("good good good good", CLOSED),
        ("good bad", OPEN),
        ("good good good good bad", CLOSED),
        ("slow slow", OPEN),
        ("good good slow slow", CLOSED),
        ("good slow slow slow", OPEN),
        ("good good bad good good good bad", CLOSED),
        ("good slow slow good good good good slow slow", CLOSED),
        ("bad bad wait good good", CLOSED),
        ("bad bad wait good slow", CLOSED),
        ("bad bad wait slow slow", OPEN),
        ("bad bad wait good bad", OPEN),
        ("bad bad wait bad wait good good", CLOSED),
        ("bad bad wait good good good good good bad", CLOSED),
    ],
)
def test_transitions(steps: str, state: CircuitState) -> None:
    """The rates, the window, the minimum and the probes decide as the table says."""
    assert follow(*steps.split()).breaker.state is state


def test_a_refusal_says_when_to_come_back() -> None:
    """The wait shrinks as time goes by; while probes are out it is a short one."""
    pair = follow("bad", "bad")
    pair.clock.now_s += 1.5
    with pytest.raises(errors.CircuitOpen) as raised:
        pair.breaker.refuse_if_open()
    assert raised.value.retry_after_s == OPEN_S - 1.5

    pair.clock.now_s += OPEN_S - 1.5
    pair.breaker.refuse_if_open()
    pair.begin()
    pair.begin()
    with pytest.raises(errors.CircuitOpen) as raised:
        pair.breaker.allow()
    assert raised.value.retry_after_s == PROBE_S


def test_each_change_is_logged_and_reported_once(log_entries: list[EventDict]) -> None:
    """Each change has one log entry with the rates that caused it."""
    pair = follow("good", "bad", "bad", "wait", "bad", "wait", "good", "good", "good")

    of = {"upstream": "copilot"}
    opened = {**of, "event": "upstream.breaker.opened", "log_level": "warning"}
    half_opened = {**of, "event": "upstream.breaker.half_opened", "log_level": "info"}
    assert pair.changes == [CLOSED, OPEN, HALF_OPEN, OPEN, HALF_OPEN, CLOSED]
    assert log_entries == [
        {**opened, "failure_rate": 0.5, "slow_rate": 0.0, "calls": 2, "open_s": OPEN_S},
        {**half_opened, "open_s": OPEN_S},
        {**opened, "failure_rate": 1.0, "slow_rate": 0.0, "calls": 1, "open_s": OPEN_S},
        {**half_opened, "open_s": OPEN_S},
        {
            **of,
            "event": "upstream.breaker.closed",
            "log_level": "info",
            "failure_rate": 0.0,
            "slow_rate": 0.0,
            "calls": 2,
        },
    ]


# --- failures -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "error, expected",
    [
        (errors.ConnectFailed(), True),
        (errors.ConnectionDropped(), True),
        (errors.TryTimedOut(), True),
        (errors.MalformedBody(), True),
        (errors.WrongMediaType(), True),
        (errors.Blocked(403), True),
        (errors.ContractBroken(), False),
        (errors.BodyTooLarge(1), False),
        (errors.BadRequestUrl(), False),
        *[
            (unexpected_status(status), status in {408, 425, 429})
            for status in (204, 301, 304, 400, 401, 403, 404, 408, 410, 425, 429, 451)
        ],
        *[(unexpected_status(status), True) for status in (500, 501, 503, 599)],
    ],
    ids=lambda value: getattr(value, "error_type", ""),
)
def test_failures(error: errors.UpstreamError, *, expected: bool) -> None:
    """Illness is one, and being asked too much; a sound refusal is none."""
    assert is_failure(error) is expected


# --- around calls -------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(SETTINGS, clock)


class Calls:
    """Calls through a breaker, which the test ends."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self.breaker = breaker
        self.under_way: list[asyncio.Future[None]] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def _call(self) -> None:
        async with self.breaker.guard():
            end = asyncio.get_running_loop().create_future()
            self.under_way.append(end)
            try:
                await end
            finally:
                self.under_way.remove(end)

    def start(self, calls: int) -> None:
        self.tasks += [asyncio.create_task(self._call()) for _ in range(calls)]

    async def run_tasks(self) -> None:
        """Let each task come as far as it comes by itself."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def results(self) -> list[BaseException | None]:
        return await asyncio.gather(*self.tasks, return_exceptions=True)


async def fail(breaker: CircuitBreaker, error: BaseException) -> None:
    with pytest.raises(type(error)):
        async with breaker.guard():
            raise error


async def open_circuit(breaker: CircuitBreaker) -> None:
    for _ in range(SETTINGS.minimum_calls):
        await fail(breaker, errors.ConnectionDropped())
    assert breaker.state is OPEN


async def half_open(breaker: CircuitBreaker, clock: Clock, calls: int) -> Calls:
    """Open the circuit, wait, and start so many calls at once."""
    await open_circuit(breaker)
    clock.now_s += OPEN_S
    started = Calls(breaker)
    started.start(calls)
    await started.run_tasks()
    return started


@pytest.mark.parametrize(
    "error", [errors.Blocked(403), errors.WrongMediaType()], ids=["status", "page"]
)
async def test_block_opens_at_once(
    breaker: CircuitBreaker, error: errors.UpstreamError
) -> None:
    """A block opens the circuit, however many calls succeeded before."""
    for _ in range(SETTINGS.window_calls):
        async with breaker.guard():
            pass
    await fail(breaker, error)

    assert breaker.state is OPEN


@pytest.mark.parametrize("is_cancelled", [False, True], ids=["ended", "cancelled"])
@pytest.mark.parametrize(
    "duration_s, state", [(SLOW_S - 0.5, CLOSED), (SLOW_S, OPEN)], ids=["fast", "slow"]
)
async def test_the_time_of_a_call_counts(
    *,
    breaker: CircuitBreaker,
    clock: Clock,
    duration_s: float,
    state: CircuitState,
    is_cancelled: bool,
) -> None:
    """Calls that take `slow_call_s` open the circuit, also if they are cancelled."""
    calls = Calls(breaker)
    calls.start(SETTINGS.minimum_calls)
    await calls.run_tasks()
    clock.now_s += duration_s
    for task, end in zip(calls.tasks, list(calls.under_way), strict=True):
        if is_cancelled:
            task.cancel()
        else:
            end.set_result(None)
    await calls.results()

    assert breaker.state is state


async def test_number_of_probes_is_limited(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    """Of many calls at once only the probes run; their success lets the rest go."""
    calls = await half_open(breaker, clock, 10)
    assert len(calls.under_way) == SETTINGS.half_open_calls

    for probe in calls.under_way:
        probe.set_result(None)
    await calls.run_tasks()

    assert breaker.state is CLOSED
    assert len(calls.under_way) == 10 - SETTINGS.half_open_calls
    for call in calls.under_way:
        call.set_result(None)
    assert await calls.results() == [None] * 10


async def test_failed_probe_refuses_waiting_calls(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    """Calls that wait for the probes are refused when the circuit opens again."""
    calls = await half_open(breaker, clock, 10)

    calls.under_way[0].set_exception(errors.TryTimedOut())
    await calls.run_tasks()

    assert breaker.state is OPEN
    refused = [task for task in calls.tasks if task.done()]
    assert [type(task.exception()) for task in refused] == (
        [errors.TryTimedOut] + [errors.CircuitOpen] * 8
    )
    calls.under_way[0].set_result(None)
    await calls.results()


async def test_cancelled_probe_is_replaced(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    """However many probes are cancelled, others come in their place and decide."""
    calls = await half_open(breaker, clock, 10)

    for _ in range(4):
        for task in [task for task in calls.tasks if not task.done()][:2]:
            task.cancel()
        await calls.run_tasks()
        assert breaker.state is HALF_OPEN
        assert len(calls.under_way) == SETTINGS.half_open_calls

    for probe in calls.under_way:
        probe.set_result(None)
    await calls.results()
    assert breaker.state is CLOSED


@pytest.mark.parametrize(
    "error",
    [asyncio.CancelledError(), ZeroDivisionError(), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
async def test_other_errors_do_not_count(
    breaker: CircuitBreaker, error: BaseException
) -> None:
    """Cancellations and our own errors are neither failures nor successes."""
    for _ in range(10):
        await fail(breaker, error)
    assert breaker.state is CLOSED

    await fail(breaker, errors.ConnectionDropped())
    assert breaker.state is CLOSED
    await fail(breaker, errors.ConnectionDropped())
    assert breaker.state is OPEN
