"""The circuit breaker: its machine against a naive model, then around real calls."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count, product
from typing import Final, NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)
from structlog.typing import EventDict

from service.settings import Breaker
from service.upstream import errors
from service.upstream.breaker import (
    PROBE_S,
    CircuitBreaker,
    Permit,
    State,
    is_failure,
)
from service.upstream.retries import unexpected_status

OPEN_S: Final = 5.0
SLOW_S: Final = 3.0
SETTINGS: Final = Breaker(
    window_calls=4,
    minimum_calls=2,
    failure_rate=0.5,
    slow_rate=0.75,
    slow_call_s=SLOW_S,
    open_s=OPEN_S,
    half_open_calls=2,
)
CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN

Until = Callable[[Callable[[], bool]], Awaitable[None]]


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Outcome(NamedTuple):
    """How a call ended."""

    failed: bool = False
    slow: bool = False


GOOD, BAD, SLOW = Outcome(), Outcome(failed=True), Outcome(slow=True)
BOTH = Outcome(failed=True, slow=True)


class Model:
    """The breaker as it is described, without a thought for speed.

    It keeps every outcome since the last change of state, and counts them anew.
    """

    state: State
    outcomes: list[Outcome]
    under_way: set[int]
    since_s: float

    def __init__(self) -> None:
        self.become(CLOSED, now_s=0.0)

    def become(self, state: State, now_s: float) -> None:
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

    def judge_last(self) -> State:
        last = self.outcomes[-SETTINGS.window_calls :]
        if len(last) < SETTINGS.minimum_calls:
            return CLOSED
        return OPEN if self.is_ill(last, len(last)) else CLOSED

    def judge_probes(self) -> State:
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
    state: State, way: tuple[str, ...]
) -> None:
    """From each state, whatever happens in the next steps, the model says the same."""
    assert follow(*way).breaker.state is state

    for steps in product(STEPS, repeat=SEQUENCE_STEPS):
        follow(*way, *steps)


class Machine(RuleBasedStateMachine):
    """Calls that begin, overlap and end in any order, while time goes by."""

    calls: Bundle[int] = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()

    @rule(target=calls)
    def begin(self) -> int | MultipleResults[int]:
        call = self.pair.begin()
        return multiple() if call is None else call

    # Mostly good, or the circuit would hardly ever stay closed for a whole window.
    @rule(call=consumes(calls), outcome=st.sampled_from([GOOD] * 4 + [BAD, SLOW, BOTH]))
    def end(self, call: int, outcome: Outcome) -> None:
        self.pair.end(call, outcome)

    @rule(call=consumes(calls))
    def leave(self, call: int) -> None:
        self.pair.end(call, None)

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.pair.clock.now_s += seconds

    @invariant()
    def agree(self) -> None:
        self.pair.compare()

    @invariant()
    def probe_with_few(self) -> None:
        if self.pair.model.state is HALF_OPEN:
            assert len(self.pair.model.under_way) <= SETTINGS.half_open_calls


test_any_interleaving_is_as_the_model_says = Machine.TestCase


@pytest.mark.parametrize(
    "steps, state",
    [
        ("good good good good", CLOSED),
        ("bad", CLOSED),
        ("good bad", OPEN),
        ("good good bad", CLOSED),
        ("good good good good bad", CLOSED),
        ("good good good good bad bad", OPEN),
        ("slow slow", OPEN),
        ("good good slow slow", CLOSED),
        ("good slow slow slow", OPEN),
        ("good good bad good good good bad", CLOSED),
        ("good slow slow good good good good slow slow", CLOSED),
        ("bad bad good", OPEN),
        ("bad bad wait", OPEN),
        ("bad bad wait begin", HALF_OPEN),
        ("bad bad wait good", HALF_OPEN),
        ("bad bad wait good good", CLOSED),
        ("bad bad wait good slow", CLOSED),
        ("bad bad wait slow slow", OPEN),
        ("bad bad wait bad", OPEN),
        ("bad bad wait good bad", OPEN),
        ("bad bad wait bad wait good good", CLOSED),
        ("bad bad wait good good bad", CLOSED),
        ("bad bad wait good good good good good bad", CLOSED),
    ],
)
def test_transitions(steps: str, state: State) -> None:
    """The rates, the window, the minimum and the probes decide as the table says."""
    assert follow(*steps.split()).breaker.state is state


def test_a_call_from_before_is_no_probe() -> None:
    """What began before the circuit opened ends without a say in whether it closes."""
    pair = follow("begin", "begin", "bad", "bad", "wait", "begin")

    pair.end_oldest(BAD)
    pair.end_oldest(None)

    assert pair.breaker.state is HALF_OPEN
    assert pair.begin() is not None
    assert pair.begin() is None


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


def test_each_change_is_logged_and_told_once(log_entries: list[EventDict]) -> None:
    """A change has one entry with what it was decided by; nothing else is logged."""
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


# --- what tells of upstream's health ------------------------------------------------


@pytest.mark.parametrize(
    "error, expected",
    [
        (errors.ConnectFailed(), True),
        (errors.ConnectionDropped(), True),
        (errors.TryTimedOut(), True),
        (errors.MalformedBody(), True),
        (errors.WrongMediaType(), True),
        (errors.ShutOut(403), True),
        (errors.ContractBroken(), False),
        (errors.BodyTooLarge(1), False),
        (errors.BadRequestUrl(), False),
        *[
            (unexpected_status(status, None), status in {408, 425, 429})
            for status in (204, 301, 304, 400, 401, 403, 404, 408, 410, 425, 429, 451)
        ],
        *[(unexpected_status(status, None), True) for status in (500, 501, 503, 599)],
    ],
    ids=lambda value: getattr(value, "error_type", ""),
)
def test_what_is_a_failure(error: errors.UpstreamError, *, expected: bool) -> None:
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
    """Calls through a breaker that last until they are told how to end."""

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

    async def settle(self) -> None:
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
    await started.settle()
    return started


async def test_an_open_circuit_lets_nothing_through(breaker: CircuitBreaker) -> None:
    """A guarded block is not entered."""
    await open_circuit(breaker)
    with pytest.raises(errors.CircuitOpen):
        async with breaker.guard():
            pytest.fail("entered")


@pytest.mark.parametrize(
    "error", [errors.ShutOut(403), errors.WrongMediaType()], ids=["status", "page"]
)
async def test_being_shut_out_opens_at_once(
    breaker: CircuitBreaker, error: errors.UpstreamError
) -> None:
    """However many calls went well before: each further one would make it worse."""
    for _ in range(SETTINGS.window_calls):
        async with breaker.guard():
            pass
    await fail(breaker, error)

    assert breaker.state is OPEN


@pytest.mark.parametrize(
    "duration_s, state", [(SLOW_S - 0.5, CLOSED), (SLOW_S, OPEN)], ids=["fast", "slow"]
)
async def test_who_is_given_up_late_was_slow(
    breaker: CircuitBreaker, clock: Clock, duration_s: float, state: State
) -> None:
    """A caller whose time is over tells that upstream took long; one who left, not."""
    calls = Calls(breaker)
    calls.start(SETTINGS.minimum_calls)
    await calls.settle()
    clock.now_s += duration_s
    for task in calls.tasks:
        task.cancel()
    await calls.results()

    assert breaker.state is state


async def test_exactly_so_many_probes_at_once(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    """Of many calls at once only the probes run; their success lets the rest go."""
    calls = await half_open(breaker, clock, 10)
    assert len(calls.under_way) == SETTINGS.half_open_calls

    for probe in calls.under_way:
        probe.set_result(None)
    await calls.settle()

    assert breaker.state is CLOSED
    assert len(calls.under_way) == 10 - SETTINGS.half_open_calls
    for call in calls.under_way:
        call.set_result(None)
    assert await calls.results() == [None] * 10


async def test_a_failed_probe_refuses_those_who_wait(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    """Who waited for the verdict is told at once when the circuit opens again."""
    calls = await half_open(breaker, clock, 10)

    calls.under_way[0].set_exception(errors.TryTimedOut())
    await calls.settle()

    assert breaker.state is OPEN
    refused = [task for task in calls.tasks if task.done()]
    assert [type(task.exception()) for task in refused] == (
        [errors.TryTimedOut] + [errors.CircuitOpen] * 8
    )
    calls.under_way[0].set_result(None)
    await calls.results()


async def test_a_cancelled_probe_gives_its_place_back(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    """However many probes are cancelled, others come in their place and decide."""
    calls = await half_open(breaker, clock, 10)

    for _ in range(4):
        for task in [task for task in calls.tasks if not task.done()][:2]:
            task.cancel()
        await calls.settle()
        assert breaker.state is HALF_OPEN
        assert len(calls.under_way) == SETTINGS.half_open_calls

    for probe in calls.under_way:
        probe.set_result(None)
    await calls.results()
    assert breaker.state is CLOSED


async def test_a_caller_may_leave_while_it_waits(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    """One that waits for the probes holds no place, so its leaving changes nothing."""
    calls = await half_open(breaker, clock, 3)

    calls.tasks[-1].cancel()
    for probe in calls.under_way:
        probe.set_result(None)
    results = await calls.results()

    assert [type(result) for result in results[:2]] == [type(None)] * 2
    assert isinstance(results[2], asyncio.CancelledError)
    assert breaker.state is CLOSED


@pytest.mark.parametrize(
    "error",
    [asyncio.CancelledError(), ZeroDivisionError(), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
async def test_what_does_not_tell_of_upstream_counts_as_nothing(
    breaker: CircuitBreaker, error: BaseException
) -> None:
    """A caller that leaves and a mistake of ours are neither failures nor successes."""
    for _ in range(10):
        await fail(breaker, error)
    assert breaker.state is CLOSED

    await fail(breaker, errors.ConnectionDropped())
    assert breaker.state is CLOSED
    await fail(breaker, errors.ConnectionDropped())
    assert breaker.state is OPEN


@pytest.mark.parametrize(
    "duration_s, state", [(SLOW_S - 0.5, CLOSED), (SLOW_S, OPEN)], ids=["fast", "slow"]
)
async def test_the_time_of_a_call_counts(
    breaker: CircuitBreaker, clock: Clock, duration_s: float, state: State
) -> None:
    """Calls that succeed, but slowly, open the circuit as failures do."""
    for _ in range(SETTINGS.minimum_calls):
        async with breaker.guard():
            clock.now_s += duration_s

    assert breaker.state is state
