"""The backlog of ingestion: what it may hold, and whose events are written next.

An application may reserve as much as it leaves free. So one application alone gets
half, two get a third each, and a further one always finds room. Applications take turns
in the queue, so that the events of one do not wait behind all events of another.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, Self, TypeVar

from msgspec import Struct

from service.events import metrics
from service.events.errors import BacklogFull
from service.settings import EventsSettings
from service.web.lane_metrics import LaneMetrics

LANE: Final = "event_ingest"


class FairBound:
    """An amount that applications reserve and release, such as bytes or events.

    `changed` is called after each change.
    """

    def __init__(self, maximum: int, changed: Callable[[], None]) -> None:
        self.total = 0
        self._maximum = maximum
        self._changed = changed
        self._by_application: dict[str, int] = {}

    def reserve(self, application: str, amount: int) -> bool:
        """Reserve an amount; return False if it is too much now.

        Any amount fits into an empty backlog: otherwise it could never be stored.
        """
        own = self._by_application.get(application, 0)
        if self.total and own + amount > self._maximum - self.total:
            return False
        self.change(application, amount)
        return True

    def change(self, application: str, change: int) -> None:
        """Change a reserved amount; a negative change releases it."""
        self.total += change
        own = self._by_application.get(application, 0) + change
        # Without those that have nothing: the number of applications has no bound.
        if own:
            self._by_application[application] = own
        else:
            self._by_application.pop(application, None)
        self._changed()


class Reservation:
    """The place of one request in the backlog: the bytes that its body may have.

    The request has it from the start, as a context, and the queue while the request's
    events wait. When both have left, the bytes are released.
    """

    def __init__(self, bound: FairBound, application: str, size: int) -> None:
        self.application = application
        self.size = size
        self.request_id = ""
        self.traceparent = ""
        """The trace context of the request, for a queue; empty without one."""
        self._bound = bound
        self._holders = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.remove_holder()

    def resize(self, size: int) -> None:
        """Correct the size after the body was read."""
        if size != self.size:
            self._bound.change(self.application, size - self.size)
            self.size = size

    def add_holder(self) -> None:
        """Add a holder."""
        self._holders += 1

    def remove_holder(self) -> None:
        """Remove a holder; the last one releases the bytes."""
        self._holders -= 1
        if not self._holders:
            self.resize(0)


class Waiting(Struct, eq=False, kw_only=True):
    """The events of one request, which wait."""

    reservation: Reservation
    size: int
    """The number of events."""
    arrived: float = 0.0
    """The time of the event loop when the request began to wait."""
    timer: asyncio.TimerHandle | None = None
    """The end of its wait."""
    is_complete: bool = False


W = TypeVar("W", bound=Waiting)


class TurnQueue(Generic[W]):
    """Waiting submissions, of which applications take turns."""

    def __init__(self) -> None:
        # In the order of turns; an application is removed with its last submission.
        self._waiting: dict[str, deque[W]] = {}
        self.requests = 0
        self.events = 0

    def append(self, submission: W) -> None:
        """Add a submission behind those of its application."""
        self._waiting.setdefault(submission.reservation.application, deque()).append(
            submission
        )
        self.requests += 1
        self.events += submission.size

    def remove(self, submission: W) -> bool:
        """Remove a submission; return False if it does not wait any more."""
        waiting = self._waiting.get(submission.reservation.application, ())
        if submission not in waiting:
            return False
        self._remove(submission)
        return True

    def take_group(self, max_events: int) -> list[W]:
        """Take the submissions whose turn it is: at least one, up to the maximum."""
        group: list[W] = []
        size = 0
        while self._waiting:
            application, waiting = next(iter(self._waiting.items()))
            size += waiting[0].size
            # No request is split, because all its events belong to one transaction.
            if group and size > max_events:
                break
            group.append(waiting[0])
            self._remove(waiting[0])
            if application in self._waiting:
                self._waiting[application] = self._waiting.pop(application)
        return group

    def take_all(self) -> list[W]:
        """Take all submissions."""
        everything = [each for waiting in self._waiting.values() for each in waiting]
        self._waiting.clear()
        self.requests = self.events = 0
        return everything

    def _remove(self, submission: W) -> None:
        waiting = self._waiting[submission.reservation.application]
        waiting.remove(submission)
        if not waiting:
            del self._waiting[submission.reservation.application]
        self.requests -= 1
        self.events -= submission.size


class Backlog(Generic[W]):
    """The requests whose events wait, within the bounds of the settings.

    `count_running` returns the number of requests that do not wait any more, and are
    not complete.
    """

    def __init__(
        self,
        settings: EventsSettings,
        queue_wait_s: float,
        count_running: Callable[[], int],
    ) -> None:
        self.queue: TurnQueue[W] = TurnQueue()
        self._queue_wait_s = queue_wait_s
        self._count_running = count_running
        self._events = FairBound(settings.max_backlog, self.measure_later)
        self._bytes = FairBound(settings.max_backlog_bytes, self.measure_later)
        self._lane = LaneMetrics(LANE)
        self._waits_s: list[float] = []
        self._is_measured_later = False

    @property
    def total(self) -> tuple[int, int]:
        """The events that wait, and the bytes of bodies."""
        return self._events.total, self._bytes.total

    def reserve(self, application: str, size: int) -> Reservation:
        """Reserve the bytes of a request's body before it is read.

        They are released when its context ends, or when the request's events do not
        wait any more if this is later. Raises `BacklogFull`.
        """
        if not self._bytes.reserve(application, size):
            raise self.full("queue_full", f"{self._bytes.total} bytes wait")
        return Reservation(self._bytes, application, size)

    def enter(self, waiting: W, expire: Callable[[W], None]) -> None:
        """Let a request wait; `expire` is called when it has waited too long.

        Raises `BacklogFull`.
        """
        application = waiting.reservation.application
        if not self._events.reserve(application, waiting.size):
            raise self.full("queue_full", f"{self._events.total} events wait")
        loop = asyncio.get_running_loop()
        waiting.arrived = loop.time()
        waiting.timer = loop.call_later(self._queue_wait_s, expire, waiting)
        waiting.reservation.add_holder()
        self.queue.append(waiting)

    def full(self, reason: str, detail: str) -> BacklogFull:
        """Return the error of a request that is refused, and count it."""
        self._lane.refused(reason)
        return BacklogFull(detail)

    def started(self, waiting: W) -> None:
        """Note the wait of a request that has just ended."""
        self._waits_s.append(asyncio.get_running_loop().time() - waiting.arrived)
        self.measure_later()

    def complete(self, waiting: W) -> bool:
        """Release the part of a request; return False if that was done before."""
        if waiting.is_complete:
            return False
        waiting.is_complete = True
        if waiting.timer is not None:
            waiting.timer.cancel()
        self._events.change(waiting.reservation.application, -waiting.size)
        waiting.reservation.remove_holder()
        return True

    def measure_later(self) -> None:
        """Have the metrics written soon: a request changes them several times."""
        if not self._is_measured_later:
            self._is_measured_later = True
            metrics.write_later(self._measure)

    def _measure(self) -> None:
        self._is_measured_later = False
        metrics.backlog_changed(self._events.total)
        metrics.backlog_bytes_changed(self._bytes.total)
        self._lane.waiting(self.queue.requests)
        waits_s, self._waits_s = self._waits_s, []
        self._lane.started_all(waits_s, self._count_running())
