"""Publisher: what a request gets while the stream is there, slow, full or away."""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final

import msgspec
import nats
import pytest
from msgspec.structs import replace

from service.events.errors import (
    BacklogFull,
    EventTooLarge,
    PartlyAccepted,
    QueueUnavailable,
)
from service.events.model import Event, EventFailure, Receipt
from service.events.parsing import EventParser
from service.events.queue import in_flight
from service.events.queue.message import QueuedRequest, decode, partition_of
from service.events.queue.publisher import QueuePublisher, open_publisher
from service.settings import EventsSettings, load
from tests.events.conftest import event
from tests.nats_servers import NatsServer
from tests.patience import GIVE_UP_S

STREAM: Final = "copilot_usage_events"
SHORT_S: Final = 0.3
"""A wait that the test expects to end in a refusal."""

Items = Sequence[Event | EventFailure]
Opened = Callable[..., AbstractAsyncContextManager[QueuePublisher]]
Until = Callable[[Callable[[], bool]], Awaitable[None]]


def settings_for(server: NatsServer, **more: Any) -> EventsSettings:
    """Return settings with a stream on one server."""
    settings = load().settings.events
    return replace(settings, queue_url=server.url, queue_replicas=1, **more)


@pytest.fixture
def opened(nats_server: NatsServer) -> Opened:
    """A factory of publishers, whose requests wait for `wait_s`."""

    @asynccontextmanager
    async def make(
        *, wait_s: float = GIVE_UP_S, **more: Any
    ) -> AsyncIterator[QueuePublisher]:
        async with open_publisher(settings_for(nats_server, **more), wait_s) as made:
            yield made

    return make


@pytest.fixture
def parsed(parser: EventParser) -> Callable[..., list[Event | EventFailure]]:
    """A factory of parsed events with these ids."""

    def make(*ids: str, **more: Any) -> list[Event | EventFailure]:
        body = msgspec.json.encode([event(id=each, **more) for each in ids])
        return parser.parse_body(body, "application/json", 1_000, "shop")

    return make


async def accept(
    publisher: QueuePublisher, items: Items, application: str = "shop"
) -> Receipt:
    """Publish the events of one request."""
    with publisher.reserve(application, 100) as reservation:
        return await publisher.accept(items, reservation)


async def published(server: NatsServer) -> list[QueuedRequest]:
    """Return the messages of the stream, in its order."""
    client = await nats.connect(server.url)
    manager = client.jetstream()
    state = (await manager.stream_info(STREAM)).state
    numbers = range(max(state.first_seq, 1), state.last_seq + 1)
    messages = [await manager.get_msg(STREAM, number) for number in numbers]
    await client.close()
    return [decode(each.data or b"") for each in messages]


def ids_of(requests: Sequence[QueuedRequest]) -> list[str]:
    """Return the ids of events."""
    return [
        item.id for each in requests for item in each.items if isinstance(item, Event)
    ]


async def test_a_receipt_comes_after_the_acknowledgement(
    opened: Opened, nats_server: NatsServer, parsed: Callable[..., Items]
) -> None:
    """The stream then has the events, as they were parsed."""
    items = parsed("a", "b")
    async with opened() as publisher:
        receipt = await accept(publisher, items)
        (request,) = await published(nats_server)
    assert (receipt.accepted, receipt.stored) == (2, False)
    assert [replace(each, source=None) for each in request.items] == [
        replace(each, source=None) for each in items
    ]


async def test_requests_are_published_in_their_order(
    opened: Opened, nats_server: NatsServer, parsed: Callable[..., Items]
) -> None:
    """Many requests of one application at once keep their order in the stream."""
    names = [str(number) for number in range(600)]
    async with opened() as publisher:
        await asyncio.gather(*(accept(publisher, parsed(each)) for each in names))
        assert ids_of(await published(nats_server)) == names


