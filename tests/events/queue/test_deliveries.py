"""Deliveries of a partition's messages on a real stream."""

import asyncio
from collections.abc import Callable
from random import randbytes
from typing import Final

import pytest

from service.events.parsing import EventParser
from service.events.queue import deliveries
from service.events.queue.connection import connect, discard
from service.events.queue.deliveries import Deliveries
from service.events.queue.message import partition_of
from service.settings import EventsSettings
from tests.events.queue.publishing import Publisher, publishing
from tests.events.queue.test_writer import sent
from tests.nats_servers import NatsServer
from tests.patience import GIVE_UP_S
from tests.running import until

MakeQueue = Callable[..., EventsSettings]
LOOK_AGAIN_S: Final = 0.01


async def until_left(publisher: Publisher, messages: int) -> None:
    """Wait until the servers have removed what was acknowledged."""
    async with asyncio.timeout(GIVE_UP_S):
        while await publisher.left() != messages:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_AGAIN_S)


async def test_a_batch_is_bounded_by_its_size_in_memory(
    queue_settings: MakeQueue, parser: EventParser
) -> None:
    """A message with much repetition is small in the stream, and large in memory."""
    settings = queue_settings()
    partition = partition_of("shop", settings.queue_partitions)
    client = await connect(settings, "test")
    async with publishing(settings, parser) as publisher:
        large = publisher.items(sent("a", data={"text": "word " * 200_000}))
        for _ in range(6):
            await publisher.publish(large)
        session = Deliveries(client, settings.queue_stream, partition)
        async with session.opened():
            batches = [await session.take()]
            while sum(map(len, batches)) < 6:
                batches.append(await session.take())
    await discard(client)
    assert max(map(len, batches)) <= 3


async def test_a_message_above_the_maximum_of_now_is_delivered(
    queue_settings: MakeQueue, parser: EventParser, nats_server: NatsServer
) -> None:
    """The servers may have had a larger maximum when it was published."""
    settings = queue_settings()
    nats_server.restart("max_payload: 8MB")
    async with publishing(settings, parser) as publisher:
        large = randbytes(deliveries.MIN_PULL_BYTES + 1)
        await publisher.publish_bytes(large)
        await publisher.publish_bytes(b"behind")
    nats_server.restart("max_payload: 1MB")
    partition = partition_of("shop", settings.queue_partitions)
    client = await connect(settings, "test")
    session = Deliveries(client, settings.queue_stream, partition)
    async with session.opened(), asyncio.timeout(GIVE_UP_S):
        batches = [await session.take(), await session.take()]
    await discard(client)
    assert [each.data for batch in batches for each in batch] == [large, b"behind"]


async def test_a_message_that_comes_again_is_acknowledged_after_it_was_stored(
    queue_settings: MakeQueue, parser: EventParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message may come again while the first copy still waits for its storage."""
    monkeypatch.setattr(deliveries, "ACK_WAIT_S", 0.5)
    settings = queue_settings()
    partition = partition_of("shop", settings.queue_partitions)
    client = await connect(settings, "test")
    async with publishing(settings, parser) as publisher:
        for each in "abc":
            await publisher.publish(publisher.items(sent(each)))
        session = Deliveries(client, settings.queue_stream, partition)
        async with session.opened():
            monkeypatch.setattr(deliveries, "MAX_BATCH_BYTES", 1)
            first = await session.take()
            # The database is away until the servers deliver all of them again.
            await until(lambda: len(session._waiting) >= 5)
            monkeypatch.undo()
            others = await session.take()
            await client.flush()
            assert [each.sequence for each in first + others] == [1, 2, 3]
            await until_left(publisher, 2)
            # Further acknowledgements would have arrived by now.
            await client.flush()
            assert await publisher.left() == 2
            await session.acknowledge(others)
            await client.flush()
            await until_left(publisher, 0)
    await discard(client)
