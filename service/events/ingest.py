"""Ingesting events: those of many requests go to disk in one commit, without delay.

Requests hand their events over and wait. One writer takes what has gathered, stores it
as a group, and answers all of them; meanwhile the next group gathers. What cannot be
stored is refused to those who sent it: nothing is answered that is not on disk.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import NamedTuple

import structlog

from service import metrics
from service.events.errors import BacklogFull
from service.events.model import Event, Failure, Receipt, Result
from service.events.store import Arrival, EventStore, Stored
from service.instants import now_us
from service.settings import Events as EventSettings
from service.storage.errors import StorageError, ValueRefused

log = structlog.get_logger()


class Submission(NamedTuple):
    """One request's events, in its order, and whom to tell what became of them."""

    arrivals: list[Arrival]
    stored: asyncio.Future[list[Stored]]


class Ingest:
    """Takes events from requests; `running_ingest` makes one and ends it."""

    def __init__(
        self,
        settings: EventSettings,
        store: EventStore,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self._store = store
        self._clock = clock
        self._wait_s = settings.commit_wait_ms / 1000
        self._most = settings.commit_max_events
        self._max_backlog = settings.max_backlog
        self._waiting: deque[Submission] = deque()
        self._backlog = 0
        self._has_some = asyncio.Event()
        self._has_enough = asyncio.Event()
        self._last_arrival = 0
        self._is_closing = False

    async def take(self, items: Sequence[Event | Failure]) -> Receipt:
        """Store a request's events; gives its receipt when they are on disk.

        Raises `BacklogFull` and `StorageError`; then nothing of them is stored.
        """
        if not items:
            return Receipt(accepted=0, duplicates=0, failed=0, results=[])
        if self._is_closing:
            raise BacklogFull("the service is about to stop")
        if self._backlog and self._backlog + len(items) > self._max_backlog:
            raise BacklogFull(f"{self._backlog} events wait to be written")
        stored = asyncio.get_running_loop().create_future()
        submission = Submission(self.arrive(items), stored)
        self._waiting.append(submission)
        self._count_backlog(len(items))
        self._has_some.set()
        if self._backlog >= self._most:
            self._has_enough.set()
        return _receipt(items, await stored)

    async def write(self) -> None:
        """Store group after group, until `close` and nothing waits any more."""
        while True:
            await self._has_some.wait()
            if not self._waiting:
                return
            await self._gather()
            group = self._next_group()
            await self._store_group(group)
            self._count_backlog(-sum(len(each.arrivals) for each in group))
            if not self._waiting and not self._is_closing:
                self._has_some.clear()

    def close(self) -> None:
        """Let `write` end when all that waits is stored."""
        self._is_closing = True
        self._has_some.set()
        self._has_enough.set()

    def arrive(self, items: Sequence[Event | Failure]) -> list[Arrival]:
        """Note when they came: now, or the next moments that no other one has."""
        first = max(self._last_arrival + 1, self._clock())
        self._last_arrival = first + len(items) - 1
        return list(map(Arrival, items, count(first)))

    async def _gather(self) -> None:
        """Let more requests join the group: for a moment, or until it is full."""
        if self._backlog >= self._most or not self._wait_s:
            return
        self._has_enough.clear()
        try:
            await asyncio.wait_for(self._has_enough.wait(), self._wait_s)
        except TimeoutError:
            return

    def _next_group(self) -> list[Submission]:
        """What is stored together: always one request, more up to the bound."""
        group = [self._waiting.popleft()]
        size = len(group[0].arrivals)
        while self._waiting and size + len(self._waiting[0].arrivals) <= self._most:
            group.append(self._waiting.popleft())
            size += len(group[-1].arrivals)
        return group

    async def _store_group(self, group: list[Submission]) -> None:
        try:
            _tell(group, await self._commit(group))
        except ValueRefused as error:
            if len(group) == 1:
                _refuse(group, error)
                return
            # Find out whose value the database refuses; the others are stored.
            for submission in group:
                await self._store_group([submission])
        except Exception as error:  # noqa: BLE001 - told to all who wait for it
            _refuse(group, error)

    async def _commit(self, group: list[Submission]) -> list[Stored]:
        arrivals = [arrival for each in group for arrival in each.arrivals]
        started = time.perf_counter()
        try:
            stored = await self._store.store(arrivals)
        except Exception as error:
            outcome = type(error).__name__
            metrics.commit_ended(outcome, time.perf_counter() - started)
            raise
        duration_s = time.perf_counter() - started
        metrics.commit_ended(metrics.SUCCESS, duration_s)
        log.debug(
            "events.committed",
            events=len(arrivals),
            requests=len(group),
            duration_s=round(duration_s, 6),
        )
        return stored

    def _count_backlog(self, change: int) -> None:
        self._backlog += change
        metrics.backlog_changed(self._backlog)


@asynccontextmanager
async def running_ingest(
    settings: EventSettings, store: EventStore
) -> AsyncIterator[Ingest]:
    """Ingest as long as this lasts; at its end all that was taken is stored."""
    ingest = Ingest(settings, store)
    writer = asyncio.create_task(ingest.write())
    try:
        yield ingest
    finally:
        ingest.close()
        await writer


def _refuse(group: list[Submission], error: Exception) -> None:
    """Tell all who wait that nothing of theirs is stored."""
    log.error(
        "events.commit_failed",
        events=sum(len(each.arrivals) for each in group),
        reason=str(error),
        **{"error.type": type(error).__name__},
        **({} if isinstance(error, StorageError) else {"exc_info": error}),
    )
    for submission in group:
        if not submission.stored.done():
            submission.stored.set_exception(error)


def _tell(group: list[Submission], stored: list[Stored]) -> None:
    at = 0
    for submission in group:
        size = len(submission.arrivals)
        if not submission.stored.done():
            submission.stored.set_result(stored[at : at + size])
        at += size


def _receipt(items: Sequence[Event | Failure], stored: Sequence[Stored]) -> Receipt:
    results = [result_of(item, each) for item, each in zip(items, stored, strict=True)]
    statuses = [result.status for result in results]
    return Receipt(
        accepted=statuses.count("accepted"),
        duplicates=statuses.count("duplicate"),
        failed=statuses.count("failed") + statuses.count("conflict"),
        results=results,
    )


def result_of(item: Event | Failure, stored: Stored) -> Result:
    """What became of one event, as it is answered."""
    if isinstance(item, Failure):
        return Result(item.event_id, "failed", item.errors)
    if stored.conflict is not None:
        return Result(item.id, "conflict", stored.conflict.errors)
    return Result(item.id, "accepted" if stored.is_new else "duplicate")
