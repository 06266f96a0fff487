"""Messages for writers, published as collectors do, and what the stream still has."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from service.events.model import Event, EventFailure
from service.events.parsing import EventParser
from service.events.queue.connection import connect
from service.events.queue.message import (
    QueuedRequest,
    encode,
    partition_of,
    subject_of,
)
from service.events.queue.stream import ensure_stream
from service.settings import EventsSettings
from tests.conftest import MakeSettings
from tests.nats_servers import NatsServer

Item = Event | EventFailure


class Publisher:
    """Publishes messages of applications to the stream of a test."""

    def __init__(
        self, context: JetStreamContext, settings: EventsSettings, parser: EventParser
    ) -> None:
        self.context = context
        self._settings = settings
        self._parser = parser

    def items(self, *texts: bytes, application: str = "shop") -> list[Item]:
        """Return the events of JSON texts, as a collector parses them."""
        return [self._parser.parse(each, application) for each in texts]

    async def publish(self, items: list[Item], application: str = "shop") -> int:
        """Publish a request; return its place in the stream."""
        return await self.publish_bytes(
            encode(QueuedRequest(application, items)), application
        )

    async def publish_bytes(self, message: bytes, application: str = "shop") -> int:
        """Publish any message to the partition of an application."""
        partition = partition_of(application, self._settings.queue_partitions)
        subject = subject_of(self._settings.queue_stream, partition)
        return (await self.context.publish(subject, message)).seq

    async def left(self) -> int:
        """Return the number of messages that no writer has acknowledged."""
        info = await self.context.stream_info(self._settings.queue_stream)
        return info.state.messages

    async def leases(self) -> set[str]:
        """Return the keys of the bucket of leases."""
        try:
            info = await self.context.stream_info(
                f"KV_{self._settings.queue_stream}_writers", subjects_filter=">"
            )
        except NotFoundError:
            return set()
        return {each.split(".", 2)[2] for each in info.state.subjects or {}}


@pytest.fixture
def queue_settings(
    settings: MakeSettings, nats_server: NatsServer
) -> Callable[..., EventsSettings]:
    """A factory of settings of events with a queue on the server of the test."""

    def make(**events: Any) -> EventsSettings:
        queue = {"queue_url": nats_server.url, "queue_replicas": 1}
        short = {"queue_lease_s": 1.0, "queue_partitions": 4}
        return settings(events=queue | short | events).events

    return make


@asynccontextmanager
async def publishing(
    settings: EventsSettings, parser: EventParser
) -> AsyncIterator[Publisher]:
    """Open a publisher, and create the stream."""
    client = await connect(settings, "test")
    try:
        await ensure_stream(client, settings)
        yield Publisher(client.jetstream(), settings, parser)
    finally:
        await client.close()


def with_time(item: Item, at: int) -> Event:
    """Return an event with a time that no collector would accept."""
    assert isinstance(item, Event)
    return replace(item, at=at)
