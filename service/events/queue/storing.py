"""Storage of the messages of one partition, in their order, until it has succeeded.

While the database is away, the same messages are stored again and again, so that no
later one overtakes them. What cannot be stored becomes a failed event, since a message
that came back for ever would block all those behind it.
"""

import asyncio
import base64
import hashlib
import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import Final

import msgspec
import structlog
from msgspec.structs import replace

from service.events.arrivals import Arrivals
from service.events.model import (
    MAX_NAME_CHARS,
    Event,
    EventError,
    EventFailure,
)
from service.events.queue import metrics
from service.events.queue.deliveries import Delivery
from service.events.queue.message import (
    BadMessage,
    QueuedRequest,
    decode,
    uncompressed,
)
from service.events.store import NEW, EventStore, ReceivedEvent, Stored
from service.events.validation import failure_of
from service.storage.breaker import AWAY_AFTER_S
from service.storage.errors import (
    CircuitOpen,
    StorageError,
    StorageTimeout,
    ValueRefused,
)

PAUSE_S: Final = 1.0
"""Pause after the database has not stored messages."""
MAX_DEFECTS: Final = 3
"""Unexpected failures of the same messages, after which they are stored one by one."""
FIRST_EVENTS: Final = 1_000
"""Events of one transaction at first, and at most after a failure of the database."""
SLOW_GROWTH: Final = 8
"""Growth by one in so many, after a transaction that was not quick."""
QUICK_S: Final = 0.5
"""Time of a transaction below which the next one may have twice as many events.

It is far below `storage.timeout_s`, so that those take less than that, too.
"""
MAX_KEPT_BYTES: Final = 64 * 1024
"""Bytes of a message that are kept in a failed event."""
UNKNOWN: Final = "unknown"
"""The application of a message that does not even tell its application."""
TRACEPARENT: Final = re.compile(
    r"00-(?P<trace_id>[0-9a-f]{32})-(?P<span_id>[0-9a-f]{16})-[0-9a-f]{2}"
)
BAD_MESSAGE: Final = "bad_message"
VALUE_REFUSED: Final = "value_refused"

log = structlog.get_logger()


class Stopped(Exception):
    """The writer ends before the messages are stored."""


class TooMany(Exception):
    """Fewer of these events are to be stored at once, since the database has failed."""


class Defect(ValueRefused):
    """A defect of the program shows each time that these events are stored."""


