"""Lanes: bounded resources, so that one kind of request cannot starve another.

A lane runs a few requests at once, and queues a few more. Clients take turns in the
queue, and one client never gets the last free slot while it has all others. A request
that would wait too long is refused at once. `docs/decisions/lanes.md` has the reasons.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from aiohttp import web

from service.observability.stages import stage
from service.settings import LimitsSettings
from service.web import lane_metrics
from service.web.client_stream import TimeLimitPassed, while_connected
from service.web.problems import ProblemKind, RequestProblem

BURST_S: Final = 0.2
"""A queue that was empty within this time holds a burst, and not an overload."""
CALM_S: Final = 1.0
"""An overload is over after this time without a refusal."""
BURST_WAIT_S: Final = 0.1
"""Maximum wait in a burst; more for requests that take long themselves."""
BURST_WAIT: Final = 2.0
"""The same in mean durations of the lane's requests."""
OVERLOAD_WAIT: Final = 1.0
"""Maximum wait in an overload, in mean durations of the lane's requests."""
SMOOTHING: Final = 0.2
"""Weight of the last request in the mean duration."""

Turn = asyncio.Future[None]
Keep = Callable[[asyncio.Future[Any]], None]
"""Keeps a slot until this work has ended, which may outlive the request."""


class LaneFull(RequestProblem):
    """The queue of the lane is full, or its wait would be too long."""

    def __init__(self, kind: ProblemKind, detail: str, retry_after_s: float) -> None:
        super().__init__(kind, detail)
        self.retry_after_s = retry_after_s


class LaneTimeout(RequestProblem):
    """The work has not ended within the time limit of its lane."""


class Displaced(Exception):
    """A waiting request made room for one of a client with fewer requests."""


class LaneKinds(NamedTuple):
    """The problems of a lane: the request is refused, or takes too long."""

    full: ProblemKind
    timeout: ProblemKind


class LaneLimits(NamedTuple):
    """The bounds of a lane."""

    concurrency: int
    """Requests that run at once."""
    max_queue: int
    """Requests that wait."""
    queue_wait_s: float
    """Maximum wait in a burst."""
    time_limit_s: float
    """Time limit of the work, without the wait."""

    @classmethod
    def of(
        cls, limits: LimitsSettings, *, concurrency: int, time_limit_s: float
    ) -> "LaneLimits":
        """Return the bounds of a lane with the queue of the settings."""
        queue = limits.max_queue, limits.queue_wait_s
        return cls(concurrency, *queue, time_limit_s)

    @property
    def max_per_client(self) -> int:
        """The requests of one client that run at once: one slot is left for others."""
        return max(1, self.concurrency - 1)


class LaneState(NamedTuple):
    """The requests of a lane, and its bounds."""

    running: int
    waiting: int
    refused: int
    """Since the start of the process; with those that exceeded their time limit."""
    concurrency: int
    max_queue: int


class FairQueue:
    """The slots of a lane, and the clients that wait for one and take turns."""

    def __init__(self, limits: LaneLimits) -> None:
        self._limits = limits
        self._running: Counter[Hashable] = Counter()
        # In the order of turns; a client is removed with its last waiting request.
        self._waiting: dict[Hashable, deque[Turn]] = {}
        self.running = 0
        self.waiting = 0

    def requests_before(self, client: Hashable) -> int:
        """Return how many waiting requests have their turn before a new one."""
        own = len(self._waiting.get(client, ()))
        return sum(min(len(each), own + 1) for each in self._waiting.values())

    def try_start(self, client: Hashable) -> bool:
        """Take a slot if one is free for this client."""
        if not self._may_run(client):
            return False
        self._start(client)
        return True

    def make_room(self, client: Hashable) -> bool:
        """Return whether another request of this client can wait.

        A full queue cancels the last request of the client with the most, unless that
        is this client.
        """
        if self.waiting < self._limits.max_queue:
            return True
        if not self._waiting:
            return False
        other, longest = max(self._waiting.items(), key=lambda each: len(each[1]))
        if len(longest) <= len(self._waiting.get(client, ())) + 1:
            return False
        last = longest[-1]
        self._remove(other, last)
        last.set_exception(Displaced())
        return True

    async def wait(self, client: Hashable) -> None:
        """Wait for a slot; raises `Displaced` if the request must make room."""
        turn: Turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        self.waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._remove(client, turn)
            elif turn.exception() is None:
                # The slot was given just before the cancellation.
                self.release(client)
            raise

    def release(self, client: Hashable) -> None:
        """Free the slot of a request, and give it to the client whose turn it is."""
        self.running -= 1
        self._running[client] -= 1
        if not self._running[client]:
            del self._running[client]
        while eligible := list(filter(self._may_run, self._waiting)):
            following = eligible[0]
            turn = self._waiting[following][0]
            self._remove(following, turn)
            # A request that was cancelled just now has not left the queue yet.
            if not turn.cancelled():
                self._start(following)
                turn.set_result(None)
                self._move_to_end(following)
                return

    def _move_to_end(self, client: Hashable) -> None:
        """Let the further requests of a client wait behind those of the others."""
        if client in self._waiting:
            self._waiting[client] = self._waiting.pop(client)

    def _may_run(self, client: Hashable) -> bool:
        limits = self._limits
        is_free = self.running < limits.concurrency
        return is_free and self._running[client] < limits.max_per_client

    def _start(self, client: Hashable) -> None:
        self.running += 1
        self._running[client] += 1

    def _remove(self, client: Hashable, turn: Turn) -> None:
        turns = self._waiting.get(client)
        if turns is None or turn not in turns:
            return  # `release` has removed it
        self.waiting -= 1
        turns.remove(turn)
        if not turns:
            del self._waiting[client]


