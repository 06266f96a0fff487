"""Lanes: who runs, who waits, who is refused, and who takes the next turn."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import Final

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from service.web import lanes
from service.web.lanes import (
    Displaced,
    FairQueue,
    Lane,
    LaneFull,
    LaneKinds,
    LaneLimits,
    LaneTimeout,
)
from service.web.problems import ProblemKind
from tests.metric_samples import growth, value
from tests.patience import GIVE_UP_S

FULL: Final = ProblemKind("test_full", HTTPStatus.SERVICE_UNAVAILABLE, "Full")
TIMEOUT: Final = ProblemKind("test_timeout", HTTPStatus.SERVICE_UNAVAILABLE, "Slow")
CLIENT: Final = "X-Client"

Until = Callable[[Callable[[], bool]], Awaitable[None]]


def limits(
    concurrency: int = 2,
    max_queue: int = 4,
    queue_wait_s: float = GIVE_UP_S,
    time_limit_s: float = GIVE_UP_S,
) -> LaneLimits:
    """Return bounds that only a stuck test reaches by time."""
    return LaneLimits(concurrency, max_queue, queue_wait_s, time_limit_s)


def lane(bounds: LaneLimits) -> Lane:
    """Return a lane that knows clients by a header."""
    kinds = LaneKinds(FULL, TIMEOUT)
    return Lane("test", kinds, bounds, lambda request: request.headers[CLIENT])


def request_of(client: str) -> web.Request:
    """Return a request of a client."""
    return make_mocked_request("GET", "/", {CLIENT: client})


class Clients:
    """Requests in a lane, each of which runs until it is told to end."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.order: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def send(self, name: str) -> None:
        """Send a request; the letter of its name is the client."""
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._run(name))
        await asyncio.sleep(0)

    async def end(self, *names: str) -> None:
        """Let requests end."""
        for name in names:
            self._ends[name].set()
            await self.tasks[name]
        await asyncio.sleep(0)

    async def _run(self, name: str) -> None:
        async with self.lane.enter(request_of(name[0])):
            self.order.append(name)
            await self._ends[name].wait()


@pytest.fixture
async def open_clients() -> AsyncIterator[Callable[[LaneLimits], Clients]]:
    """A factory of clients of a new lane, which are cancelled at the end."""
    async with AsyncExitStack() as stack:

        def make(bounds: LaneLimits) -> Clients:
            clients = Clients(lane(bounds))

            async def cancel() -> None:
                for task in clients.tasks.values():
                    task.cancel()
                await asyncio.gather(*clients.tasks.values(), return_exceptions=True)

            stack.push_async_callback(cancel)
            return clients

        yield make


Open = Callable[[LaneLimits], Clients]


async def test_clients_take_turns(open_clients: Open) -> None:
    """A client with one request does not wait for all requests of another one."""
    clients = open_clients(limits(concurrency=2, max_queue=9))
    for name in ("a1", "b1", "a2", "a3", "a4", "b2", "c1"):
        await clients.send(name)

    for name in ("a1", "b1", "a2", "b2", "c1", "a3"):
        await clients.end(name)

    assert clients.order == ["a1", "b1", "a2", "b2", "c1", "a3", "a4"]


async def test_one_client_does_not_get_the_last_slot(open_clients: Open) -> None:
    """However many requests a client sends, another one starts at once."""
    clients = open_clients(limits(concurrency=3, max_queue=9))
    for number in range(5):
        await clients.send(f"a{number}")
    await clients.send("b0")

    assert clients.order == ["a0", "a1", "b0"]


async def test_a_lane_for_one_runs_one_of_any_client(open_clients: Open) -> None:
    """The only slot is not left free for another client."""
    clients = open_clients(limits(concurrency=1))
    await clients.send("a0")

    assert clients.order == ["a0"]


async def test_a_full_queue_refuses_the_client_that_fills_it(
    open_clients: Open,
) -> None:
    """Its own next request is refused; that of another client displaces its last."""
    clients = open_clients(limits(concurrency=1, max_queue=2))
    read = growth()
    for name in ("a0", "a1", "a2"):
        await clients.send(name)

    await clients.send("a3")
    with pytest.raises(LaneFull) as refused:
        await clients.tasks["a3"]
    await clients.send("b0")
    with pytest.raises(LaneFull):
        await clients.tasks["a2"]
    await clients.end("a0", "a1")

    assert refused.value.kind is FULL
    assert refused.value.retry_after_s >= 1
    assert clients.order == ["a0", "a1", "b0"]
    name = "copilot_usage_lane_refused_total"
    assert read(name, lane="test", reason="queue_full") == 1
    assert read(name, lane="test", reason="displaced") == 1


