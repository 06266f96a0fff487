"""Collection of events: from a request's body to its receipt, and replays."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import NamedTuple, Protocol

import structlog

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


class Acceptor(Protocol):
    """The way of events from requests to the database."""

    failure: str | None
    """The reason why no events are accepted any more."""

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


class Collector:
    """Collects, queries and replays events; `open_collector` opens one."""

    def __init__(
        self,
        settings: EventsSettings,
        database: Database,
        ingest: Acceptor,
        parser: EventParser,
        arrivals: Arrivals,
    ) -> None:
        self.settings = settings
        self.queries = EventQueries(database)
        self.failed = FailedEvents(database, arrivals, parser)
        self.schemas = SchemaReload(settings, parser)
        self._breaker = database.breaker
        self._ingest = ingest
        self._parser = parser

    @property
    def failure(self) -> str | None:
        """The reason why no events are stored any more; None while they are."""
        return self._ingest.failure

    @property
    def backlog(self) -> tuple[int, int]:
        """The events that wait to be written, and the bytes of their bodies."""
        return self._ingest.backlog

    async def check_writer(self) -> Unready | None:
        """Return why no events are stored any more, or None."""
        return Unready(self.failure) if self.failure else None

    async def check_ready(self) -> Unready | None:
        """Return why events cannot be stored now, or None."""
        if self._breaker.is_away:
            return Unready("the database does not answer", PROBE_INTERVAL_S)
        return await self.check_writer()

    def reserve(self, application: str, size: int) -> Reservation:
        """Reserve the bytes of a request's body before it is read; end it as a context.

        Raises `BacklogFull` and `StorageUnavailable`.
        """
        return self._ingest.reserve(application, size)

    async def collect(
        self,
        body: bytes,
        content_type: str,
        reservation: Reservation,
        clocks: Clocks = UNKNOWN,
    ) -> Receipt:
        """Store the events of a request's body; they are on disk when this returns.

        `clocks` correct the times of the events. Raises `BadBody`, `BacklogFull` and
        `StorageError`; then no event is stored.
        """
        items = self._parse(body, content_type, reservation.application, clocks)
        return await self._store_items(items, reservation)

    def begin(self, post: RepeatedPost) -> None:
        """Store the events of a request's body, which gets its receipt or an error.

        Raises `BadBody`, `BacklogFull` and `StorageError` if none is stored.
        """
        application = post.key.application
        with self.reserve(application, len(post.body)) as reservation:
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
        self, adapted: "Adapted", reservation: Reservation, clocks: Clocks
    ) -> Receipt:
        """Store the items of a stock client; they are on disk when this returns.

        Raises `BacklogFull` and `StorageError`; then no event is stored.
        """
        clocks = clocks.stating(adapted.sent_at)
        origin = Origin(adapted.format, clocks.skew_us(self.settings))
        application = reservation.application
        items = [
            self._parser.parse(each, application, origin) for each in adapted.items
        ]
        return await self._store_items(items, reservation)

    async def _store_items(
        self, items: Sequence[Event | EventFailure], reservation: Reservation
    ) -> Receipt:
        receipt = await self._ingest.accept(items, reservation)
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
        ingest = await stack.enter_async_context(
            _open_acceptor(every, database, arrivals)
        )
        await stack.enter_async_context(in_background(Counting(database).run()))
        retention = Retention(settings, database)
        if retention.is_on:
            await stack.enter_async_context(in_background(retention.run()))
        yield Collector(settings, database, ingest, parser, arrivals)


@asynccontextmanager
async def _open_acceptor(
    every: Settings, database: Database, arrivals: Arrivals
) -> AsyncIterator[Acceptor]:
    """Open the way of events: to the database, or to a queue and its writer."""
    settings, wait_s = every.events, every.limits.queue_wait_s
    if not settings.queue_url:
        store = EventStore(database)
        async with running_ingest(
            settings, store, wait_s, arrivals, overlaps=True
        ) as ingest:
            yield ingest
        return
    from service.events.queue.publisher import open_publisher
    from service.events.queue.writer import open_writer

    async with AsyncExitStack() as stack:
        if settings.queue_writer:
            await stack.enter_async_context(open_writer(settings, database))
        yield await stack.enter_async_context(open_publisher(settings, wait_s))


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
