"""Group commit of events: one transaction stores the events of many requests.

Requests submit their events and wait. One writer stores a group of queued requests in
one transaction, and then completes them; meanwhile the next group forms. A request is
answered only after its events are on disk. It reserves the bytes of its body before it
reads it, and waits in the queue for a bounded time.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import chain, islice
from typing import Final

import structlog

from service.events import metrics
from service.events.arrivals import Arrivals
from service.events.backlog import Backlog, Reservation, Waiting
from service.events.errors import BacklogFull
from service.events.model import Event, EventFailure, Receipt
from service.events.receipts import complete, end_with_receipt
from service.events.store import EventStore, ReceivedEvent, Stored
from service.observability.metrics import SUCCESS
from service.settings import EventsSettings
from service.storage.errors import (
    CircuitOpen,
    StorageError,
    StorageUnavailable,
    ValueRefused,
)

CANCEL_S: Final = 0.5
"""Time in which a cancelled writer must end; then it is left behind."""
RECOVERY_S: Final = 1.0
"""Pause after a defect of the program, which may show again at once."""

log = structlog.get_logger()


class Submission(Waiting, eq=False):
    """One request's events in the order sent, and who gets their outcome."""

    received: list[ReceivedEvent]
    end: Callable[[list[Stored] | Exception], None]
    """Is called once, when they are stored or refused."""