async def test_a_wait_has_an_end(open_clients: Open) -> None:
    """After `queue_wait_s` a waiting request is refused, and leaves no trace."""
    clients = open_clients(limits(concurrency=1, queue_wait_s=0.01))
    await clients.send("a0")
    await clients.send("b0")

    with pytest.raises(LaneFull):
        await clients.tasks["b0"]
    await clients.end("a0")
    await clients.send("c0")

    assert clients.order == ["a0", "c0"]
    assert value("copilot_usage_lane_waiting", lane="test") == 0


async def test_a_wait_that_would_be_too_long_is_refused_at_once(
    open_clients: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean duration tells that the request cannot start in time."""
    clients = open_clients(limits(concurrency=1, queue_wait_s=10.0))
    monkeypatch.setattr(clients.lane, "_mean_s", 60.0)
    await clients.send("a0")

    await clients.send("b0")

    with pytest.raises(LaneFull):
        await clients.tasks["b0"]
    assert value("copilot_usage_lane_waiting", lane="test") == 0


async def test_a_lasting_queue_becomes_short(
    open_clients: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that does not get empty only holds requests that start soon."""
    clients = open_clients(limits(concurrency=1))
    monkeypatch.setattr(clients.lane, "_mean_s", 1.0)
    for name in ("a0", "b0"):
        await clients.send(name)
    monkeypatch.setattr(lanes, "BURST_S", 0.0)

    await clients.send("c0")

    with pytest.raises(LaneFull):
        await clients.tasks["c0"]


async def test_work_has_a_time_limit(open_clients: Open) -> None:
    """Work that takes too long is cancelled, and its slot is free again."""
    clients = open_clients(limits(concurrency=1, time_limit_s=0.01))
    await clients.send("a0")

    with pytest.raises(LaneTimeout) as ended:
        await clients.tasks["a0"]

    assert ended.value.kind is TIMEOUT
    assert value("copilot_usage_lane_running", lane="test") == 0


async def test_a_time_out_of_the_work_itself_is_its_own() -> None:
    """A `TimeoutError` of the body is no time limit of the lane."""
    with pytest.raises(TimeoutError, match="the body's"):
        async with lane(limits()).enter(request_of("a")):
            raise TimeoutError("the body's")


async def test_cancelled_requests_give_their_turn_to_the_next(
    open_clients: Open,
) -> None:
    """Also if the cancellation comes just after the slot was given."""
    clients = open_clients(limits(concurrency=1))
    for name in ("a0", "b0", "c0", "d0"):
        await clients.send(name)
    clients.tasks["b0"].cancel()
    await asyncio.sleep(0)
    clients.tasks["a0"].cancel()
    await asyncio.gather(clients.tasks["a0"], return_exceptions=True)
    # c0 has the slot, and has not run yet.
    clients.tasks["c0"].cancel()
    await asyncio.gather(clients.tasks["c0"], return_exceptions=True)
    await asyncio.sleep(0)

    assert clients.order[-1] == "d0"


async def test_a_slot_passes_over_a_request_that_was_just_cancelled() -> None:
    """Its task has not run since the cancellation, and the next one gets the slot."""
    queue = FairQueue(limits(concurrency=1))
    assert queue.try_start("a")
    waits = [asyncio.create_task(queue.wait(client)) for client in "bc"]
    await asyncio.sleep(0)

    waits[0].cancel()
    queue.release("a")
    await asyncio.wait(waits)

    assert waits[0].cancelled()
    assert waits[1].exception() is None
    assert (queue.running, queue.waiting) == (1, 0)


async def test_a_displaced_request_is_not_started() -> None:
    """Its place in the queue is gone, whatever ends meanwhile."""
    queue = FairQueue(limits(concurrency=1, max_queue=2))
    assert queue.try_start("a")
    waits = [asyncio.create_task(queue.wait("a")) for _ in range(2)]
    await asyncio.sleep(0)

    assert queue.make_room("b")
    last = asyncio.create_task(queue.wait("b"))
    await asyncio.sleep(0)
    with pytest.raises(Displaced):
        await waits[1]
    queue.release("a")
    await waits[0]
    queue.release("a")
    await last

    assert (queue.running, queue.waiting) == (1, 0)
