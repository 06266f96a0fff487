"""The backlog of ingestion: what it may hold, and whose events are written next.

An application may reserve as much as it leaves free. So one application alone gets
half, two get a third each, and a further one always finds room. Applications take turns
in the queue, so that the events of one do not wait behind all events of another.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, Self, TypeVar

from msgspec import Struct

from service.events.store import ReceivedEvent, Stored


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
    """Bytes of the backlog that one request has reserved for its body.

    The request has it from the start, as a context, and the queue while the request's
    events wait. When both have left, the bytes are released.
    """

    def __init__(self, bound: FairBound, application: str, size: int) -> None:
        self.application = application
        self._size = size
        self._bound = bound
        self._holders = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.remove_holder()

    def resize(self, size: int) -> None:
        """Correct the size after the body was read."""
        if size != self._size:
            self._bound.change(self.application, size - self._size)
            self._size = size

    def add_holder(self) -> None:
        """Add a holder."""
        self._holders += 1

    def remove_holder(self) -> None:
        """Remove a holder; the last one releases the bytes."""
        self._holders -= 1
        if not self._holders:
            self.resize(0)


class Submission(Struct, eq=False):
    """One request's events in the order sent, and who gets their outcome."""

    received: list[ReceivedEvent]
    reservation: Reservation
    end: Callable[[list[Stored] | Exception], None]
    """Is called once, when they are stored or refused."""
    arrived: float
    """The time of the event loop when the request began to wait."""
    timer: asyncio.TimerHandle | None = None
    """The end of its wait."""
    is_complete: bool = False

    @property
    def size(self) -> int:
        """The number of events."""
        return len(self.received)


class Waiting(Protocol):
    """The events of one request, which wait."""

    @property
    def reservation(self) -> Reservation:
        """The bytes that the request has reserved."""

    @property
    def size(self) -> int:
        """The number of events."""


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
