"""Collection of events: from a request's body to its receipt, and replays."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from functools import partial
from typing import NamedTuple, Protocol

import structlog
from msgspec.structs import replace

from service.events import metrics
from service.events.arrivals import Arrivals
from service.events.backlog import Reservation
from service.events.clock_skew import UNKNOWN, Clocks
from service.events.counting import Counting
from service.events.failed_events import FailedEvents
from service.events.ingest import running_ingest
from service.events.model import Event, EventFailure, Origin, Receipt
from service.events.parsing import EventParser
from service.events.queries import EventQueries
from service.events.retention import Retention
from service.events.schema_reload import SchemaReload
from service.events.schemas import load_types, types_folder
from service.events.store import EventStore
from service.settings import EventsSettings, Settings
from service.storage.breaker import PROBE_INTERVAL_S
from service.storage.database import Database
from service.storage.maintenance import in_background
from service.web.health import Unready
from service.web.repeats import RepeatedPost

log = structlog.get_logger()


class Adapted(NamedTuple):
    """The items of a request of a stock client."""

    format: str
    items: Sequence[bytes]
    sent_at: object = None
    """The time of the sender's clock that the body states, if it does."""


class Watch(Protocol):
    """The storage of a request's events, which its client waits for."""

    async def accept(
        self, items: Sequence[Event | EventFailure], reservation: Reservation
    ) -> Receipt:
        """Accept a request's events, and observe what becomes of them."""

    async def confirm(self, receipt: Receipt, limit_s: float) -> Receipt:
        """Return the final receipt, or the same one after the time limit."""


class Acceptor(Protocol):
    """The way of events from requests to the database, or to a queue."""

    @property
    def backlog(self) -> tuple[int, int]:
        """The events that wait, and the bytes of bodies."""

    def reserve(self, application: str, size: int) -> Reservation:
        """Reserve the bytes of a request's body before it is read."""

    async def accept(
        self, items: Sequence[Event | EventFailure], reservation: Reservation
    ) -> Receipt:
        """Accept a request's events; return the receipt."""

    def submit(
        self,
        items: Sequence[Event | EventFailure],
        reservation: Reservation,
        end: Callable[[Receipt | Exception], None],
    ) -> None:
        """Accept a request's events; `end` gets what `accept` returns or raises."""


class Way(NamedTuple):
    """The way of events, and what depends on it."""

    acceptor: Acceptor
    check_ready: Callable[[], Awaitable[Unready | None]]
    """Returns why events cannot be accepted now, or None."""
    watch: Callable[[], AbstractContextManager[Watch | None]] = nullcontext
    """Returns a context to wait for storage after acceptance, which a queue needs."""
    end_waits: Callable[[], None] = lambda: None
    """Ends all such waits, and further ones at once."""
    failure: Callable[[], str | None] = lambda: None
    """Returns why no events are accepted any more, until the process has ended."""


class Collector:
    """Collects, queries and replays events; `open_collector` opens one."""

    def __init__(
        self,
        settings: EventsSettings,
        database: Database,
        way: Way,
        parser: EventParser,
        arrivals: Arrivals,
    ) -> None:
        self.settings = settings
        self.queries = EventQueries(database)
        self.failed = FailedEvents(database, arrivals, parser)
        self.schemas = SchemaReload(settings, parser)
        self.watch = way.watch
        self.end_waits = way.end_waits
        self._way = way
        self._ingest = way.acceptor
        self._parser = parser

    @property
    def failure(self) -> str | None:
        """The reason why no events are stored any more; None while they are."""
        return self._way.failure()

    @property
    def backlog(self) -> tuple[int, int]:
        """The events that wait to be written, and the bytes of their bodies."""
        return self._ingest.backlog

    async def check_writer(self) -> Unready | None:
        """Return why no events are stored any more, or None."""
        return Unready(self.failure) if self.failure else None

    async def check_ready(self) -> Unready | None:
        """Return why events cannot be accepted now, or None."""
        return await self._way.check_ready() or await self.check_writer()

    def reserve(self, application: str, size: int) -> Reservation:
        """Reserve the bytes of a request's body before it is read; end it as a context.

        Raises `BacklogFull`, `StorageUnavailable` and `QueueUnavailable`.
        """
        return self._ingest.reserve(application, size)

    async def collect(
        self,
        body: bytes,
        content_type: str,
        reservation: Reservation,
        clocks: Clocks = UNKNOWN,
        watch: Watch | None = None,
    ) -> Receipt:
        """Store the events of a request's body; they are on disk when this returns.

        With a queue, they are in its stream, and `watch` observes their storage.
        `clocks` correct the times of the events. Raises `BadBody`, `BacklogFull` and
        `StorageError`; then no event is stored. Raises `QueueUnavailable`.
        """
        items = self._parse(body, content_type, reservation.application, clocks)
        return await self._store_items(items, reservation, watch)

    def begin(self, post: RepeatedPost) -> None:
        """Store the events of a request's body, which gets its receipt or an error.

        Raises `BadBody`, `BacklogFull` and `StorageError` if none is stored.
        """
        application = post.key.application
        with self.reserve(application, len(post.body)) as reservation:
            reservation.request_id = post.request_id
            items = self._parse(post.body, post.media_type, application, UNKNOWN)
            self._ingest.submit(items, reservation, partial(_respond, post))

    def _parse(
        self, body: bytes, content_type: str, application: str, clocks: Clocks
    ) -> list[Event | EventFailure]:
        return self._parser.parse_body(
            body,
            content_type,
            self.settings.max_events,
            application,
            clocks.skew_us(self.settings),
        )

    async def collect_adapted(
        self,
        adapted: "Adapted",
        reservation: Reservation,
        clocks: Clocks,
        watch: Watch | None = None,
    ) -> Receipt:
        """Store the items of a stock client, as `collect` does.

        Raises `BacklogFull` and `StorageError`; then no event is stored.
        """
        clocks = clocks.stating(adapted.sent_at)
        origin = Origin(adapted.format, clocks.skew_us(self.settings))
        application = reservation.application
        items = [
            self._parser.parse(each, application, origin) for each in adapted.items
        ]
        return await self._store_items(items, reservation, watch)

    async def _store_items(
        self,
        items: Sequence[Event | EventFailure],
        reservation: Reservation,
        watch: Watch | None,
    ) -> Receipt:
        receipt = await (watch or self._ingest).accept(items, reservation)
        _log_receipt(receipt, reservation.application)
        return receipt


