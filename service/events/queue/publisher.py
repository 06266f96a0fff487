"""Publishing of events: each request is a message, which the stream acknowledges.

One task publishes in the order of turns, with a bounded number of messages in flight.
All acknowledgements come to one subscription. A message whose acknowledgement is late
is published again with the same id, which the stream recognises.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import msgspec
import structlog
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg

from service.events.backlog import FairBound, Reservation, TurnQueue
from service.events.errors import BacklogFull, QueueUnavailable
from service.events.model import Event, EventFailure, Receipt
from service.events.queue.connection import (
    QueueConnection,
    open_connection,
    translated,
)
from service.events.queue.message import (
    QueuedRequest,
    encode,
    partition_of,
    subject_of,
)
from service.events.queue.stream import ensure_stream
from service.events.receipts import complete, receipt_before_storage
from service.settings import EventsSettings
from service.storage.maintenance import in_background

ACK_S: Final = 0.5
"""Time after which a message is published again."""
TICK_S: Final = 0.1
MAX_IN_FLIGHT: Final = 256
MESSAGE_ID: Final = "Nats-Msg-Id"
STREAM_FULL: Final = 10077
"""Error code of a stream that refuses a message because of its limits."""

log = structlog.get_logger()

End = Callable[[Receipt | Exception], None]


class Refusal(Struct):
    """The error of a stream that does not accept a message."""

    err_code: int = 0
    description: str = ""


class Ack(Struct):
    """The answer of a stream to a message."""

    seq: int = 0
    error: Refusal | None = None


class Publication(Struct, eq=False):
    """The message of one request, and who gets its outcome."""

    number: int
    message: bytes
    receipt: Receipt
    reservation: Reservation
    end: End
    size: int
    timer: asyncio.TimerHandle | None = None
    sent_at: float = 0.0
    reason: str = "the stream has not acknowledged the events in time"


class QueuePublisher:
    """Publishes events of requests; `open_publisher` opens one."""

    def __init__(
        self,
        settings: EventsSettings,
        connection: QueueConnection,
        queue_wait_s: float,
    ) -> None:
        self.failure: str | None = None
        self._settings = settings
        self._connection = connection
        self._wait_s = queue_wait_s
        self._events = FairBound(settings.max_backlog, _nothing)
        self._bytes = FairBound(settings.max_backlog_bytes, _nothing)
        self._queue: TurnQueue[Publication] = TurnQueue()
        self._in_flight: dict[int, Publication] = {}
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._next = 0
        self._inbox = ""
        self._is_closing = False

    @property
    def backlog(self) -> tuple[int, int]:
        """The events that wait, and the bytes of bodies."""
        return self._events.total, self._bytes.total

    def reserve(self, application: str, size: int) -> Reservation:
        """Reserve the bytes of a request's body; raises `BacklogFull`."""
        self._check()
        if not self._bytes.reserve(application, size):
            raise BacklogFull(f"{self._bytes.total} bytes wait")
        return Reservation(self._bytes, application, size)

    async def accept(
        self, items: Sequence[Event | EventFailure], reservation: Reservation
    ) -> Receipt:
        """Publish a request's events; return the receipt when the stream has them.

        Raises `BacklogFull`, and `QueueUnavailable`; then they may be stored.
        """
        receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.submit(items, reservation, partial(complete, receipt))
        return await receipt

    def submit(
        self,
        items: Sequence[Event | EventFailure],
        reservation: Reservation,
        end: End,
    ) -> None:
        """Publish a request's events; `end` gets what `accept` returns or raises."""
        receipt = receipt_before_storage(items)
        if not items:
            end(receipt)
            return
        self._check()
        application = reservation.application
        if not self._events.reserve(application, len(items)):
            raise BacklogFull(f"{self._events.total} events wait")
        message = encode(QueuedRequest(application, list(items)))
        self._next += 1
        publication = Publication(
            self._next, message, receipt, reservation, end, len(items)
        )
        loop = asyncio.get_running_loop()
        publication.timer = loop.call_later(self._wait_s, self._expire, publication)
        reservation.add_holder()
        self._queue.append(publication)
        self._wake.set()

    async def prepare(self, client: Client) -> None:
        """Subscribe to acknowledgements, for a new client of the library."""
        with translated():
            await ensure_stream(client, self._settings)
            self._inbox = self._inbox or client.new_inbox()
            await client.subscribe(f"{self._inbox}.*", cb=self._on_ack)
        self._wake.set()

    async def run(self) -> None:
        """Publish what waits, and again what is not acknowledged."""
        while not (self._is_closing and not self._queue.requests):
            try:
                async with asyncio.timeout(TICK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            client = await self._connection.connected()
            try:
                with translated():
                    await self._publish_late(client)
                    await self._publish_new(client)
            except QueueUnavailable:
                continue

    async def close(self) -> None:
        """Refuse further events, and wait until the others are acknowledged."""
        self._is_closing = True
        while self._in_flight or self._queue.requests:
            self._ended.clear()
            await self._ended.wait()

    def _check(self) -> None:
        if self._is_closing:
            raise BacklogFull("the service is about to stop")

    async def _publish_new(self, client: Client) -> None:
        while self._queue.requests and len(self._in_flight) < MAX_IN_FLIGHT:
            (publication,) = self._queue.take_group(1)
            self._in_flight[publication.number] = publication
            await self._publish(client, publication)

    async def _publish_late(self, client: Client) -> None:
        before = asyncio.get_running_loop().time() - ACK_S
        late = [each for each in self._in_flight.values() if each.sent_at < before]
        for publication in late:
            await self._publish(client, publication)

    async def _publish(self, client: Client, publication: Publication) -> None:
        publication.sent_at = asyncio.get_running_loop().time()
        application = publication.reservation.application
        partition = partition_of(application, self._settings.queue_partitions)
        await client.publish(
            subject_of(self._settings.queue_stream, partition),
            publication.message,
            f"{self._inbox}.{publication.number}",
            {MESSAGE_ID: f"{self._inbox}.{publication.number}"},
        )

    async def _on_ack(self, answer: Msg) -> None:
        publication = self._in_flight.get(int(answer.subject.rpartition(".")[2]))
        if publication is None:
            return
        if answer.headers:
            publication.reason = "no stream has the subject, or it has no leader"
            return
        ack = _acks.decode(answer.data)
        if ack.error is None:
            self._complete(publication, publication.receipt)
        elif ack.error.err_code == STREAM_FULL:
            self._complete(publication, BacklogFull(ack.error.description))
        else:
            publication.reason = ack.error.description

    def _expire(self, publication: Publication) -> None:
        if self._queue.remove(publication):
            detail = f"not begun to be published in {self._wait_s:g} s"
            self._complete(publication, BacklogFull(detail))
        else:
            self._complete(publication, QueueUnavailable(publication.reason))

    def _complete(self, publication: Publication, outcome: Receipt | Exception) -> None:
        self._in_flight.pop(publication.number, None)
        if publication.timer is not None:
            publication.timer.cancel()
        application = publication.reservation.application
        self._events.change(application, -publication.size)
        publication.reservation.remove_holder()
        self._ended.set()
        self._wake.set()
        publication.end(outcome)


@asynccontextmanager
async def open_publisher(
    settings: EventsSettings, queue_wait_s: float
) -> AsyncIterator[QueuePublisher]:
    """Open a publisher; all accepted events are acknowledged when the context ends."""
    async with open_connection(settings, "copilot-usage collector") as connection:
        publisher = QueuePublisher(settings, connection, queue_wait_s)
        connection.on_open.append(publisher.prepare)
        async with in_background(publisher.run()):
            yield publisher
            await publisher.close()


def _nothing() -> None:
    """Ignore a change."""


_acks: Final = msgspec.json.Decoder(Ack)
