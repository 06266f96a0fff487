"""Writer: stores the events of the partitions of which it has the leases.

Any number of writers share the partitions evenly. A partition has one task, which
takes messages in the order of the stream, stores them, and acknowledges them after the
commit.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple

import structlog
from nats.aio.client import Client

from service.events.errors import QueueUnavailable
from service.events.queue import metrics
from service.events.queue.connection import (
    QueueConnection,
    open_connection,
    translated,
)
from service.events.queue.deliveries import Deliveries
from service.events.queue.leases import Leases, Look, share_of
from service.events.queue.message import QueuedRequest, encode_outcome
from service.events.queue.storing import QueueStore, Stopped
from service.events.queue.stream import ensure_stream
from service.events.queue.tasks import until_cancelled
from service.events.queue.watch import StreamWatch
from service.events.store import EventStore, Stored
from service.settings import EventsSettings
from service.storage.breaker import PROBE_INTERVAL_S
from service.storage.database import Database
from service.storage.uses import EVENT_CONNECTIONS
from service.web.health import Unready

LOOKS: Final = 4
"""Renewals of a lease in its length: some may fail."""
PAUSE_S: Final = 0.5
"""Pause after a session has ended."""
CLOSE_S: Final = 2.0
"""Time in which transactions may end before the writer does.