class Slot(Protocol):
    """Enters a lane for the work of one request, within its limits."""

    def __call__(self, *, is_shared: bool = False) -> AbstractAsyncContextManager[Keep]:
        """Wait for a slot, unless the work `is_shared` and has one."""


def no_slot(*, is_shared: bool = False) -> AbstractAsyncContextManager[Keep]:
    """Enter no lane."""
    return nullcontext(_keep_nothing)


def _keep_nothing(_work: asyncio.Future[Any]) -> None:
    """Keep no slot, where none was taken."""


class Lane:
    """A bounded resource; a request enters it for its costly work."""

    def __init__(
        self,
        name: str,
        kinds: LaneKinds,
        limits: LaneLimits,
        identify: Callable[[web.BaseRequest], Hashable],
    ) -> None:
        self.name = name
        self._kinds = kinds
        self._limits = limits
        self._identify = identify
        self._queue = FairQueue(limits)
        self._mean_s = 0.0
        self._idle_at = -math.inf
        self._refused_at = -math.inf
        self._metrics = lane_metrics.LaneMetrics(name)

    @property
    def state(self) -> LaneState:
        """The present state of the lane."""
        queue, limits = self._queue, self._limits
        return LaneState(
            queue.running,
            queue.waiting,
            self._metrics.refusals,
            limits.concurrency,
            limits.max_queue,
        )

    @asynccontextmanager
    async def enter(
        self,
        request: web.BaseRequest,
        client: Hashable | None = None,
        *,
        is_shared: bool = False,
    ) -> AsyncIterator[Keep]:
        """Wait for a slot, and run the body in it, within the limits.

        `client` is who takes turns; by default the address of the request. The body is
        cancelled when the client disconnects. It passes work that others may share to
        the function that this yields: the slot is free when that has ended. A body that
        waits for such work of another request `is_shared`, and needs no slot. Raises
        `LaneFull`, `LaneTimeout` and `ClientDisconnected`.
        """
        if is_shared:
            async with self._limited(request):
                yield _keep_nothing
            return
        client = self._identify(request) if client is None else client
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        await self._wait(request, client)
        started = loop.time()
        self._metrics.started(started - arrived, self._queue.running)
        work: list[asyncio.Future[Any]] = []
        try:
            async with self._limited(request):
                yield work.append
        finally:
            self._release_after(work, client, started)

    @asynccontextmanager
    async def _limited(self, request: web.BaseRequest) -> AsyncIterator[None]:
        try:
            async with while_connected(request, limit_s=self._limits.time_limit_s):
                yield
        except TimeLimitPassed:
            self._metrics.refused("time_limit")
            detail = f"not finished in {self._limits.time_limit_s:g} s"
            raise LaneTimeout(self._kinds.timeout, detail) from None

    async def _wait(self, request: web.BaseRequest, client: Hashable) -> None:
        queue = self._queue
        if not queue.waiting:
            self._idle_at = asyncio.get_running_loop().time()
        if queue.try_start(client):
            return
        wait_s = self._expected_wait_s(client)
        if wait_s > self._max_wait_s():
            raise self._full("expected_wait", wait_s)
        try:
            # A client that leaves frees its place in the queue at once.
            limit_s = self._limits.queue_wait_s
            with stage("waited_in_lane"):
                async with while_connected(request, half_closed_s=0.0, limit_s=limit_s):
                    if not queue.make_room(client):
                        raise self._full("queue_full", wait_s)
                    self._metrics.waiting(queue.waiting + 1)
                    await queue.wait(client)
        except TimeLimitPassed:
            raise self._full("waited", wait_s) from None
        except Displaced:
            raise self._full("displaced", wait_s) from None
        finally:
            self._metrics.waiting(queue.waiting)

    def _expected_wait_s(self, client: Hashable) -> float:
        before = self._queue.requests_before(client) + 1
        return before * self._mean_s / self._limits.max_per_client

    def _max_wait_s(self) -> float:
        """Return the maximum wait now: shorter while the queue does not get empty."""
        # As in controlled delay (RFC 8289): a queue that lasts only adds latency.
        now = asyncio.get_running_loop().time()
        if now - self._idle_at < BURST_S and now - self._refused_at > CALM_S:
            wait_s = max(BURST_WAIT_S, BURST_WAIT * self._mean_s)
        else:
            wait_s = OVERLOAD_WAIT * self._mean_s
        return min(self._limits.queue_wait_s, wait_s)

    def _full(self, reason: str, wait_s: float) -> LaneFull:
        self._metrics.refused(reason)
        self._refused_at = asyncio.get_running_loop().time()
        queue = self._queue
        detail = f"{self.name}: {queue.running} run and {queue.waiting} wait"
        return LaneFull(self._kinds.full, detail, max(1.0, wait_s))

    def _release_after(
        self,
        work: Sequence[asyncio.Future[Any]],
        client: Hashable,
        started: float,
        *_: object,
    ) -> None:
        for each in work:
            if not each.done():
                again = partial(self._release_after, work, client, started)
                each.add_done_callback(again)
                return
        duration_s = asyncio.get_running_loop().time() - started
        self._mean_s += SMOOTHING * (duration_s - self._mean_s)
        self._queue.release(client)
        self._metrics.ended(self._queue.running)