class Ingest:
    """Queues events of requests and writes them; `running_ingest` opens one."""

    def __init__(
        self,
        settings: EventsSettings,
        store: EventStore,
        queue_wait_s: float,
        arrivals: Arrivals | None = None,
        *,
        overlaps: bool = False,
    ) -> None:
        self.failure: str | None = None
        """The reason why no events are written any more."""
        self._store = store
        self._arrivals = arrivals or Arrivals()
        self._wait_s = settings.commit_wait_ms / 1000
        self._max_group_events = settings.commit_max_events
        self._queue_wait_s = queue_wait_s
        self._writing: list[list[Submission]] = []
        self._overlaps = overlaps
        self._backlog: Backlog[Submission] = Backlog(
            settings, queue_wait_s, lambda: sum(map(len, self._writing))
        )
        self._queue = self._backlog.queue
        self._not_empty = asyncio.Event()
        self._group_full = asyncio.Event()
        self._is_closing = False

    @property
    def backlog(self) -> tuple[int, int]:
        """The events that wait, and the bytes of bodies."""
        return self._backlog.total

    def reserve(self, application: str, size: int) -> Reservation:
        """Reserve the bytes of a request's body before it is read.

        Raises `BacklogFull` and `StorageUnavailable`.
        """
        self._check()
        return self._backlog.reserve(application, size)

    async def accept(
        self, items: Sequence[Event | EventFailure], reservation: Reservation
    ) -> Receipt:
        """Store a request's events; return the receipt when they are on disk.

        Raises `BacklogFull` and `StorageError`; then none of the events is stored,
        unless the connection was lost during the commit.
        """
        receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.submit(items, reservation, partial(complete, receipt))
        return await receipt

    def submit(
        self,
        items: Sequence[Event | EventFailure],
        reservation: Reservation,
        end: Callable[[Receipt | Exception], None],
    ) -> None:
        """Store a request's events; `end` gets what `accept` would return or raise.

        Raises `BacklogFull` and `StorageError` for events that are refused at once.
        """
        if not items:
            end(Receipt(accepted=0, duplicates=0, failed=0, results=[]))
            return
        self._check()
        submission = Submission(
            self._arrivals.stamp(items),
            partial(end_with_receipt, items, end),
            reservation=reservation,
            size=len(items),
        )
        self._backlog.enter(submission, self._expire)
        self._not_empty.set()
        if self._is_full:
            self._group_full.set()

    async def write(self) -> None:
        """Store group after group, until `close` is called and the queue is empty.

        With `overlaps`, a group that is full does not wait for the end of one before.
        """
        if not self._overlaps:
            await self._write_all()
            return
        async with asyncio.TaskGroup() as writers:
            writers.create_task(self._write_all())
            writers.create_task(self._write_full_groups())

    async def _write_full_groups(self) -> None:
        """Prepare a group, and give it to the database, while another is written."""
        while not self._is_closing:
            await self._group_full.wait()
            if self._is_full:
                await self._write_next()
            else:
                self._group_full.clear()

    async def _write_all(self) -> None:
        while True:
            await self._not_empty.wait()
            try:
                await self._write_group()
            except Exception as error:  # noqa: BLE001 - a defect must not end the task
                await self._recover([], error)
            if self._queue.requests:
                continue
            if self._is_closing:
                return
            self._not_empty.clear()

    async def _write_group(self) -> None:
        await self._wait_for_more()
        await self._write_next()

    async def _write_next(self) -> None:
        # Empty after `close`, or if all requests have waited too long.
        group = self._queue.take_group(self._max_group_events)
        if not group:
            return
        self._writing.append(group)
        try:
            self._start(group)
            await self._store_group(group)
        except Exception as error:  # noqa: BLE001 - a defect must not end the task
            await self._recover(group, error)
        self._writing.remove(group)
        self._backlog.measure_later()

    @property
    def _is_full(self) -> bool:
        return self._queue.events >= self._max_group_events

    async def _recover(self, group: list[Submission], error: Exception) -> None:
        """Fail the group in which a defect of the program showed, and pause."""
        log.error("events.writer_failed", exc_info=error)
        for submission in group:
            self._complete(submission, StorageUnavailable("the writer has failed"))
        # The next group may fail in the same way.
        if not self._is_closing:
            await asyncio.sleep(RECOVERY_S)

    def close(self) -> None:
        """Refuse further events, and let `write` end when the queue is empty."""
        self._is_closing = True
        self._not_empty.set()
        self._group_full.set()

    def on_writer_end(self, writer: asyncio.Task[None]) -> None:
        """Fail all requests that still wait after the writer has ended."""
        error = None if writer.cancelled() else writer.exception()
        written = chain.from_iterable(self._writing)
        waiting = [*written, *self._queue.take_all()]
        if self._is_closing and error is None:
            if waiting:
                self._fail(waiting, StorageUnavailable("the service has stopped"))
            return
        self.failure = "the writer of events has ended"
        log.error("events.writer_failed", exc_info=error)
        for submission in waiting:
            self._complete(submission, StorageUnavailable(self.failure))

    def _check(self) -> None:
        """Refuse at once what could not be written."""
        if self.failure is not None:
            raise StorageUnavailable(self.failure)
        if self._is_closing:
            raise BacklogFull("the service is about to stop")
        self._store.check()

    def _expire(self, submission: Submission) -> None:
        """Refuse a request whose events have waited too long."""
        # The writing of those that do not wait any more has begun.
        if self._queue.remove(submission):
            detail = f"not begun to be written in {self._queue_wait_s:g} s"
            self._complete(submission, self._backlog.full("waited", detail))

    def _complete(
        self, submission: Submission, outcome: list[Stored] | Exception
    ) -> None:
        """Complete a request, and release its part of the backlog."""
        if not self._backlog.complete(submission):
            return
        try:
            submission.end(outcome)
        except Exception as error:  # a defect must not fail the others
            log.error("events.answer_failed", exc_info=error)

    async def _wait_for_more(self) -> None:
        """Wait `commit_wait_ms` for other requests, or until the group is full."""
        if self._is_full or self._is_closing or not self._wait_s:
            return
        self._group_full.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait_s):
                await self._group_full.wait()

    def _start(self, group: list[Submission]) -> None:
        """Stop the time limit of the wait: the outcome of the write answers them."""
        for submission in group:
            if submission.timer is not None:
                submission.timer.cancel()
            self._backlog.started(submission)

    async def _store_group(self, group: list[Submission]) -> None:
        try:
            stored = await self._commit(group)
        except ValueRefused as error:
            if len(group) == 1:
                self._fail(group, error)
                return
            # One by one, to find the request whose value the database refuses.
            for submission in group:
                await self._store_group([submission])
        except Exception as error:  # noqa: BLE001 - the waiting requests raise it
            self._fail(group, error)
        else:
            results = iter(stored)
            for submission in group:
                own = list(islice(results, len(submission.received)))
                self._complete(submission, own)

    def _fail(self, group: list[Submission], error: Exception) -> None:
        """Log the error and raise it in all requests of the group."""
        # The open circuit was logged when it opened.
        if not isinstance(error, CircuitOpen):
            log.error(
                "events.commit_failed",
                events=sum(len(each.received) for each in group),
                reason=str(error),
                **{"error.type": type(error).__name__},
                **({} if isinstance(error, StorageError) else {"exc_info": error}),
            )
        for submission in group:
            self._complete(submission, error)

    async def _commit(self, group: list[Submission]) -> list[Stored]:
        received = [event for each in group for event in each.received]
        started = time.perf_counter()
        try:
            stored = await self._store.store(received)
        except Exception as error:
            outcome = type(error).__name__
            metrics.commit_ended(outcome, time.perf_counter() - started)
            raise
        duration_s = time.perf_counter() - started
        metrics.commit_ended(SUCCESS, duration_s)
        log.debug(
            "events.committed",
            events=len(received),
            requests=len(group),
            duration_s=round(duration_s, 6),
        )
        return stored


@asynccontextmanager
async def running_ingest(
    settings: EventsSettings,
    store: EventStore,
    queue_wait_s: float,
    arrivals: Arrivals | None = None,
    *,
    overlaps: bool = False,
) -> AsyncIterator[Ingest]:
    """Run an ingest; all accepted events are written when the context ends.

    With `overlaps`, two groups may be written at once. A write that hangs is cancelled
    after `queue_wait_s`.
    """
    ingest = Ingest(settings, store, queue_wait_s, arrivals, overlaps=overlaps)
    writer = asyncio.create_task(ingest.write())
    writer.add_done_callback(ingest.on_writer_end)
    try:
        yield ingest
    finally:
        ingest.close()
        await asyncio.wait([writer], timeout=queue_wait_s)
        if writer.cancel():
            await asyncio.wait([writer], timeout=CANCEL_S)
        metrics.write_now()
