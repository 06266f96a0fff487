"""Writers on a real stream: order, leases, messages that cannot be stored, outages."""

import asyncio
import json
import math
import random
from base64 import b64decode
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Final, Never

import asyncpg
import pytest
from msgspec.structs import replace
from nats.aio.client import Client
from nats.js.manager import JetStreamManager
from sqlalchemy import select
from sqlalchemy.engine import make_url
from structlog.typing import EventDict

from service.events.errors import QueueUnavailable
from service.events.model import EventFailure
from service.events.parsing import EventParser
from service.events.queue.connection import connect, open_connection
from service.events.queue.deliveries import consumer_of
from service.events.queue.leases import Lease, Leases, bucket_of, share_of
from service.events.queue.message import QueuedRequest, encode
from service.events.queue.storing import PAUSE_S
from service.events.queue.stream import ensure_stream
from service.events.queue.watch import StreamWatch
from service.events.queue.writer import (
    PartitionWriter,
    QueueWriter,
    Shared,
    open_writer,
)
from service.events.store import EventStore, ReceivedEvent, Stored
from service.events.tables import events, failed_events
from service.settings import EventsSettings, StorageSettings
from service.storage.database import Database, open_database
from service.storage.errors import StorageUnavailable, ValueRefused
from tests.conftest import POSTGRESQL
from tests.events.conftest import event, on_sqlite
from tests.events.queue.publishing import Publisher, publishing, with_time
from tests.nats_servers import NatsServer
from tests.patience import GIVE_UP_S
from tests.running import LOOK_AGAIN_S, until

MakeQueue = Callable[..., EventsSettings]
on_postgresql: Final = pytest.mark.parametrize("storage", ["postgresql"], indirect=True)


def sent(event_id: str, **more: Any) -> bytes:
    """Return an event as an application sends it."""
    return json.dumps(event(id=event_id, **more)).encode()


async def until_stored(publisher: Publisher) -> None:
    """Wait until the stream has no message any more."""
    async with asyncio.timeout(GIVE_UP_S):
        while await publisher.left():  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(LOOK_AGAIN_S)


async def ids_in_feed(database: Database) -> list[str]:
    """Return the ids of all events, in the order of the feed."""
    async with database.reading() as connection:
        query = select(events.c.id).order_by(events.c.position)
        return list(await connection.scalars(query))


async def failed(database: Database) -> list[Any]:
    """Return all failed events, in the order of their ids."""
    async with database.reading() as connection:
        query = select(failed_events).order_by(failed_events.c.id)
        return list((await connection.execute(query)).all())


async def test_events_are_stored_in_the_order_of_arrival(
    queue_settings: MakeQueue, parser: EventParser, database: Database
) -> None:
    """The feed has the order of the stream, also where later events are older."""
    settings = queue_settings()
    async with publishing(settings, parser) as publisher:
        for number in range(40):
            timestamp = f"2021-01-01 09:15:{59 - number}"
            texts = [sent(f"{number}-{n}", timestamp=timestamp) for n in "ab"]
            await publisher.publish(publisher.items(*texts))
        async with open_writer(settings, database):
            await until_stored(publisher)

    assert await ids_in_feed(database) == [f"{n}-{x}" for n in range(40) for x in "ab"]


@on_sqlite
async def test_the_time_of_arrival_is_that_of_the_stream(
    queue_settings: MakeQueue, parser: EventParser, database: Database
) -> None:
    """An event that waits for a writer has arrived when the stream got it."""
    settings = queue_settings()
    async with publishing(settings, parser) as publisher:
        items = publisher.items(sent("a"), sent("b"))
        place = await publisher.publish(items)
        message = await publisher.context.get_msg(settings.queue_stream, place)
        async with open_writer(settings, database):
            await until_stored(publisher)

    async with database.reading() as connection:
        query = select(events.c.received_at).order_by(events.c.position)
        arrivals = list(await connection.scalars(query))
    assert message.time is not None
    arrived_at = int(message.time.timestamp() * 1_000_000)
    # The time of the message has a fraction that a float rounds.
    assert abs(arrivals[0] - arrived_at) <= 1
    assert arrivals[1] == arrivals[0] + 1