async def test_events_wait_for_the_first_connection(
    tmp_path: Any, parsed: Callable[..., Items]
) -> None:
    """A request that comes before the server is accepted when the server is there."""
    folder = tmp_path / "late"
    folder.mkdir()
    server = NatsServer(folder)
    async with open_publisher(settings_for(server), GIVE_UP_S) as publisher:
        waiting = asyncio.create_task(accept(publisher, parsed("a")))
        await asyncio.to_thread(server.start)
        try:
            assert (await waiting).accepted == 1
            assert ids_of(await published(server)) == ["a"]
        finally:
            server.kill()


async def test_a_killed_server_loses_and_doubles_nothing(
    opened: Opened,
    nats_server: NatsServer,
    parsed: Callable[..., Items],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was in flight is published again with the same id, and is there once."""
    monkeypatch.setattr(in_flight, "MAX_IN_FLIGHT", 1_000)
    names = [str(number) for number in range(300)]
    async with opened() as publisher:
        await accept(publisher, parsed("first"))
        sent = [asyncio.create_task(accept(publisher, parsed(each))) for each in names]
        await asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED)
        nats_server.kill()
        await asyncio.to_thread(nats_server.start)
        await asyncio.gather(*sent)
        assert sorted(ids_of(await published(nats_server))) == sorted([*names, "first"])


async def test_a_frozen_server_refuses_requests_in_bounded_time(
    opened: Opened, nats_server: NatsServer, parsed: Callable[..., Items]
) -> None:
    """Requests end with the error; one at a time then looks whether it is back."""
    async with opened(wait_s=SHORT_S) as publisher:
        await publisher._connection.connected()
        nats_server.freeze()
        try:
            with pytest.raises(QueueUnavailable):
                await accept(publisher, parsed("a"))
            assert await publisher.check_ready() is not None
            probe = asyncio.create_task(accept(publisher, parsed("b")))
            await asyncio.sleep(0)
            with pytest.raises(QueueUnavailable, match="others"):
                await accept(publisher, parsed("c"))
            with pytest.raises(QueueUnavailable):
                await probe
        finally:
            nats_server.thaw()
        await accepted_again(publisher, parsed("d"))
        assert await publisher.check_ready() is None
        assert publisher.backlog == (0, 0)


async def accepted_again(publisher: QueuePublisher, items: Items) -> None:
    """Publish events as often as it takes until the stream acknowledges them."""
    async with asyncio.timeout(GIVE_UP_S):
        while True:
            with suppress(QueueUnavailable):
                await accept(publisher, items)
                return
            await asyncio.sleep(0.01)


async def test_a_full_stream_refuses_events(
    opened: Opened, nats_server: NatsServer, parsed: Callable[..., Items]
) -> None:
    """It drops no older event for a newer one."""
    async with opened(queue_max_bytes=3_000) as publisher:
        many = (accept(publisher, parsed(str(number))) for number in range(100))
        outcomes = await asyncio.gather(*many, return_exceptions=True)
        refused = [each for each in outcomes if isinstance(each, BaseException)]
        assert {type(each) for each in refused} == {BacklogFull}
        assert "maximum bytes" in str(refused[0])
        assert "0" in ids_of(await published(nats_server))
        assert publisher.backlog == (0, 0)


async def test_a_stream_without_room_for_another_application_takes_turns(
    opened: Opened, nats_server: NatsServer, parsed: Callable[..., Items]
) -> None:
    """An application may have half of the backlog, so that another one has room."""
    async with opened(max_backlog=4, wait_s=SHORT_S) as publisher:
        await publisher._connection.connected()
        nats_server.freeze()
        try:
            first = asyncio.create_task(accept(publisher, parsed("a", "b")))
            await asyncio.sleep(0)
            with pytest.raises(BacklogFull):
                await accept(publisher, parsed("c"))
            other = asyncio.create_task(accept(publisher, parsed("d"), "office"))
            await asyncio.sleep(0)
            assert not other.done()
            await asyncio.wait([first, other])
        finally:
            nats_server.thaw()


def incompressible(size: int) -> str:
    """Return random text, whose compression saves a quarter."""
    return base64.b64encode(secrets.token_bytes(size * 3 // 4)).decode()


async def test_a_request_above_the_maximum_size_becomes_several_messages(
    opened: Opened, nats_server: NatsServer, parsed: Callable[..., Items]
) -> None:
    """The server accepts a MiB in a message; errors make failures larger than that."""
    names = [str(number) for number in range(100)]
    items = [
        item
        for name in names
        for item in parsed(name, category="free", data={"text": incompressible(20_000)})
    ]
    async with opened() as publisher:
        receipt = await accept(publisher, items)
        requests = await published(nats_server)
    assert receipt.accepted == len(names)
    assert len(requests) > 1
    assert ids_of(requests) == names


async def test_a_refused_part_of_a_request_does_not_claim_that_nothing_is_stored(
    opened: Opened, nats_server: NatsServer, parsed: Callable[..., Items]
) -> None:
    """The stream is full after the first of several messages."""
    items = [
        item
        for name in map(str, range(100))
        for item in parsed(name, category="free", data={"text": incompressible(20_000)})
    ]
    async with opened(queue_max_bytes=1_000_000) as publisher:
        with pytest.raises(PartlyAccepted, match="maximum bytes"):
            await accept(publisher, items)
        assert publisher.backlog == (0, 0)
        stored = ids_of(await published(nats_server))
    assert 0 < len(stored) < len(items)


async def test_an_event_that_fits_into_no_message_is_refused(
    opened: Opened, nats_server: NatsServer, parser: EventParser
) -> None:
    """Nothing of its request is published."""
    body = f'"{incompressible(1_500_000)}"'.encode()
    failures = parser.parse_body(body, "", 10, "shop")
    async with opened() as publisher:
        with pytest.raises(EventTooLarge):
            await accept(publisher, failures)
        assert publisher.backlog == (0, 0)
        await publisher._connection.connected()
        assert await published(nats_server) == []


async def test_a_client_that_leaves_frees_its_part(
    opened: Opened, nats_server: NatsServer, parsed: Callable[..., Items], until: Until
) -> None:
    """Its events are published; its part of the backlog is free after that."""
    async with opened() as publisher:
        left = asyncio.create_task(accept(publisher, parsed("a")))
        await asyncio.sleep(0)
        left.cancel()
        await until(lambda: publisher.backlog == (0, 0))
        assert ids_of(await published(nats_server)) == ["a"]


async def test_a_drain_waits_for_acknowledgements(
    opened: Opened, nats_server: NatsServer, parsed: Callable[..., Items]
) -> None:
    """A publisher that ends refuses new events and finishes the others."""
    names = [str(number) for number in range(50)]
    async with opened() as publisher:
        sent = [asyncio.create_task(accept(publisher, parsed(each))) for each in names]
        await asyncio.sleep(0)
        ending = asyncio.create_task(publisher.drain())
        await asyncio.sleep(0)
        with pytest.raises(BacklogFull, match="about to stop"):
            publisher.reserve("shop", 1)
        await ending
        assert [each.result().accepted for each in sent] == [1] * len(names)
        assert ids_of(await published(nats_server)) == names


async def test_events_of_an_application_have_one_partition(
    opened: Opened, nats_server: NatsServer, parsed: Callable[..., Items]
) -> None:
    """Its subject is that of the application, whoever publishes."""
    async with opened() as publisher:
        await accept(publisher, parsed("a"))
        await accept(publisher, parsed("b"), "office")
    client = await nats.connect(nats_server.url)
    found = await client.jetstream().stream_info(STREAM, subjects_filter=">")
    await client.close()
    subjects = {f"{STREAM}.{partition_of(each, 16)}" for each in ("shop", "office")}
    assert set(found.state.subjects or ()) == subjects


async def test_a_stream_that_takes_smaller_messages_refuses_an_event(
    opened: Opened, nats_server: NatsServer, parsed: Callable[..., Items]
) -> None:
    """An operator may have set a maximum size of messages in the stream."""
    async with opened() as publisher:
        await publisher._connection.connected()
        client = await nats.connect(nats_server.url)
        manager = client.jetstream()
        config = (await manager.stream_info(STREAM)).config
        await manager.update_stream(config.evolve(max_msg_size=100))
        await client.close()
        with pytest.raises(EventTooLarge):
            await accept(publisher, parsed("a"))