The messages of a later one come again, to the next writer.
"""
LEAVE_S: Final = 2.0
"""Time in which the servers answer to that, or are away."""

log = structlog.get_logger()


class Shared(NamedTuple):
    """Objects of all partitions of a writer; `turns` bounds their transactions."""

    settings: EventsSettings
    connection: QueueConnection
    store: EventStore
    leases: Leases
    turns: asyncio.Semaphore


class PartitionWriter:
    """Stores the messages of one partition until it is stopped."""

    def __init__(self, shared: Shared, partition: int) -> None:
        self._settings = shared.settings
        self._connection = shared.connection
        self._leases = shared.leases
        self._partition = partition
        self._stopped = asyncio.Event()
        self._store = QueueStore(shared.store, partition, shared.turns, self._stopped)
        self._deliveries: Deliveries | None = None
        self._is_storing = False
        self._reason = ""
        self.task = asyncio.create_task(self._run())

    @property
    def is_failing(self) -> bool:
        """True while messages wait that the database has not stored for some time."""
        return self._store.is_failing

    def stop(self) -> None:
        """Begin no further transaction; the task ends after the present one."""
        self._stopped.set()
        if not self._is_storing:
            self.task.cancel()
        # The library may swallow the cancellation.
        if self._deliveries is not None:
            self._deliveries.end("the writer ends")

    def lose_connection(self) -> None:
        """End the session: its connection is lost."""
        if self._deliveries is not None:
            self._deliveries.end("the connection is lost")

    async def _run(self) -> None:
        while not self._stopped.is_set():
            client = await self._connection.connected()
            try:
                # The lease may have ended without a connection. A session would then
                # end that of the new owner.
                if self._leases.has(self._partition):
                    await self._have_session(client)
            except QueueUnavailable as error:
                if not self._stopped.is_set():
                    self._log_end(str(error))
            except Stopped:
                return
            except Exception as error:  # a defect must not end the task
                log.error("events.queue_session_failed", exc_info=error)
            finally:
                self._deliveries = None
            if not self._stopped.is_set():
                await asyncio.sleep(PAUSE_S)

    async def _have_session(self, client: Client) -> None:
        self._deliveries = deliveries = Deliveries(
            client, self._settings.queue_stream, self._partition
        )
        async with deliveries.opened():
            while not self._stopped.is_set():
                batch = await deliveries.take()
                self._is_storing = True
                try:
                    stored = await self._store.store(batch)
                    await deliveries.acknowledge(batch)
                finally:
                    self._is_storing = False
                self._reason = ""
                for request, outcome in stored:
                    if request.reply_to:
                        await _answer(client, request, outcome)

    def _log_end(self, reason: str) -> None:
        metrics.session_ended()
        if reason != self._reason:
            self._reason = reason
            log.info(
                "events.queue_session_ended", partition=self._partition, reason=reason
            )


class QueueWriter:
    """Keeps leases, and stores the events of their partitions."""

    def __init__(
        self, settings: EventsSettings, connection: QueueConnection, database: Database
    ) -> None:
        self.stream = StreamWatch(connection, settings.queue_stream)
        """Its `run` measures the stream. One watch is enough for a process."""
        self._settings = settings
        self._connection = connection
        self._breaker = database.breaker
        self._leases = Leases(settings)
        self._shared = Shared(
            settings,
            connection,
            EventStore(database, keeps_order=True),
            self._leases,
            asyncio.Semaphore(EVENT_CONNECTIONS),
        )
        self._partitions: dict[int, PartitionWriter] = {}
        self._reason = ""
        """Why the leases were unknown the last time; empty when they are known."""
        connection.on_loss.append(self._lose_connection)

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions whose events this writer stores now."""
        return frozenset(self._partitions)

    async def run(self) -> None:
        """Take part in the sharing of partitions until this is cancelled."""
        while True:
            client = await self._connected()
            try:
                await ensure_stream(client, self._settings)
                await self._leases.open(client)
                while True:
                    await self._look(client)
                    self._reason = ""
                    await asyncio.sleep(self._leases.length_s / LOOKS)
            except QueueUnavailable as error:
                if str(error) != self._reason:
                    self._reason = str(error)
                    log.warning("events.queue_leases_unknown", reason=self._reason)
            except Exception as error:  # a defect must not end the writer
                log.error("events.queue_leases_failed", exc_info=error)
            self._stop_lost()
            await asyncio.sleep(PAUSE_S)

    async def check_ready(self) -> Unready | None:
        """Return why no events are stored now, or None."""
        # The leases are in another stream than the events.
        reason = self._reason or self.stream.problem
        if reason or not self._connection.is_open:
            return Unready("the event queue does not answer", PAUSE_S)
        if self._breaker.is_away:
            return Unready("the database does not answer", PROBE_INTERVAL_S)
        # It may answer to other transactions, such as those that read the keys.
        if any(each.is_failing for each in self._partitions.values()):
            return Unready("the database does not store events", PAUSE_S)
        return None

    async def close(self) -> None:
        """Finish the transactions in progress, and give all leases back."""
        await self._stop(list(self._partitions))
        # Leases that cannot be given back end by themselves.
        with suppress(QueueUnavailable):
            client = self._connection.client
            with translated():
                async with asyncio.timeout(LEAVE_S):
                    await self._leases.sign_off(client)

    async def _connected(self) -> Client:
        """Wait for a connection; meanwhile, stop the partitions whose leases end."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._leases.length_s / LOOKS):
                    return await self._connection.connected()
            self._stop_lost()

    async def _look(self, client: Client) -> None:
        """Renew the leases, and take or give back as many as is fair."""
        try:
            await self._leases.renew(client)
        finally:
            self._stop_lost()
        metrics.partitions_owned(len(self._partitions))
        look = await self._leases.look(client)
        share = share_of(
            self._leases.writer, look.writers, self._settings.queue_partitions
        )
        missing = share - len(self._partitions)
        if missing < 0:
            await self._give_back(client, list(self._partitions)[missing:])
        elif missing:
            await self._take(client, look, missing)

    async def _give_back(self, client: Client, partitions: list[int]) -> None:
        await self._stop(partitions)
        await self._leases.release(client, partitions)
        log.info("events.queue_partitions_released", partitions=sorted(partitions))

    async def _take(self, client: Client, look: Look, number: int) -> None:
        every = range(self._settings.queue_partitions)
        # The bucket may have lost leases, such as by a purge: they are not renewed yet.
        owned = look.partitions | self._partitions.keys()
        free = [each for each in every if each not in owned]
        taken = []
        for each in random.sample(free, min(number, len(free))):
            if await self._leases.acquire(client, each):
                taken.append(each)
                self._partitions[each] = PartitionWriter(self._shared, each)
        if taken:
            log.info("events.queue_partitions_taken", partitions=sorted(taken))

    def _stop_lost(self) -> None:
        """Stop the partitions whose leases have ended."""
        self._leases.forget_ended()
        lost = self._partitions.keys() - self._leases.owned.keys()
        for each in lost:
            # Its last transaction may end later: that does no harm.
            self._partitions.pop(each).stop()
        metrics.partitions_owned(len(self._partitions))
        if lost:
            log.warning("events.queue_partitions_lost", partitions=sorted(lost))

    async def _stop(self, partitions: Iterable[int]) -> None:
        stopping = [self._partitions.pop(each) for each in partitions]
        metrics.partitions_owned(len(self._partitions))
        for each in stopping:
            each.stop()
        tasks = [each.task for each in stopping]
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)
        for task in tasks:
            task.cancel()

    def _lose_connection(self) -> None:
        for each in self._partitions.values():
            each.lose_connection()


async def _answer(
    client: Client, request: QueuedRequest, outcome: Sequence[Stored]
) -> None:
    """Send the outcome of a request's events to its collector, which waits for it."""
    with translated():
        answer = encode_outcome(request.items, outcome)
        await client.publish(request.reply_to, answer)


@asynccontextmanager
async def open_writer(
    settings: EventsSettings, database: Database
) -> AsyncIterator[QueueWriter]:
    """Run a writer; it has given all leases back when the context ends."""
    async with open_connection(settings, "copilot-usage writer") as connection:
        writer = QueueWriter(settings, connection, database)
        try:
            async with until_cancelled(writer.run()):
                yield writer
        finally:
            await writer.close()