@asynccontextmanager
async def open_collector(
    every: Settings, database: Database
) -> AsyncIterator[Collector]:
    """Open a collector; all accepted events are stored when the context ends."""
    settings = every.events
    parser = EventParser(
        load_types(settings, types_folder(settings)), settings.future_skew_s
    )
    arrivals = Arrivals()
    async with AsyncExitStack() as stack:
        way = await stack.enter_async_context(_open_way(every, database, arrivals))
        await stack.enter_async_context(in_background(Counting(database).run()))
        retention = Retention(settings, database)
        if retention.is_on:
            await stack.enter_async_context(in_background(retention.run()))
        yield Collector(settings, database, way, parser, arrivals)


async def check_events(every: Settings, database: Database) -> None:
    """Check what a collector needs at its start.

    Raises `SettingsError` and `QueueUnavailable`.
    """
    if every.events.queue_url:
        from service.events.queue.checks import check_queue

        await check_queue(every.events)
    # Without a queue: no writer of this short time may take the place of another.
    alone = replace(every, events=replace(every.events, queue_url=""))
    async with open_collector(alone, database):
        pass


@asynccontextmanager
async def _open_way(
    every: Settings, database: Database, arrivals: Arrivals
) -> AsyncIterator[Way]:
    """Open the way of events: to the database, or to a queue and its writer."""
    settings, wait_s = every.events, every.limits.queue_wait_s
    if not settings.queue_url:
        store = EventStore(database)
        ingest = running_ingest(settings, store, wait_s, arrivals, overlaps=True)
        async with ingest as running:
            yield Way(
                running,
                partial(_check_database, database),
                failure=lambda: running.failure,
            )
        return
    from service.events.queue.publisher import open_publisher
    from service.events.queue.writer import open_writer

    async with AsyncExitStack() as stack:
        if settings.queue_writer:
            await stack.enter_async_context(open_writer(settings, database))
        publisher = await stack.enter_async_context(open_publisher(settings, wait_s))
        waits = publisher.outcomes
        yield Way(publisher, publisher.check_ready, publisher.watch, waits.end)


async def _check_database(database: Database) -> Unready | None:
    """Return why events cannot be stored now, or None."""
    if database.breaker.is_away:
        return Unready("the database does not answer", PROBE_INTERVAL_S)
    return None


def _respond(post: RepeatedPost, outcome: Receipt | Exception) -> None:
    if isinstance(outcome, Receipt):
        _log_receipt(outcome, post.key.application, request_id=post.request_id)
    post.respond(outcome)


def _log_receipt(receipt: Receipt, application: str, **context: str) -> None:
    """Log and count the results of a request's events.

    `context` has values of the log line that are not bound.
    """
    results = {"accepted": receipt.accepted, "duplicate": receipt.duplicates}
    codes: list[str] = []
    if receipt.failed:
        failed = [each for each in receipt.results if each.errors]
        results |= Counter(each.status for each in failed)
        codes = [error.code for each in failed for error in each.errors or ()]
    metrics.events_received(results, codes)
    log.info(
        "events.received",
        application=application,
        accepted=receipt.accepted,
        duplicates=receipt.duplicates,
        failed=receipt.failed,
        **context,
    )
