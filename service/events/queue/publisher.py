"""Publishing of events: each request is a message, which the stream acknowledges.

One task publishes in the order of turns, with a bounded number of messages in flight.
All acknowledgements come to one subscription. A message whose acknowledgement is late,
or may be lost with its connection, is published again with the same id: the stream
recognises it. A request gets its receipt after the acknowledgement of all its events.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from typing import Final

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from service.events.backlog import Backlog, Reservation
from service.events.errors import (
    BacklogFull,
    EventTooLarge,
    PartlyAccepted,
    QueueUnavailable,
)
from service.events.model import Event, EventFailure, Receipt
from service.events.queue import metrics
from service.events.queue.connection import (
    QueueConnection,
    open_connection,
    translated,
)
from service.events.queue.in_flight import (
    STREAM_FULL,
    TOO_LARGE,
    End,
    InFlight,
    Message,
    Publication,
    error_in,
)
from service.events.queue.message import partition_of, split, subject_of
from service.events.queue.outcomes import Outcomes, Watch
from service.events.queue.stream import ensure_stream
from service.events.queue.tasks import until_cancelled
from service.events.queue.watch import StreamWatch
from service.events.receipts import complete, receipt_before_storage
from service.observability.metrics import SUCCESS
from service.settings import EventsSettings
from service.storage.maintenance import in_background
from service.web.health import Unready

ACK_S: Final = 1.0
"""Time after which a message without an answer is published again."""
RETRY_S: Final = 0.2
"""The same after an answer that the stream has no leader now."""
TICK_S: Final = 0.1
AWAY_S: Final = 5.0
"""Time for which a failure counts: then a request finds out whether it has ended."""
RETRY_AFTER_S: Final = 1.0
RECOVERY_S: Final = 1.0
"""Pause after a defect of the program, which may show again at once."""
HEADER_BYTES: Final = 1_024
"""Room for the id in the maximum size of a message."""
DEFAULT_PAYLOAD_BYTES: Final = 1024 * 1024
"""Maximum size of messages before the first connection: the default of servers."""
PARTLY: Final = "; other events of the request may be stored"
MESSAGE_ID: Final = "Nats-Msg-Id"

log = structlog.get_logger()


class QueuePublisher:
    """Publishes events of requests; `open_publisher` opens one."""

    def __init__(
        self,
        settings: EventsSettings,
        connection: QueueConnection,
        watch: StreamWatch,
        queue_wait_s: float,
    ) -> None:
        name = f"_INBOX.{secrets.token_hex(8)}"
        self.outcomes = Outcomes(f"{name}.outcome")
        self._settings = settings
        self._connection = connection
        self._stream = watch
        self._queue_wait_s = queue_wait_s
        self._in_flight = InFlight()
        self._backlog: Backlog[Publication] = Backlog(
            settings, queue_wait_s, lambda: len(self._in_flight)
        )
        self._inbox = f"{name}.ack."
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._tick: asyncio.TimerHandle | None = None
        self._failed_at: float | None = None
        self._is_closing = False
        self._is_closed = False

    @property
    def backlog(self) -> tuple[int, int]:
        """The events that wait, and the bytes of bodies."""
        return self._backlog.total

    @property
    def is_away(self) -> bool:
        """True while the stream does not acknowledge what it gets."""
        failed_at = self._failed_at
        return failed_at is not None and self._now() - failed_at < AWAY_S

    def reserve(self, application: str, size: int) -> Reservation:
        """Reserve the bytes of a request's body before it is read.

        Raises `BacklogFull` and `QueueUnavailable`.
        """
        self._check()
        return self._backlog.reserve(application, size)

    async def accept(
        self,
        items: Sequence[Event | EventFailure],
        reservation: Reservation,
        watch: Watch | None = None,
    ) -> Receipt:
        """Publish a request's events; return the receipt when the stream has them.

        Raises `BacklogFull` and `EventTooLarge`; then none of the events is stored.
        Raises `QueueUnavailable` and `PartlyAccepted`; then they may be stored.
        """
        receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.submit(items, reservation, partial(complete, receipt), watch)
        return await receipt

    def submit(
        self,
        items: Sequence[Event | EventFailure],
        reservation: Reservation,
        end: End,
        watch: Watch | None = None,
    ) -> None:
        """Publish a request's events; `end` gets what `accept` returns or raises."""
        receipt = receipt_before_storage(items)
        if not items:
            end(receipt)
            return
        self._check()
        messages = split(
            reservation,
            items,
            self._max_bytes(),
            None if watch is None else watch.reply_to,
        )
        publication = Publication(
            messages,
            receipt,
            end,
            len(messages),
            reservation=reservation,
            size=len(items),
        )
        self._backlog.enter(publication, self._expire)
        # Errors make messages of failures larger than their body.
        reservation.resize(max(reservation.size, sum(map(len, messages))))
        self._wake.set()

    def watch(self) -> AbstractContextManager[Watch]:
        """Return a context to publish events, and to wait for their storage."""
        return self.outcomes.watch(self.accept)

    async def check_ready(self) -> Unready | None:
        """Return why events cannot be published now, or None."""
        is_open = self._connection.is_open and self._stream.problem is None
        if is_open and not self.is_away:
            return None
        return Unready("the event queue does not answer", RETRY_AFTER_S)

    async def prepare(self, client: Client) -> None:
        """Subscribe to answers, for a new client of the library."""
        await ensure_stream(client, self._settings)
        self._stream.problem = None
        with translated():
            await client.subscribe(f"{self._inbox}*", cb=self._on_ack)
            await client.subscribe(self.outcomes.subject, cb=self.outcomes.on_outcome)
        # The acknowledgements of the former connection may be lost.
        self._in_flight.make_late()
        self._on_tick()

    async def run(self) -> None:
        """Publish what waits, and again what is not acknowledged, until `stop`."""
        while not self._is_closed:
            await self._wake.wait()
            self._wake.clear()
            try:
                with translated():
                    await self._publish_all(self._connection.client)
            except QueueUnavailable as error:
                # The next connection begins anew; meanwhile, requests reach their end.
                log.debug("events.queue_publish_failed", reason=str(error))
            except Exception as error:  # a defect must not end the task
                log.error("events.queue_publisher_failed", exc_info=error)
                await asyncio.sleep(RECOVERY_S)
            self._tick_later()

    async def drain(self) -> None:
        """Refuse further events, and wait until all others are acknowledged or refused.

        That takes as long as a request may wait, at most.
        """
        self._is_closing = True
        while self._backlog.total[0]:
            self._empty.clear()
            await self._empty.wait()

    def stop(self) -> None:
        """End `run`, which the library may have kept from being cancelled."""
        self._is_closed = True
        self._wake.set()

    def _check(self) -> None:
        """Refuse at once what could not be published."""
        if self._is_closing:
            raise BacklogFull("the service is about to stop")
        # One request at a time finds out whether the stream is back.
        if self.is_away and self._backlog.total[0]:
            raise QueueUnavailable("the stream has not acknowledged others")

    def _max_bytes(self) -> int:
        if not self._connection.is_open:
            return DEFAULT_PAYLOAD_BYTES - HEADER_BYTES
        return self._connection.client.max_payload - HEADER_BYTES

    async def _publish_all(self, client: Client) -> None:
        if self._tick is None:
            await self._publish_late(client)
        while self._in_flight.has_room and self._backlog.queue.requests:
            (publication,) = self._backlog.queue.take_group(1)
            self._backlog.started(publication)
            subject = self._subject_of(publication.reservation.application)
            for message_id, message in self._in_flight.put(publication, subject):
                await self._publish(client, message_id, message)

    def _subject_of(self, application: str) -> str:
        partition = partition_of(application, self._settings.queue_partitions)
        return subject_of(self._settings.queue_stream, partition)

    async def _publish_late(self, client: Client) -> None:
        # What has not left yet would only be sent twice.
        if client.pending_data_size:
            return
        now = self._now()
        for message_id, message in self._in_flight.late(now):
            if self._in_flight.get(message_id) is message:
                metrics.published_again()
                await self._publish(client, message_id, message)

    async def _publish(self, client: Client, message_id: str, message: Message) -> None:
        message.due_at = self._now() + ACK_S
        address = self._inbox + message_id
        await client.publish(
            message.subject, message.payload, address, {MESSAGE_ID: address}
        )

    async def _on_ack(self, answer: Msg) -> None:
        message_id = answer.subject.rpartition(".")[2]
        message = self._in_flight.get(message_id)
        if message is None:
            return
        publication = message.publication
        if answer.headers:
            publication.reason = "no stream with a leader has the subject"
            message.due_at = self._now() + RETRY_S
            return
        error = error_in(answer.data)
        if error is None:
            self._acknowledge(message_id, message)
        elif error.err_code == STREAM_FULL:
            full = self._backlog.full("queue_full", f"the stream: {error.description}")
            # Otherwise the answer would say that nothing was stored.
            is_split = publication.is_split
            outcome = PartlyAccepted(str(full)) if is_split else full
            self._complete(publication, outcome)
        elif error.err_code == TOO_LARGE:
            others = PARTLY if publication.is_split else ""
            self._complete(publication, EventTooLarge(error.description + others))
        else:
            publication.reason = error.description
            message.due_at = self._now() + RETRY_S

    def _acknowledge(self, message_id: str, message: Message) -> None:
        self._failed_at = self._stream.problem = None
        self._in_flight.remove(message_id)
        publication = message.publication
        publication.unacknowledged -= 1
        if not publication.unacknowledged:
            self._complete(publication, publication.receipt)
        self._wake.set()

    def _expire(self, publication: Publication) -> None:
        """Refuse a request that has waited too long."""
        if not self._connection.is_open:
            # Its messages may be stored, if they were sent before.
            self._backlog.queue.remove(publication)
            self._fail(publication, self._connection.reason)
        elif self._backlog.queue.remove(publication):
            detail = f"not begun to be published in {self._queue_wait_s:g} s"
            self._complete(publication, self._backlog.full("waited", detail))
        else:
            self._fail(publication, publication.reason)

    def _fail(self, publication: Publication, reason: str) -> None:
        if self._failed_at is None:
            log.error("events.queue_not_acknowledged", reason=reason)
        self._failed_at = self._now()
        self._complete(publication, QueueUnavailable(reason))

    def _complete(self, publication: Publication, outcome: Receipt | Exception) -> None:
        """Complete a request, and release its part of the backlog."""
        if not self._backlog.complete(publication):
            return
        if publication.unacknowledged:
            self._in_flight.remove_all(publication)
        publication.messages.clear()
        is_error = isinstance(outcome, Exception)
        result = type(outcome).__name__ if is_error else SUCCESS
        metrics.published(result, self._now() - publication.arrived)
        self._empty.set()
        self._wake.set()
        try:
            publication.end(outcome)
        except Exception as error:  # a defect must not fail the others
            log.error("events.answer_failed", exc_info=error)

    def _tick_later(self) -> None:
        """Look for late acknowledgements soon, as long as messages are in flight."""
        if self._in_flight and self._tick is None:
            loop = asyncio.get_running_loop()
            self._tick = loop.call_later(TICK_S, self._on_tick)

    def _on_tick(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
        self._tick = None
        self._wake.set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


@asynccontextmanager
async def open_publisher(
    settings: EventsSettings, queue_wait_s: float
) -> AsyncIterator[QueuePublisher]:
    """Open a publisher; all accepted events are acknowledged when the context ends."""
    async with open_connection(settings, "copilot-usage collector") as connection:
        stream = StreamWatch(connection, settings.queue_stream)
        publisher = QueuePublisher(settings, connection, stream, queue_wait_s)
        connection.on_open.append(publisher.prepare)
        async with until_cancelled(stream.run()), in_background(publisher.run()):
            try:
                yield publisher
                await publisher.drain()
            finally:
                publisher.stop()