class QueueStore:
    """Stores the messages of one partition.

    `turns` bounds the transactions of all partitions; `stopped` ends further attempts.
    """

    def __init__(
        self,
        store: EventStore,
        partition: int,
        turns: asyncio.Semaphore,
        stopped: asyncio.Event,
    ) -> None:
        self._store = store
        self._partition = partition
        self._turns = turns
        self._stopped = stopped
        self._arrivals = Arrivals()
        self._max_events = FIRST_EVENTS
        """Events of one transaction: more while the database stores them quickly."""
        self._failing_since: float | None = None
        self._logged: set[tuple[str, int]] = set()
        """Reasons and numbers of events of failures since the last success."""
        self._requests: list[QueuedRequest] = []
        """Those of the messages that are being stored."""

    @property
    def is_failing(self) -> bool:
        """True while messages wait that the database has not stored for some time."""
        since = self._failing_since
        return since is not None and time.monotonic() - since > AWAY_AFTER_S

    async def store(
        self, batch: Sequence[Delivery]
    ) -> list[tuple[QueuedRequest, list[Stored]]]:
        """Store messages; return their requests, with the outcome of each event.

        Raises `Stopped`; then they may be stored or not.
        """
        requests = self._requests = [self._decode(each) for each in batch]
        received: list[ReceivedEvent] = []
        for request, delivery in zip(requests, batch, strict=True):
            received += self._arrivals.stamp(request.items, delivery.arrived_at)
        stored = iter(await self._store_all(received))
        return [(each, list(islice(stored, len(each.items)))) for each in requests]

    def _decode(self, delivery: Delivery) -> QueuedRequest:
        try:
            return decode(delivery.data)
        except BadMessage as error:
            application = _application_of(delivery.data)
            failure = _failure(delivery.data, application, BAD_MESSAGE, str(error))
            log.error(
                "events.queue_message_refused",
                application=application,
                failed_id=failure.id,
                partition=self._partition,
                reason=str(error),
            )
            return QueuedRequest(application, [failure])

    async def _store_all(self, received: Sequence[ReceivedEvent]) -> list[Stored]:
        """Store events by halves, if they are too many or are refused together."""
        if not received:
            return []
        try:
            return _counted(received, await self._store_when_possible(received))
        except TooMany:
            pass
        except ValueRefused as error:
            if len(received) == 1:
                stored = await self._store_refused(received[0], error)
                return _counted(received, [stored])
        middle = len(received) // 2
        first = await self._store_all(received[:middle])
        return first + await self._store_all(received[middle:])

    async def _store_when_possible(
        self, received: Sequence[ReceivedEvent]
    ) -> list[Stored]:
        """Store events, however long the database is away.

        Raises `TooMany`, `Stopped`, and `ValueRefused`, also for a defect that shows
        each time.
        """
        defects = 0
        while len(received) <= self._max_events:
            if self._stopped.is_set():
                raise Stopped
            try:
                return await self._store_once(received)
            except ValueRefused:
                raise
            except StorageError as error:
                self._log_failure(error, len(received))
                self._shrink(error, len(received))
            except Exception as error:  # a defect must not end the writer
                log.error("events.queue_store_failed", exc_info=error)
                defects += 1
                if defects == MAX_DEFECTS:
                    raise Defect(f"{type(error).__name__}: {error}") from error
            await self._pause()
        raise TooMany

    async def _store_once(self, received: Sequence[ReceivedEvent]) -> list[Stored]:
        """Store events in one transaction; if it is quick, the next one may be larger.

        Raises what `EventStore.store` raises.
        """
        async with self._turns:
            started = time.monotonic()
            stored = await self._store.store(received)
            duration_s = time.monotonic() - started
        self._failing_since = None
        self._logged.clear()
        # A small transaction tells nothing about a large one.
        if len(received) > self._max_events // 2:
            self._grow(is_quick=duration_s < QUICK_S)
        return stored

    def _shrink(self, error: StorageError, events: int) -> None:
        # They may have been too many. After an outage, all batches are large, and the
        # caches of the database are cold.
        maximum = FIRST_EVENTS
        if isinstance(error, StorageTimeout):
            maximum = min(maximum, max(1, events // 2))
        self._max_events = min(self._max_events, maximum)

    def _grow(self, *, is_quick: bool) -> None:
        if is_quick:
            self._max_events *= 2
        elif self._max_events < FIRST_EVENTS:
            # A commit may take its time whatever its size. So the next larger parts
            # are tried too, rarely enough to cost little if they are too many.
            self._max_events += 1 + self._max_events // SLOW_GROWTH

    async def _store_refused(
        self, received: ReceivedEvent, error: ValueRefused
    ) -> Stored:
        """Store an event, whose values the database refuses, as a failed event.

        If that is refused too, as much is stored as can be: at last, nothing.
        """
        item = received.item
        content = msgspec.msgpack.encode(item, enc_hook=_nothing)
        failure = _failure(content, item.application, VALUE_REFUSED, str(error))
        self._log_refused(item, failure, str(error))
        # As it was sent, so that it can be replayed, unless that is refused, too.
        if (readable := _readable(item, failure.errors)) is not None:
            with suppress(ValueRefused):
                return await self._store_failure(readable, received.received_at)
        with suppress(ValueRefused):
            return await self._store_failure(failure, received.received_at)
        # The name of the application is all that another program has chosen in it.
        anonymous = replace(failure, application=UNKNOWN)
        try:
            return await self._store_failure(anonymous, received.received_at)
        except Defect:
            # It would lose every event. A newer version may store them.
            raise
        except ValueRefused as last:
            self._log_lost(item, len(content), str(last))
            return NEW._replace(is_new=False, conflict=anonymous)

    def _log_refused(
        self, item: Event | EventFailure, failure: EventFailure, reason: str
    ) -> None:
        log.error(
            "events.queue_event_refused",
            application=item.application[:MAX_NAME_CHARS],
            failed_id=failure.id,
            partition=self._partition,
            reason=reason,
            **self._ids_of(item),
        )

    def _log_lost(self, item: Event | EventFailure, size: int, reason: str) -> None:
        log.error(
            "events.queue_event_lost",
            application=item.application[:MAX_NAME_CHARS],
            bytes=size,
            partition=self._partition,
            reason=reason,
            **self._ids_of(item),
        )

    def _ids_of(self, item: Event | EventFailure) -> dict[str, str]:
        """Return the ids that log lines of an event's request have."""
        for request in self._requests:
            if any(each is item for each in request.items):
                found = TRACEPARENT.fullmatch(request.traceparent)
                trace = found.groupdict() if found else {}
                return {"request_id": request.request_id, **trace}
        return {}

    async def _store_failure(self, failure: EventFailure, received_at: int) -> Stored:
        await self._store_when_possible([ReceivedEvent(failure, received_at)])
        return NEW._replace(is_new=False, conflict=failure)

    async def _pause(self) -> None:
        """Wait after a failure, unless the writer ends."""
        if self._failing_since is None:
            self._failing_since = time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(PAUSE_S):
                await self._stopped.wait()

    def _log_failure(self, error: StorageError, events: int) -> None:
        # Once until the next success; the open circuit was logged before.
        reason = str(error)
        if (reason, events) in self._logged or isinstance(error, CircuitOpen):
            return
        self._logged.add((reason, events))
        log.warning(
            "events.queue_not_stored",
            events=events,
            partition=self._partition,
            reason=reason,
            **{"error.type": type(error).__name__},
        )


def _failure(content: bytes, application: str, code: str, reason: str) -> EventFailure:
    """Return a failed event that has content which is no text, as Base64."""
    kept = content[:MAX_KEPT_BYTES]
    cut = "" if len(kept) == len(content) else f", the first {len(kept)} bytes"
    errors = (EventError(code, "", f"{reason} (as Base64{cut})"),)
    digest = hashlib.sha256(f"{application}\0".encode() + content).hexdigest()
    return EventFailure(
        id=digest[:32],
        application=application,
        event=base64.b64encode(kept).decode(),
        errors=errors,
    )


def _readable(
    item: Event | EventFailure, errors: tuple[EventError, ...]
) -> EventFailure | None:
    """Return an event as a failed one with its text, if it has a text."""
    # Another program may have published fields of which no text can be made.
    with suppress(Exception):
        if isinstance(item, Event):
            text, origin = item.read_text(), item.origin
            return failure_of(text, item.application, errors, origin=origin)
    return None


def _counted(received: Sequence[ReceivedEvent], outcomes: list[Stored]) -> list[Stored]:
    """Count events of one transaction, and return their outcomes."""
    # On its own, so that no failure of it leaves the messages unacknowledged.
    asyncio.get_running_loop().call_soon(_count, received, outcomes)
    return outcomes


def _count(received: Sequence[ReceivedEvent], outcomes: Sequence[Stored]) -> None:
    """Count events by the result of their storage, as a receipt does."""
    pairs = zip(received, outcomes, strict=True)
    metrics.events_stored(Counter(_result(each.item, stored) for each, stored in pairs))


def _result(item: Event | EventFailure, stored: Stored) -> str:
    """Return the label of an event's result."""
    # A failed event that is refused stays one, though another one is kept for it.
    if isinstance(item, EventFailure):
        return "failed"
    if stored.conflict is not None:
        return "conflict"
    return "accepted" if stored.is_new else "duplicate"


def _application_of(message: bytes) -> str:
    """Return the application of a message of any version, if it tells one."""
    with suppress(ValueError, RecursionError):
        parts = msgspec.msgpack.decode(uncompressed(message))
        if isinstance(parts, list) and len(parts) > 1 and isinstance(parts[1], str):
            # PostgreSQL cannot store NUL in text.
            return parts[1].replace("\0", "") or UNKNOWN
    return UNKNOWN


def _nothing(_value: object) -> None:
    """Leave out what has no encoding."""
