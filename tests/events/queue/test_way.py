"""The way of an event through a real stream, from its request to the database."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from service.events.feed_handlers import FOLLOWER
from service.events.receiving import COLLECTOR
from service.keys.handlers import DATABASE
from tests.conftest import Client
from tests.events.conftest import Caller, Json, ask, event, on_sqlite, send
from tests.nats_servers import NatsServer
from tests.patience import GIVE_UP_S

Until = Callable[[Callable[[], bool]], Awaitable[None]]


async def stored(client: Client) -> list[str]:
    """Wait until events are stored; return their ids."""
    listed: list[str] = []
    while not listed:
        listed = [each["id"] for each in (await ask(client, "/events"))["events"]]
    return listed


async def send_and_wait(client: Client, *events: Json) -> Json:
    """Send events and wait until they are stored; return the receipt."""
    parameters = {"wait": "stored"}
    async with client.post("/events", json=list(events), params=parameters) as answer:
        assert answer.status == 202, await answer.text()
        receipt: Json = await answer.json()
        return receipt


@on_sqlite
async def test_events_are_accepted_by_the_stream_and_stored_by_a_writer(
    caller: Caller, nats_server: NatsServer
) -> None:
    """The receipt says what is known; the event is stored soon, as it was sent."""
    client = await caller(queue_url=nats_server.url, queue_replicas=1)

    receipt = await send(client, event(id="a"), event(id="b", category=""))

    statuses = [each["status"] for each in receipt["results"]]
    assert (statuses, receipt["stored"]) == (["accepted", "failed"], False)
    assert await stored(client) == ["a"]
    failed = (await ask(client, "/events/failed"))["failed"]
    assert [each["event"]["id"] for each in failed] == ["b"]


@on_sqlite
async def test_a_request_may_wait_for_the_outcome_of_its_events(
    caller: Caller, nats_server: NatsServer
) -> None:
    """The writer tells it duplicates and conflicts, in the order sent."""
    client = await caller(queue_url=nats_server.url, queue_replicas=1)
    await send_and_wait(client, event(id="a"), event(id="b"))

    other = event(id="b", session_id="another")
    receipt = await send_and_wait(client, event(id="a"), other, event(id="c"), {})

    statuses = [each["status"] for each in receipt["results"]]
    assert statuses == ["duplicate", "conflict", "accepted", "failed"]
    assert receipt["stored"] is True
    assert [receipt[each] for each in ("accepted", "duplicates", "failed")] == [1, 1, 2]
    conflict = receipt["results"][1]["failed_id"]
    failed = (await ask(client, "/events/failed"))["failed"]
    (kept,) = [each["event"] for each in failed if each["id"] == conflict]
    assert kept == other


@on_sqlite
async def test_a_wait_for_storage_ends_without_a_writer(
    caller: Caller, nats_server: NatsServer
) -> None:
    """The events are accepted; the receipt says that they are not stored yet."""
    client = await caller(
        queue_url=nats_server.url,
        queue_replicas=1,
        queue_writer=False,
        stored_wait_s=0.05,
    )
    receipt = await send_and_wait(client, event(id="a"))
    assert (receipt["results"], receipt["stored"]) == (
        [{"id": "a", "status": "accepted"}],
        False,
    )


@on_sqlite
async def test_a_wait_for_storage_needs_no_queue(caller: Caller) -> None:
    """Without a queue, events are stored in any case, and a receipt is as ever."""
    client = await caller()
    receipt = await send_and_wait(client, event(id="a"))
    assert "stored" not in receipt
    assert (await send_and_wait(client, event(id="a")))["duplicates"] == 1


@on_sqlite
async def test_small_requests_reach_the_stream_by_the_short_way(
    caller: Caller, nats_server: NatsServer, until: Until
) -> None:
    """Repeated small requests go to the publisher without routing."""
    client = await caller(queue_url=nats_server.url, queue_replicas=1)
    for number in range(5):
        receipt = await send(client, event(id=str(number)))
        assert receipt["stored"] is False
    listed: list[str] = []
    while len(listed) < 5:
        listed = [each["id"] for each in (await ask(client, "/events"))["events"]]
    assert sorted(listed) == list("01234")


@on_sqlite
async def test_a_stock_client_uses_the_stream(
    caller: Caller, nats_server: NatsServer
) -> None:
    """Calls of Segment's format are stored with their context, from the stream."""
    client = await caller(queue_url=nats_server.url, queue_replicas=1)
    call = {
        "messageId": "m",
        "anonymousId": "s",
        "event": "Paid",
        "type": "track",
        "properties": {"total": 1},
        "timestamp": "2021-01-01T09:15:27Z",
        "context": {"page": "/"},
    }
    async with client.post("/v1/batch", json={"batch": [call, call]}) as answer:
        assert (answer.status, await answer.json()) == (200, {"success": True})
    assert await stored(client) == ["m"]
    (only,) = (await ask(client, "/events"))["events"]
    assert only["context"]["context"] == {"page": "/"}