class Away(EventStore):
    """A store whose database is away for so many attempts."""

    def __init__(self, database: Database, attempts: int) -> None:
        super().__init__(database, keeps_order=True)
        self.attempts = attempts

    async def store(self, received: Sequence[ReceivedEvent]) -> list[Stored]:
        """Fail, or store."""
        self.attempts -= 1
        if self.attempts >= 0:
            raise StorageUnavailable("the server is not there")
        return await super().store(received)


@on_sqlite
async def test_a_database_that_is_away_delays_all_and_skips_none(
    queue_settings: MakeQueue,
    parser: EventParser,
    database: Database,
    log_entries: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The messages in hand are stored again and again, before any later ones."""
    monkeypatch.setattr("service.events.queue.storing.PAUSE_S", PAUSE_S / 100)
    store = Away(database, 20)
    monkeypatch.setattr(
        "service.events.queue.writer.EventStore", lambda *_, **__: store
    )
    settings = queue_settings()
    async with publishing(settings, parser) as publisher:
        await publisher.publish(publisher.items(sent("a")))
        async with open_writer(settings, database):
            await until(lambda: store.attempts < 10)
            await publisher.publish(publisher.items(sent("b")))
            await until_stored(publisher)

    assert await ids_in_feed(database) == ["a", "b"]
    refused = [
        each for each in log_entries if each["event"] == "events.queue_not_stored"
    ]
    # One line for the whole outage.
    assert [each["reason"] for each in refused] == ["the server is not there"]


SLOW: Final = """
CREATE FUNCTION {schema}.wait() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_sleep(0.05); RETURN NEW; END';
CREATE TRIGGER wait BEFORE INSERT ON {schema}.events
    FOR EACH ROW EXECUTE FUNCTION {schema}.wait()
"""


@on_postgresql
async def test_a_database_of_20_rows_a_second_stores_all_events(
    queue_settings: MakeQueue,
    parser: EventParser,
    storage: StorageSettings,
    log_entries: list[EventDict],
) -> None:
    """A request needs several transactions, each within `storage.timeout_s`."""
    connection = await asyncpg.connect(POSTGRESQL)
    schema = make_url(storage.url).query["schema"]
    await connection.execute(SLOW.format(schema=schema))
    await connection.close()
    settings = queue_settings()
    ids = [f"{number:04}" for number in range(60)]
    async with (
        open_database(replace(storage, timeout_s=1.0)) as database,
        publishing(settings, parser) as publisher,
    ):
        await publisher.publish(publisher.items(*map(sent, ids)))
        async with open_writer(settings, database):
            await until_stored(publisher)
        assert await ids_in_feed(database) == ids
    (first, *_) = (
        each for each in log_entries if each["event"] == "events.queue_not_stored"
    )
    assert (first["error.type"], first["events"]) == ("StorageTimeout", 60)


@pytest.mark.parametrize(
    "message, application",
    [
        pytest.param(b"\xc1not MessagePack", "unknown", id="no message"),
        pytest.param(b"", "unknown", id="empty"),
        pytest.param(b"\x93\x63\xa4desk\x90", "desk", id="another version"),
        pytest.param(b"\x92\x01\xa4desk", "desk", id="too short"),
        pytest.param(b"\x91" * 5_000, "unknown", id="nested deeply"),
    ],
)
@on_sqlite
async def test_a_message_that_cannot_be_decoded_is_kept_as_a_failed_event(
    queue_settings: MakeQueue,
    parser: EventParser,
    database: Database,
    message: bytes,
    application: str,
) -> None:
    """It does not block the events behind it, and comes back no more."""
    settings = queue_settings()
    async with publishing(settings, parser) as publisher:
        await publisher.publish_bytes(message)
        async with open_writer(settings, database):
            # Alone in its batch, of which nothing else is new.
            await until_stored(publisher)
            await publisher.publish(publisher.items(sent("behind")))
            await until_stored(publisher)

    (kept,) = await failed(database)
    assert (kept.application, kept.codes) == (application, "bad_message")
    assert await ids_in_feed(database) == ["behind"]


@pytest.mark.parametrize(
    "reply_to",
    [
        pytest.param("no subject", id="blank"),
        pytest.param("_INBOX.a\r\nPING\r\nPUB b", id="commands"),
        pytest.param("_INBOX.a\n", id="line feed"),
        pytest.param("_INBOX.*", id="wildcard"),
        pytest.param("_INBOX." + "a" * 5_000, id="long"),
        pytest.param("$JS.API.STREAM.PURGE.copilot_usage_events", id="API"),
    ],
)
@on_sqlite
async def test_an_invalid_address_for_the_outcome_disturbs_no_others(
    queue_settings: MakeQueue,
    parser: EventParser,
    database: Database,
    log_entries: list[EventDict],
    reply_to: str,
) -> None:
    """The server would close the connection, or the writer would do what it says."""
    settings = queue_settings()
    async with publishing(settings, parser) as publisher:
        items = publisher.items(sent("a"))
        foreign = QueuedRequest("shop", items, reply_to=reply_to)
        await publisher.publish_bytes(encode(foreign))
        await publisher.publish(publisher.items(sent("behind")))
        async with open_writer(settings, database):
            await until_stored(publisher)
            await publisher.publish(publisher.items(sent("later")))
            await until_stored(publisher)

    (kept,) = await failed(database)
    assert (kept.application, kept.codes) == ("shop", "bad_message")
    assert await ids_in_feed(database) == ["behind", "later"]
    logged = {each["event"] for each in log_entries}
    assert not logged & {"events.queue_session_ended", "events.queue_lost"}


async def test_an_event_that_the_database_refuses_is_kept_as_a_failed_event(
    queue_settings: MakeQueue,
    parser: EventParser,
    database: Database,
    log_entries: list[EventDict],
) -> None:
    """Only this event fails; its log line has the ids of its request."""
    settings = queue_settings()
    async with publishing(settings, parser) as publisher:
        items = publisher.items(*(sent(each) for each in "abc"))
        # No number of the database is so large.
        ids = ("request", f"00-{'a' * 32}-{'b' * 16}-01")
        too_large = QueuedRequest("shop", [with_time(items[1], 2**63)], *ids)
        await publisher.publish([items[0]])
        await publisher.publish_bytes(encode(too_large))
        await publisher.publish([items[2]])
        async with open_writer(settings, database):
            await until_stored(publisher)

    (kept,) = await failed(database)
    assert (kept.application, kept.codes) == ("shop", "value_refused")
    assert kept.event_id == "b"
    refused = "events.queue_event_refused"
    (line,) = [each for each in log_entries if each["event"] == refused]
    names = ("request_id", "trace_id", "span_id")
    assert [line[each] for each in names] == ["request", "a" * 32, "b" * 16]
    assert await ids_in_feed(database) == ["a", "c"]


LONG: Final = random.Random(1).randbytes(5_000).hex()
"""More than an index of PostgreSQL takes, also compressed."""


@pytest.mark.parametrize(
    "application, text",
    [
        pytest.param(LONG, sent("a"), id="long"),
        pytest.param("a\0b", sent("a"), id="NUL"),
        pytest.param(LONG, b"{", id="a long one of a failed event"),
    ],
)
@on_postgresql
async def test_an_application_that_the_database_refuses_blocks_no_partition(
    queue_settings: MakeQueue,
    parser: EventParser,
    database: Database,
    log_entries: list[EventDict],
    *,
    application: str,
    text: bytes,
) -> None:
    """Another program may publish anything: what can be kept is a failed event."""
    async with publishing(queue_settings(), parser) as publisher:
        items = publisher.items(text, application=application)
        message = encode(QueuedRequest(application, items, "request"))
        await publisher.publish_bytes(message)
        async with open_writer(queue_settings(), database):
            # Alone in its batch, of which nothing else is new.
            await until_stored(publisher)
            await publisher.publish(publisher.items(sent("behind")))
            await until_stored(publisher)

    (kept,) = await failed(database)
    assert (kept.application, kept.codes) == ("unknown", "value_refused")
    assert application[:50].encode() in b64decode(kept.event)
    refused = "events.queue_event_refused"
    (line,) = [each for each in log_entries if each["event"] == refused]
    assert (line["request_id"], line["application"]) == ("request", application[:200])
    assert await ids_in_feed(database) == ["behind"]


class NoFailures(EventStore):
    """A store that takes events, and refuses all failed events."""

    refusal: Exception = ValueRefused("not this one")

    async def store(self, received: Sequence[ReceivedEvent]) -> list[Stored]:
        """Raise the refusal if there is a failed event."""
        if any(isinstance(each.item, EventFailure) for each in received):
            raise self.refusal
        return await super().store(received)


@on_sqlite
async def test_a_failed_event_that_is_always_refused_is_logged_and_acknowledged(
    queue_settings: MakeQueue,
    parser: EventParser,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    log_entries: list[EventDict],
) -> None:
    """It blocks its partition no more."""
    monkeypatch.setattr("service.events.queue.writer.EventStore", NoFailures)
    async with publishing(queue_settings(), parser) as publisher:
        items = publisher.items(b"{")
        await publisher.publish_bytes(encode(QueuedRequest("shop", items, "request")))
        async with open_writer(queue_settings(), database):
            # Alone in its batch, of which nothing else is new.
            await until_stored(publisher)
            await publisher.publish(publisher.items(sent("behind")))
            await until_stored(publisher)

    lost = "events.queue_event_lost"
    (line,) = [each for each in log_entries if each["event"] == lost]
    assert (line["request_id"], line["reason"]) == ("request", "not this one")
    assert await failed(database) == []
    assert await ids_in_feed(database) == ["behind"]


def test_shares_are_even_and_add_up() -> None:
    """No writer has two partitions more than another one."""
    for writers in range(1, 20):
        every = frozenset(map(str, range(writers)))
        shares = [share_of(each, every, 16) for each in every]
        assert sum(shares) == 16
        assert max(shares) - min(shares) <= 1


@on_sqlite
async def test_writers_share_the_partitions(
    queue_settings: MakeQueue, parser: EventParser, database: Database
) -> None:
    """A new writer gets its share, and the others have it back when it ends."""
    settings = queue_settings(queue_partitions=5)
    every = frozenset(range(5))

    def are_shared(*writers: QueueWriter) -> bool:
        owned = [each.partitions for each in writers]
        sizes = sorted(map(len, owned))
        return frozenset().union(*owned) == every and sizes[-1] - sizes[0] <= 1

    async with publishing(settings, parser) as publisher, AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_writer(settings, database))
        await until(lambda: first.partitions == every)
        async with (
            open_writer(settings, database) as second,
            open_writer(settings, database) as third,
        ):
            await until(lambda: are_shared(first, second, third))
        await until(lambda: first.partitions == every)
        await stack.aclose()
        assert await publisher.leases() == set()


@on_sqlite
async def test_a_lease_that_cannot_be_given_back_keeps_no_partition(
    queue_settings: MakeQueue, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends by itself; the others are given back, and nobody renews any of them."""
    settings = queue_settings(queue_partitions=8)
    every = frozenset(range(8))
    remove, failures = JetStreamManager.delete_msg, iter([TimeoutError()])

    async def fail_once(manager: JetStreamManager, *arguments: Any) -> bool:
        for failure in failures:
            raise failure
        return await remove(manager, *arguments)

    monkeypatch.setattr(JetStreamManager, "delete_msg", fail_once)
    async with open_writer(settings, database) as first:
        await until(lambda: first.partitions == every)
        async with open_writer(settings, database) as second:
            await until(lambda: len(second.partitions) == 4)
            await until(lambda: first.partitions | second.partitions == every)
    assert list(failures) == []


@on_sqlite
async def test_a_bucket_that_loses_its_leases_doubles_no_partition(
    queue_settings: MakeQueue,
    parser: EventParser,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two sessions of one partition would end each other for ever."""
    settings = queue_settings(queue_partitions=8)
    every = frozenset(range(8))
    renew, purged = Leases.renew, asyncio.Event()

    async def renew_and_lose(leases: Leases, client: Client) -> None:
        await renew(leases, client)
        if len(leases.owned) == 4 and not purged.is_set():
            purged.set()
            bucket = f"KV_{bucket_of(settings.queue_stream)}"
            await client.jetstream().purge_stream(bucket)

    async with (
        publishing(settings, parser),
        open_writer(settings, database) as first,
        open_writer(settings, database) as second,
    ):
        await until(lambda: len(first.partitions) == len(second.partitions) == 4)
        monkeypatch.setattr(Leases, "renew", renew_and_lose)
        await purged.wait()
        await until(lambda: len(first.partitions) == len(second.partitions) == 4)
        await until(lambda: first.partitions | second.partitions == every)
    running = [repr(each.get_coro()) for each in asyncio.all_tasks()]
    assert not [each for each in running if "PartitionWriter" in each]


@on_sqlite
async def test_a_writer_signs_off_although_a_lease_is_not_given_back(
    queue_settings: MakeQueue,
    parser: EventParser,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise a share of the partitions is kept for it until its value expires."""
    settings = queue_settings(queue_lease_s=600.0)
    remove, unanswered = JetStreamManager.delete_msg, [asyncio.Event()]

    async def remove_others(manager: JetStreamManager, *arguments: Any) -> bool:
        if unanswered:
            await unanswered.pop().wait()
        return await remove(manager, *arguments)

    async with publishing(settings, parser) as publisher:
        async with open_writer(settings, database) as writer:
            await until(lambda: len(writer.partitions) == 4)
            monkeypatch.setattr(JetStreamManager, "delete_msg", remove_others)
        (left,) = await publisher.leases()
    assert left.startswith("partition.")


@on_sqlite
async def test_deliveries_that_another_one_took_are_delivered_again(
    queue_settings: MakeQueue, parser: EventParser, database: Database
) -> None:
    """A former owner that takes messages from the consumer breaks no order."""
    settings = queue_settings(queue_partitions=1)
    async with (
        publishing(settings, parser) as publisher,
        open_writer(settings, database),
    ):
        await publisher.publish(publisher.items(sent("first")))
        await until_stored(publisher)
        thief = await publisher.context.pull_subscribe_bind(
            consumer_of(0), settings.queue_stream
        )
        for number in range(50):
            await publisher.publish(publisher.items(sent(str(number))))
            with suppress(TimeoutError):
                await thief.fetch(1, timeout=0.01)
        await until_stored(publisher)

    assert await ids_in_feed(database) == ["first", *map(str, range(50))]


async def test_a_lost_lease_is_noticed(
    queue_settings: MakeQueue, parser: EventParser
) -> None:
    """A writer that was stalled forgets the lease that another one has by now."""
    settings = queue_settings()
    stalled, other = Leases(settings), Leases(settings)
    async with publishing(settings, parser) as publisher:
        client = await connect(settings, "test")
        await stalled.open(client)
        assert await stalled.acquire(client, 3)
        assert not await other.acquire(client, 3)
        while not await other.acquire(client, 3):  # noqa: ASYNC110 - it ends by itself
            await asyncio.sleep(LOOK_AGAIN_S)
        # What has another revision is not released.
        lease = stalled.owned[3]
        await stalled.renew(client)
        assert stalled.owned == {}
        stalled.owned[3] = lease
        await stalled.release(client, [3])
        assert "partition.3" in await publisher.leases()
        await client.close()


@on_sqlite
async def test_a_server_that_restarts(
    queue_settings: MakeQueue,
    parser: EventParser,
    database: Database,
    nats_server: NatsServer,
) -> None:
    """The writer connects again, and goes on with what is not stored."""
    settings = queue_settings()
    async with open_writer(settings, database):
        async with publishing(settings, parser) as publisher:
            await publisher.publish(publisher.items(sent("before")))
            await until_stored(publisher)
        nats_server.kill()
        nats_server.start()
        async with publishing(settings, parser) as publisher:
            await publisher.publish(publisher.items(sent("after")))
            await until_stored(publisher)

    assert await ids_in_feed(database) == ["before", "after"]


@on_sqlite
async def test_a_stream_that_is_deleted_makes_its_writer_not_ready(
    queue_settings: MakeQueue, parser: EventParser, database: Database
) -> None:
    """Its leases are in another stream, and are renewed all the same."""
    settings = queue_settings()
    async with (
        publishing(settings, parser) as publisher,
        open_writer(settings, database) as writer,
    ):
        await until(lambda: len(writer.partitions) == 4)
        assert await writer.check_ready() is None
        await publisher.context.delete_stream(settings.queue_stream)
        await writer.stream.read()
        assert await writer.check_ready() is not None

        client = await connect(settings, "test")
        await ensure_stream(client, settings)
        await client.close()
        await publisher.publish(publisher.items(sent("a")))
        await until_stored(publisher)
        await writer.stream.read()
        assert await writer.check_ready() is None


@on_postgresql
async def test_a_database_that_stores_no_events_makes_its_writer_not_ready(
    queue_settings: MakeQueue,
    parser: EventParser,
    storage: StorageSettings,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may answer all the same: a privilege or a table may be missing."""
    monkeypatch.setattr("service.events.queue.storing.AWAY_AFTER_S", 0.0)
    schema = make_url(storage.url).query["schema"]
    rename = f"ALTER TABLE {schema}.{{}} RENAME TO {{}}"
    connection = await asyncpg.connect(POSTGRESQL)
    settings = queue_settings()
    async with (
        publishing(settings, parser) as publisher,
        open_writer(settings, database) as writer,
    ):
        await publisher.publish(publisher.items(sent("a")))
        await until_stored(publisher)
        assert await writer.check_ready() is None
        await connection.execute(rename.format("events", "away"))
        await publisher.publish(publisher.items(sent("b")))
        async with asyncio.timeout(GIVE_UP_S):
            while await writer.check_ready() is None:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_AGAIN_S)
        await connection.execute(rename.format("away", "events"))
        await until_stored(publisher)
        assert await writer.check_ready() is None
    await connection.close()
    assert await ids_in_feed(database) == ["a", "b"]


@on_sqlite
async def test_a_server_that_has_lost_its_disk_is_reported(
    queue_settings: MakeQueue,
    parser: EventParser,
    database: Database,
    log_entries: list[EventDict],
    nats_server: NatsServer,
) -> None:
    """The new stream works; events that waited in the former one are lost."""
    settings = queue_settings()
    replaced = "events.queue_stream_replaced"
    async with publishing(settings, parser) as publisher:
        await publisher.publish(publisher.items(sent("lost")))
    async with open_connection(settings, "test") as connection:
        await connection.connected()
        watch = StreamWatch(connection, settings.queue_stream)
        await watch.read()
        for is_empty in (False, True):
            nats_server.kill()
            await until(lambda: not connection.is_open)
            if is_empty:
                nats_server.lose_store()
            nats_server.start()
            await connection.connected()
            async with publishing(settings, parser):
                await watch.read()
            found = [each for each in log_entries if each["event"] == replaced]
            assert [each["messages"] for each in found] == [1] * is_empty
    async with (
        publishing(settings, parser) as publisher,
        open_writer(settings, database),
    ):
        await publisher.publish(publisher.items(sent("a")))
        await until_stored(publisher)
    assert await ids_in_feed(database) == ["a"]


@on_sqlite
async def test_no_session_begins_with_a_lease_that_has_ended(
    queue_settings: MakeQueue, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would delete the consumer of the new owner, and end the owner's session."""
    settings = queue_settings(queue_partitions=1)
    leases, began = Leases(settings), list[float]()

    def begin(*_: object) -> Never:
        began.append(leases.owned[0].ends_at)
        raise QueueUnavailable("this test has no consumer")

    monkeypatch.setattr("service.events.queue.writer.PAUSE_S", LOOK_AGAIN_S)
    monkeypatch.setattr("service.events.queue.writer.Deliveries", begin)
    leases.owned[0] = Lease(revision=1, ends_at=0.0)
    async with open_connection(settings, "test") as connection:
        store = EventStore(database, keeps_order=True)
        shared = Shared(settings, connection, store, leases, asyncio.Semaphore())
        writer = PartitionWriter(shared, 0)
        await connection.connected()
        await asyncio.sleep(10 * LOOK_AGAIN_S)
        # A renewal on its way may come in time after all.
        leases.owned[0].ends_at = math.inf
        await until(lambda: bool(began))
        writer.stop()
        await asyncio.wait([writer.task])
    assert set(began) == {math.inf}


@on_sqlite
async def test_leases_end_while_no_server_answers(
    queue_settings: MakeQueue,
    database: Database,
    log_entries: list[EventDict],
    nats_server: NatsServer,
) -> None:
    """A writer that is cut off knows that others may have its partitions by now."""
    settings = queue_settings()
    every = frozenset(range(4))
    async with open_writer(settings, database) as writer:
        await until(lambda: writer.partitions == every)
        nats_server.kill()
        await until(lambda: not writer.partitions)
        nats_server.start()
        await until(lambda: writer.partitions == every)

    lost = "events.queue_partitions_lost"
    (line,) = [each for each in log_entries if each["event"] == lost]
    assert line["partitions"] == sorted(every)
