"""The way of an event through a real stream, from its request to the database."""

from collections.abc import Awaitable, Callable

from tests.events.conftest import Caller, ask, event, on_sqlite, send
from tests.nats_servers import NatsServer

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@on_sqlite
async def test_events_are_accepted_by_the_stream_and_stored_by_a_writer(
    caller: Caller, nats_server: NatsServer
) -> None:
    """The receipt says what is known; the event is stored soon, as it was sent."""
    client = await caller(queue_url=nats_server.url, queue_replicas=1)

    receipt = await send(client, event(id="a"), event(id="b", category=""))

    statuses = [each["status"] for each in receipt["results"]]
    assert (statuses, receipt["stored"]) == (["accepted", "failed"], False)
    listed: list[str] = []
    while not listed:
        listed = [each["id"] for each in (await ask(client, "/events"))["events"]]
    assert listed == ["a"]
    failed = (await ask(client, "/events/failed"))["failed"]
    assert [each["event"]["id"] for each in failed] == ["b"]
