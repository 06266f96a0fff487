"""Writer: stores the events of the stream's messages, and then acknowledges them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count, islice
from typing import Final

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig

from service.events.errors import QueueUnavailable
from service.events.queue.connection import (
    QueueConnection,
    open_connection,
    translated,
)
from service.events.queue.message import (
    BadMessage,
    QueuedRequest,
    decode,
    encode_outcome,
    subject_of,
)
from service.events.queue.stream import API_S, ensure_stream
from service.events.store import EventStore, ReceivedEvent
from service.settings import EventsSettings
from service.storage.database import Database
from service.storage.errors import StorageError
from service.storage.maintenance import in_background

FETCH: Final = 50
"""Messages of one batch."""
FETCH_S: Final = 5.0
PAUSE_S: Final = 1.0
US: Final = 1_000_000

log = structlog.get_logger()


@asynccontextmanager
async def open_writer(
    settings: EventsSettings, database: Database
) -> AsyncIterator[None]:
    """Store the events of every partition while the context lasts."""
    store = EventStore(database)
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(
            open_connection(settings, "copilot-usage writer")
        )
        for partition in range(settings.queue_partitions):
            work = _write(settings, connection, store, partition)
            await stack.enter_async_context(in_background(work))
        yield


async def _write(
    settings: EventsSettings,
    connection: QueueConnection,
    store: EventStore,
    partition: int,
) -> None:
    while True:
        client = await connection.connected()
        with suppress(QueueUnavailable):
            await _write_partition(settings, client, store, partition)
        await asyncio.sleep(PAUSE_S)


async def _write_partition(
    settings: EventsSettings, client: Client, store: EventStore, partition: int
) -> None:
    await ensure_stream(client, settings)
    with translated():
        messages = await client.jetstream(timeout=API_S).pull_subscribe(
            subject_of(settings.queue_stream, partition),
            f"writer-{partition}",
            settings.queue_stream,
            ConsumerConfig(ack_policy=AckPolicy.EXPLICIT),
        )
        while True:
            with suppress(TimeoutError):
                await _store(store, client, await messages.fetch(FETCH, FETCH_S))


async def _store(store: EventStore, client: Client, messages: Sequence[Msg]) -> None:
    received: list[ReceivedEvent] = []
    requests: list[QueuedRequest] = []
    for each in messages:
        try:
            request = decode(each.data)
        except BadMessage as error:
            log.error("events.queue_message_refused", reason=str(error))
            continue
        arrived_at = int(each.metadata.timestamp.timestamp() * US)
        received += map(ReceivedEvent, request.items, count(arrived_at))
        requests.append(request)
    while True:
        try:
            stored = iter(await store.store(received))
            break
        except StorageError:
            await asyncio.sleep(PAUSE_S)
    for each in messages:
        await each.ack()
    for request in requests:
        outcomes = list(islice(stored, len(request.items)))
        if request.reply_to:
            answer = encode_outcome(request.items, outcomes)
            await client.publish(request.reply_to, answer)
