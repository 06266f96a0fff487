"""Messages of one partition, in the order of the stream, each without a gap.

The stream of a work queue has just the messages that are not acknowledged. A consumer
that is created anew therefore begins at the first message that may not be stored. So
one rule covers all faults of the delivery: the consumer numbers its deliveries, and a
missing number ends the session. The next one begins anew.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import structlog
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

from service.events.errors import QueueUnavailable
from service.events.queue import metrics
from service.events.queue.connection import translated
from service.events.queue.message import size_of, subject_of
from service.events.queue.stream_api import API_S

PULL_MESSAGES: Final = 1_000
MIN_PULL_BYTES: Final = 4 * 1024 * 1024
"""Bytes of one request for messages; three times as many wait in memory at most."""
OVERHEAD_BYTES: Final = 16 * 1024
"""Upper bound of the subjects and headers of a message."""
MAX_BATCH_BYTES: Final = 2 * 1024 * 1024
"""Bytes of messages without their compression, of which events take several times."""
PULL_S: Final = 4.0
"""Time after which the servers end a request for messages."""
PULL_AGAIN_S: Final = PULL_S / 2
"""Time after which another request is sent, before the last one ends.

Version 2.9 tells no end of a request if a message comes just then.
"""
SILENCE_S: Final = 10.0
"""Time without any answer to such requests, after which the session ends."""
ACK_WAIT_S: Final = 300.0
"""Time after which the servers deliver an unacknowledged message again."""
MAX_UNACKNOWLEDGED: Final = 20_000
TIMED_OUT: Final = frozenset({"404", "408"})
TOO_MANY_BYTES: Final = "409"
UNUSED: Final = "Nats-Pending-Messages"
"""Header of the end of a request: the messages that were not delivered for it."""
ACK: Final = b"+ACK"
NS_PER_US: Final = 1_000

log = structlog.get_logger()


class Delivery(Struct, frozen=True):
    """A message, its place in the stream, and the time at which the stream got it."""

    data: bytes
    reply: str
    sequence: int
    arrived_at: int
    """In microseconds since 1970."""


class Deliveries:
    """Delivers the messages of a partition, on one connection."""

    def __init__(self, client: Client, stream: str, partition: int) -> None:
        self._client = client
        self._stream = stream
        self._consumer = consumer_of(partition)
        self._subject = subject_of(stream, partition)
        self._inbox = client.new_inbox()
        self._max_bytes = max(MIN_PULL_BYTES, client.max_payload + OVERHEAD_BYTES)
        self._waiting: deque[Delivery] = deque()
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._left = 0
        """Messages that the servers may still send for the last request."""
        self._pulled_at = 0.0
        self._heard_at = 0.0
        self._delivered = 0
        self._last = 0
        """The place of the last message that was given out."""
        self._failure = ""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Create the consumer anew, for a session; raises `QueueUnavailable`."""
        await self._create()
        with translated():
            subscription = await self._client.subscribe(self._inbox, cb=self._receive)
        try:
            yield
        finally:
            # It is closed with its connection otherwise.
            with suppress(Exception):
                await subscription.unsubscribe()

    async def _create(self) -> None:
        manager = self._client.jetstream(timeout=API_S)
        with translated():
            with suppress(NotFoundError):
                await manager.delete_consumer(self._stream, self._consumer)
            await manager.add_consumer(
                self._stream,
                ConsumerConfig(
                    durable_name=self._consumer,
                    filter_subject=self._subject,
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=ACK_WAIT_S,
                    max_ack_pending=MAX_UNACKNOWLEDGED,
                    # One request waits; another one may come after a lost one.
                    max_waiting=16,
                ),
            )

    async def take(self) -> list[Delivery]:
        """Wait for messages; return those that have arrived, `MAX_BATCH_BYTES` at most.

        All that were given out before must be stored. Raises `QueueUnavailable` for
        an end of the session.
        """
        while True:
            await self._wait()
            batch = await self._take_new()
            if self._waiting_bytes < self._max_bytes:
                await self._pull_if_due()
            if batch:
                return batch

    async def acknowledge(self, batch: list[Delivery]) -> None:
        """Let the stream remove stored messages; raises `QueueUnavailable`."""
        with translated():
            for each in batch:
                await self._client.publish(each.reply, ACK)

    def end(self, reason: str) -> None:
        """End the session."""
        self._failure = self._failure or reason
        self._arrived.set()

    async def _wait(self) -> None:
        self._heard_at = self._now()
        while not self._waiting:
            if self._now() - self._heard_at > SILENCE_S:
                self.end("the consumer does not answer")
            if self._failure:
                raise QueueUnavailable(self._failure)
            self._arrived.clear()
            await self._pull_if_due()
            if self._waiting:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(PULL_AGAIN_S):
                    await self._arrived.wait()

    async def _take_new(self) -> list[Delivery]:
        batch: list[Delivery] = []
        repeated: list[Delivery] = []
        stored, size = self._last, 0
        while self._waiting and size < MAX_BATCH_BYTES:
            each = self._waiting.popleft()
            self._waiting_bytes -= len(each.data)
            if each.sequence <= self._last:
                repeated.append(each)
                continue
            self._last = each.sequence
            size += size_of(each.data)
            batch.append(each)
        metrics.delivered_again(len(repeated))
        # Of the stored ones, only the acknowledgement was lost. After a long outage of
        # the database, others come again while they wait here to be stored.
        await self.acknowledge([each for each in repeated if each.sequence <= stored])
        return batch

    async def _pull_if_due(self) -> None:
        """Request further messages if the last request has ended, or will do so."""
        now = self._now()
        if self._left > 0 and now - self._pulled_at < PULL_AGAIN_S:
            return
        self._left, self._pulled_at = PULL_MESSAGES, now
        request = {
            "batch": PULL_MESSAGES,
            "max_bytes": self._max_bytes,
            "expires": int(PULL_S * 1e9),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        with translated():
            body = json.dumps(request).encode()
            await self._client.publish(subject, body, self._inbox)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _receive(self, message: Msg) -> None:
        self._heard_at = self._now()
        if not message.reply:
            self._note_state(message.headers or {})
            return
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<place>.<number>.<ns>.<pending>, or
        # with domain and account after ACK, and a random value at the end.
        parts = message.reply.split(".")
        parts = parts[2:] if len(parts) < 11 else parts[4:]
        place, number, arrived_at = map(int, parts[3:6])
        self._delivered += 1
        if number != self._delivered:
            self.end(f"delivery {number} came in the place of {self._delivered}")
        if self._failure:
            return
        self._left -= 1
        delivery = Delivery(message.data, message.reply, place, arrived_at // NS_PER_US)
        self._waiting.append(delivery)
        self._waiting_bytes += len(delivery.data)
        self._arrived.set()

    def _note_state(self, headers: dict[str, str]) -> None:
        status, reason = headers.get("Status", ""), headers.get("Description", "")
        if status == TOO_MANY_BYTES and "Consumer" not in reason:
            self._left = 0
            if headers.get(UNUSED) == str(PULL_MESSAGES):
                # Not even one message fits: when it was published, the servers accepted
                # larger ones.
                self._max_bytes *= 2
        elif status not in TIMED_OUT:
            self.end(reason or "the consumer has no leader, or is deleted")
        self._arrived.set()


def consumer_of(partition: int) -> str:
    """Return the name of a partition's consumer."""
    return f"writer-{partition}"