@on_sqlite
@pytest.mark.parametrize("body", [b"", b"{", b"[1", b"\xff"], ids=repr)
async def test_a_body_that_is_not_json_is_refused_before_the_stream(
    caller: Caller, nats_server: NatsServer, body: bytes
) -> None:
    """It is refused as without a queue."""
    client = await caller(queue_url=nats_server.url, queue_replicas=1)
    async with client.post("/events", data=body) as answer:
        assert (answer.status, (await answer.json())["code"]) == (400, "not_json")


@on_sqlite
async def test_a_collector_is_ready_without_its_database(
    caller: Caller, nats_server: NatsServer
) -> None:
    """It depends on the stream only, and keys are those of the last read."""
    client = await caller(queue_url=nats_server.url, queue_replicas=1)
    await send(client, event(id="a"))
    assert client.app is not None
    client.app[DATABASE].breaker.force(is_open=True)

    assert (await send(client, event(id="b")))["accepted"] == 1
    async with client.get("/health/ready", params={"for": "events"}) as answer:
        assert answer.status == 200

    nats_server.kill()
    status = 200
    while status == 200:
        async with client.get("/health/ready", params={"for": "events"}) as answer:
            status = answer.status
    async with client.post("/events", json=event(id="c")) as answer:
        problem = await answer.json()
        assert (answer.status, problem["code"]) == (503, "queue_unavailable")
        assert answer.headers["Retry-After"] == "1"


@on_sqlite
async def test_two_collectors_of_one_stream_accept_an_event_once(
    caller: Caller, nats_server: NatsServer
) -> None:
    """One of two requests at the same moment has a duplicate, by its outcome."""
    queue = {"queue_url": nats_server.url, "queue_replicas": 1, "stored_wait_s": 60}
    clients = [await caller(**queue), await caller(**queue)]
    number = 10
    for each in range(number):
        sent = (send_and_wait(client, event(id=f"{each}")) for client in clients)
        receipts = await asyncio.gather(*sent)
        assert [each["stored"] for each in receipts] == [True, True]
        assert sorted(each["duplicates"] for each in receipts) == [0, 1]
    assert len((await ask(clients[0], "/events"))["events"]) == number


@on_sqlite
async def test_a_client_that_leaves_frees_its_place_to_wait(
    caller: Caller, nats_server: NatsServer, until: Until
) -> None:
    """Without a place, a request is refused before its events are accepted."""
    client = await caller(
        queue_url=nats_server.url,
        queue_replicas=1,
        queue_writer=False,
        stored_wait_s=GIVE_UP_S,
    )
    assert client.app is not None
    waits, collector = client.app[FOLLOWER].waits, client.app[COLLECTOR]
    waits._max_waits = 1
    waiting = asyncio.create_task(send_and_wait(client, event(id="a")))
    await until(lambda: waits._entered.total() == 1)
    parameters = {"wait": "stored"}
    async with client.post("/events", json=event(), params=parameters) as answer:
        problem = await answer.json()
        assert (answer.status, problem["code"]) == (503, "event_waits_full")
        assert "Retry-After" in answer.headers
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    await until(lambda: waits._entered.total() == 0)
    assert collector.backlog == (0, 0)
