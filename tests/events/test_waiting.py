"""Waits for events: who is woken, by what, and how waits end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from typing import Any, Final

import pytest
from sqlalchemy import insert

from service.events import waiting
from service.events.errors import WaitsFull
from service.events.feed import Feed
from service.events.feed_statements import START
from service.events.follow import JSON, Follower, Request, open_follower
from service.events.statements import EventFilter
from service.events.tables import events
from service.events.waiting import Waits
from service.keys.store import list_keys, revoke_key
from service.storage.database import Database
from service.storage.errors import StorageUnavailable
from service.web.health import TRAFFIC
from tests.conftest import Client
from tests.events.conftest import Caller, Json, at, next_page, send
from tests.events.test_feed import ALL, FEED, values_of, write_groups
from tests.metric_samples import growth, value
from tests.patience import GIVE_UP_S

WAITING: Final = "copilot_usage_events_feed_waiting"
WAITS: Final = "copilot_usage_events_feed_waits_total"
LONG: Final = {"wait_s": 30}
FILTERS: Final = (
    EventFilter(None),
    EventFilter("shop"),
    EventFilter("bank"),
    EventFilter("shop", session_id="s"),
    EventFilter(None, session_id="t"),
    EventFilter("shop", category="d", name="n"),
    EventFilter("shop", "s", "c", "m"),
    EventFilter("bank", since=0, until=1),
    EventFilter(None, since=1),
    EventFilter("bank", until=0),
)

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for events often."""
    monkeypatch.setattr(waiting, "POLL_S", 0.005)


@pytest.fixture
async def waits(database: Database) -> AsyncIterator[Waits]:
    """Waits for the events of a database."""
    waits = Waits(Feed(database))
    yield waits
    await waits.close()


async def add(database: Database, event_id: str, **more: str | int) -> None:
    """Insert an event."""
    async with database.writing() as connection:
        await connection.execute(insert(events), {**values_of(event_id), **more})


async def test_a_wait_ends_with_an_event_that_matches(
    database: Database, waits: Waits
) -> None:
    """Filters decide which requests wake, and no others do."""
    for more, expected in (
        ({}, [0, 1, 3]),
        ({"application": "bank", "session_id": "t"}, [0, 2, 4, 7]),
        ({"application": "x", "at": 1}, [0, 8]),
        ({"category": "d"}, [0, 1, 3, 5]),
        ({"session_id": "t"}, [0, 1, 4]),
        ({"name": "m"}, [0, 1, 3, 6]),
    ):
        known = await Feed(database).look()
        tasks = [asyncio.create_task(waits.wait(each, known, 60)) for each in FILTERS]
        await asyncio.sleep(0)
        await add(database, str(expected), **more)
        async with asyncio.timeout(GIVE_UP_S):
            ends = await asyncio.gather(*(tasks[place] for place in expected))
        assert set(ends) == {"events"}
        others = [each for each in tasks if not each.done()]
        assert len(others) == len(FILTERS) - len(expected)
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def test_no_event_arrives_unnoticed_before_a_wait(
    database: Database, waits: Waits
) -> None:
    """A request that knows fewer events than have been seen reads again at once."""
    known = await Feed(database).look()
    first = asyncio.create_task(waits.wait(ALL, known, 60))
    await asyncio.sleep(0)
    await add(database, "a")
    async with asyncio.timeout(GIVE_UP_S):
        assert await first == "events"
    second = asyncio.create_task(waits.wait(EventFilter("other"), known + 1, 60))
    await asyncio.sleep(0)
    assert await waits.wait(EventFilter("other"), known, 60) == "events"
    second.cancel()


async def test_a_consumer_that_waits_gets_every_event(database: Database) -> None:
    """Whatever waits and writers do at once, no event is missed or repeated."""
    async with open_follower(database) as follower:
        writers = [
            asyncio.create_task(write_groups(database, name, 20)) for name in "ab"
        ]
        readers = [
            asyncio.create_task(consume(follower, writers, event_filter))
            for event_filter in (ALL, EventFilter("shop"), EventFilter("shop", "s"))
        ]
        written = sorted(sum([await each for each in writers], list[str]()))
        for each in readers:
            assert sorted(await each) == written


async def consume(
    follower: Follower,
    writers: list[asyncio.Task[list[str]]],
    event_filter: EventFilter,
) -> list[str]:
    """Return the ids that a consumer gets until after the end of all writers."""
    found: list[str] = []
    request = Request(START, event_filter, 5, JSON)
    while True:
        is_over = all(each.done() for each in writers)
        part = await follower.wait(request, 0.02)
        if not part.content and is_over:
            return found
        found += [each.id for each in part.content or ()]
        request = request._replace(after=part.end)


