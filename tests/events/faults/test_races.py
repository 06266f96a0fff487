"""The same events sent concurrently to two processes on one database."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Final

import pytest
from aiohttp import ClientSession
from sqlalchemy import text

from service.settings import StorageSettings
from service.storage.database import Database
from tests.events.conftest import event
from tests.events.faults.senders import all_events, calling
from tests.launcher import Service
from tests.patience import GIVE_UP_S

IDS: Final = [f"event {number}" for number in range(100)]
CLIENTS: Final = 8
OTHER: Final = {"host": "www.example.com", "path": "/other"}
Body = list[dict[str, object]]


@pytest.fixture
async def two(
    storage: StorageSettings, key: str, make_service: Callable[..., Service]
) -> AsyncIterator[list[ClientSession]]:
    """Sessions with two processes that share one database."""
    first, second = make_service(storage), make_service(storage)
    for service in (first, second):
        service.start()
    async with calling(first.port, key) as one, calling(second.port, key) as other:
        for service in (first, second):
            await service.until_up()
        yield [one, other]


async def post_all(
    sessions: list[ClientSession], bodies: list[Body]
) -> dict[str, Counter[str]]:
    """Post all bodies concurrently, to each process in turn; count statuses by id."""
    statuses: dict[str, Counter[str]] = {}

    async def post(session: ClientSession, body: Body) -> None:
        async with session.post("/events", json=body) as response:
            assert response.status == 202, await response.text()
            for each in (await response.json())["results"]:
                statuses.setdefault(each["id"], Counter())[each["status"]] += 1

    async with asyncio.timeout(GIVE_UP_S), asyncio.TaskGroup() as tasks:
        for number, body in enumerate(bodies):
            tasks.create_task(post(sessions[number % len(sessions)], body))
    return statuses


def shuffled(copies: int, **more: object) -> list[Body]:
    """Return copies of the same events, each in another order, split into requests."""
    chance = random.Random(7)
    bodies: list[Body] = []
    for _ in range(copies):
        ids = IDS.copy()
        chance.shuffle(ids)
        while ids:
            size = chance.choice([1, 5, 50])
            bodies.append([event(id=each, **more) for each in ids[:size]])
            del ids[:size]
    return bodies


def every(**statuses: int) -> dict[str, Counter[str]]:
    """Return these numbers of statuses for each id."""
    return {each: Counter(statuses) for each in IDS}


async def test_each_event_is_accepted_once(two: list[ClientSession]) -> None:
    """One request gets `accepted` for an event, all others `duplicate`."""
    copies = CLIENTS * len(two)
    statuses = await post_all(two, shuffled(copies))
    assert statuses == every(accepted=1, duplicate=copies - 1)
    assert sorted(each["id"] for each in await all_events(two[0])) == sorted(IDS)


async def test_of_two_contents_one_is_stored(two: list[ClientSession]) -> None:
    """One content of an id is stored; the other is a conflict each time."""
    pairs = zip(shuffled(CLIENTS), shuffled(CLIENTS, data=OTHER), strict=True)
    statuses = await post_all(two, [body for pair in pairs for body in pair])
    assert statuses == every(accepted=1, duplicate=CLIENTS - 1, conflict=CLIENTS)
    assert len(await all_events(two[0])) == len(IDS)
    async with two[0].get("/events/failed", params={"limit": "1000"}) as response:
        failed = (await response.json())["failed"]
    assert sorted(each["event"]["id"] for each in failed) == sorted(IDS)


async def test_without_the_unique_index_events_are_duplicated(
    two: list[ClientSession], database: Database
) -> None:
    """Without the unique index of the database each event is stored twice."""
    async with database.writing() as connection:
        await connection.execute(text("DROP INDEX ux_events_id"))
    body = [event(id=each) for each in IDS]
    statuses = await post_all(two, [body] * len(two))
    assert statuses == every(accepted=len(two))
    stored = Counter(each["id"] for each in await all_events(two[0]))
    assert stored == Counter(IDS * len(two))
