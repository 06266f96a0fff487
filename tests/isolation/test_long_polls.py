"""Requests that wait for events, in a service on a real socket."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any, Final

from aiohttp import ClientSession, TCPConnector

from service.settings import StorageSettings
from tests.events.conftest import event, next_page, on_sqlite
from tests.events.faults.senders import calling
from tests.isolation.reading import lines, sample, until_sample
from tests.isolation.test_events import MakeService, get, post
from tests.launcher import Service

WAITING: Final = "copilot_usage_events_feed_waiting"
WAITS: Final = "copilot_usage_events_feed_waits_total"
FEED: Final = "/events?order=arrival&wait_s=30"
TIGHT: Final = {
    "server__max_in_flight": 1,
    "server__request_timeout_s": 0.2,
    "events__max_queries": 1,
    "limits__max_queue": 1,
    "events__key_rate_per_s": 1_000_000,
}
"""Bounds that a single request of another kind would reach."""
WAITERS: Final = 12

Answer = tuple[int, list[Any], str]


async def start(
    make_service: MakeService, storage: StorageSettings, **settings: object
) -> Service:
    """Start a service."""
    service = make_service(storage, **settings)
    service.start()
    await service.until_up()
    return service


async def poll(session: ClientSession, path: str = FEED) -> Answer:
    """Return the status of a request that waits, its events and the next link."""
    async with session.get(path) as answer:
        body = await answer.json()
        return answer.status, body.get("events"), str(next_page(answer))


def connected(service: Service, session: ClientSession) -> ClientSession:
    """Return a session with any number of connections, and the key of another one."""
    return ClientSession(
        f"http://127.0.0.1:{service.port}",
        headers=session.headers,
        connector=TCPConnector(limit=0),
    )


async def test_requests_that_wait_count_against_no_other_bound(
    make_service: MakeService, storage: StorageSettings, key: str
) -> None:
    """They outlast time limits, leave room for others, and all wake for one event.

    Another process stores the event.
    """
    async with AsyncExitStack() as stack:
        service = await start(make_service, storage, **TIGHT)
        other = await start(make_service, storage)
        own = await stack.enter_async_context(calling(service.port, key))
        writer = await stack.enter_async_context(calling(other.port, key))
        session = await stack.enter_async_context(connected(service, own))
        # Longer than the time limit of requests.
        assert (await poll(own, "/events?order=arrival&wait_s=0.5"))[:2] == (200, [])
        waiters = []
        for number in range(1, WAITERS + 1):
            waiters.append(asyncio.create_task(poll(session, f"{FEED}&name=wanted")))
            await until_sample(own, number, WAITING)
        # Others are in flight, are written, and run in the lane of queries.
        for number in range(3):
            assert await post(own, f"other {number}") == "202"
            assert await get(own, "/events") == "200"
        async with writer.post("/events", json=event(name="wanted")) as answer:
            assert answer.status == 202
        for status, events, _ in await asyncio.gather(*waiters):
            assert (status, len(events)) == (200, 1)
        await until_sample(own, 0, WAITING)
        assert await sample(own, WAITS, end="events") >= WAITERS


@on_sqlite
async def test_a_client_that_leaves_frees_its_place(
    make_service: MakeService, storage: StorageSettings, key: str
) -> None:
    """A request that waits ends with its connection; those that stay get the event."""
    service = await start(make_service, storage)
    async with calling(service.port, key) as own:
        waiters = []
        for number in range(1, 11):
            session = connected(service, own)
            waiters.append((session, asyncio.create_task(poll(session))))
            await until_sample(own, number, WAITING)
        for session, _ in waiters[:5]:
            await session.close()
        await until_sample(own, 5, WAITING)
        await until_sample(own, 5, WAITS, end="left")
        assert await post(own, "a") == "202"
        for session, waiter in waiters[5:]:
            assert (await waiter)[0] == 200
            await session.close()
        await asyncio.gather(*(each for _, each in waiters[:5]), return_exceptions=True)


@on_sqlite
async def test_a_drain_ends_waits_with_an_empty_page(
    make_service: MakeService, storage: StorageSettings, key: str
) -> None:
    """Each consumer can go on with the link that it has, in the next process."""
    service = await start(make_service, storage, server__drain_s=1.0)
    async with calling(service.port, key) as own, connected(service, own) as session:
        assert await post(own, "a") == "202"
        _, events, link = await poll(own)
        assert len(events) == 1
        waiters = [asyncio.create_task(poll(session, link)) for _ in range(20)]
        await until_sample(own, 20, WAITING)
        stopped = asyncio.create_task(service.stop())
        assert await asyncio.gather(*waiters) == [(200, [], link)] * 20
        assert await stopped == 0
        assert lines(service, "service.shutdown_forced") == []