async def test_places_are_bounded(database: Database) -> None:
    """A request beyond the bound is refused, until one that waits has ended."""
    waits = Waits(Feed(database), max_waits=1)
    refused = growth()
    with waits.enter("a"):
        assert value(WAITING) == 1
        with pytest.raises(WaitsFull), waits.enter("a"):
            pass
    assert value(WAITING) == 0
    assert refused("copilot_usage_events_feed_refused_total") == 1
    with waits.enter("a"):
        pass


async def test_an_application_does_not_get_all_places(database: Database) -> None:
    """The last quarter is left for others, however many requests it sends."""
    waits = Waits(Feed(database), max_waits=8)
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(waits.enter("a"))
        with pytest.raises(WaitsFull, match="6 of this application"), waits.enter("a"):
            pass
        for _ in range(2):
            stack.enter_context(waits.enter("b"))
        with pytest.raises(WaitsFull, match="8 requests"), waits.enter("b"):
            pass
        assert value(WAITING) == 8
    assert value(WAITING) == 0
    with waits.enter("a"):
        pass


async def test_a_failure_of_the_database_wakes_all(
    database: Database, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that wait find out themselves, and later ones wait again."""
    monkeypatch.setattr(waiting, "PAUSE_S", 0.001)
    look = Feed.look

    async def fail(_feed: Feed) -> int:
        monkeypatch.setattr(Feed, "look", look)
        raise StorageUnavailable("away")

    monkeypatch.setattr(Feed, "look", fail)
    async with asyncio.timeout(GIVE_UP_S):
        assert await waits.wait(ALL, 0, 60) == "events"
        again = asyncio.create_task(waits.wait(ALL, 0, 60))
        await asyncio.sleep(0)
        await add(database, "a")
        assert await again == "events"


async def test_waits_end_in_each_way(database: Database, waits: Waits) -> None:
    """By an event, by time, by a client that leaves, and by the end of the process."""
    counted = growth()
    assert await waits.wait(ALL, 0, 0.001) == "time_limit"
    tasks = [asyncio.create_task(waits.wait(ALL, 0, 60)) for _ in range(2)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    waits.end()
    assert await tasks[1] == "drain"
    assert await waits.wait(ALL, 0, 60) == "drain"
    ends = {end: counted(WAITS, end=end) for end in ("time_limit", "left", "drain")}
    assert ends == {"time_limit": 1, "left": 1, "drain": 2}


# --- requests ------------------------------------------------------------------------


async def poll(client: Client, **parameters: Any) -> tuple[int, Json, str]:
    """Return status, body and next link of a request that waits."""
    async with client.get(FEED, params={**LONG, **parameters}) as answer:
        return answer.status, await answer.json(), str(next_page(answer))


async def test_a_request_waits_for_events(caller: Caller, until: Until) -> None:
    """It is answered when an event matches, or with an empty page after its time."""
    client = await caller()
    status, body, link = await poll(client, wait_s=0.01)
    assert (status, body) == (200, {"events": []})
    waiter = asyncio.create_task(poll(client, name="wanted"))
    await until(lambda: value(WAITING) == 1)
    await send(client, at("/other"))
    await send(client, at("/wanted", name="wanted"))
    _, body, following = await waiter
    assert [each["data"]["path"] for each in body["events"]] == ["/wanted"]
    assert following != link
    assert value(WAITING) == 0
    # HEAD does not wait.
    async with client.head(FEED, params={**LONG, "name": "none"}) as answer:
        assert answer.status == 200


async def test_requests_that_wait_end_with_the_service(
    caller: Caller, until: Until
) -> None:
    """They get an empty page with the link that they came from, at once."""
    client = await caller()
    await send(client, at("/"))
    _, _, link = await poll(client)

    async def follow() -> tuple[int, Json, str]:
        async with client.get(link) as answer:
            return answer.status, await answer.json(), str(next_page(answer))

    waiters = [asyncio.create_task(follow()) for _ in range(5)]
    await until(lambda: value(WAITING) == 5)
    for end in client.app[TRAFFIC].on_stop if client.app else ():
        end()
    async with asyncio.timeout(GIVE_UP_S):
        assert await asyncio.gather(*waiters) == [(200, {"events": []}, link)] * 5
        assert await follow() == (200, {"events": []}, link)


async def test_a_key_that_is_revoked_meanwhile_gets_nothing(
    caller: Caller, until: Until, database: Database
) -> None:
    """The key of a request that has waited is checked again."""
    client = await caller(key_ttl_s=0)
    waiter = asyncio.create_task(poll(client))
    await until(lambda: value(WAITING) == 1)
    await revoke_all(database)
    await add(database, "secret")
    status, body, _ = await waiter
    assert (status, body["code"]) == (401, "unauthorized")


async def revoke_all(database: Database) -> None:
    """Revoke all keys."""
    for key in await list_keys(database):
        await revoke_key(database, key.id)
