"""The client during kills and restarts of the service."""

import asyncio
from collections.abc import Callable

import pytest
from sqlalchemy import select

from service.events.client import EventsClient, Undelivered, delivery
from service.events.tables import events as events_table
from service.settings import StorageSettings
from service.storage.database import open_database
from tests.events.client.conftest import view_pages
from tests.launcher import Service
from tests.patience import GIVE_UP_S
from tests.running import until


class Stream:
    """A task that sends events as fast as they are delivered, and their ids."""

    def __init__(self, events: EventsClient) -> None:
        self.ids: list[str] = []
        self._events = events
        self._is_over = False
        self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._is_over:
            await until(lambda: self._events.waiting_bytes < 100_000)
            self.ids += await view_pages(self._events, range(300))

    async def end(self) -> None:
        """Stop sending, and wait until all events are delivered."""
        self._is_over = True
        await self._running
        await until(lambda: self._events.waiting_bytes == 0)


async def stored_ids(storage: StorageSettings) -> list[str]:
    """Return the ids of all events in order."""
    columns = events_table.c
    query = select(columns.id).order_by(columns.at, columns.received_at)
    async with open_database(storage) as database, database.reading() as connection:
        return list(await connection.scalars(query))


def received(service: Service) -> int:
    """Return the number of requests that the service has accepted, by its log."""
    return service.log.read_text().count("events.received")


async def test_the_service_is_killed_and_comes_back(
    storage: StorageSettings,
    key: str,
    make_service: Callable[..., Service],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After kills under a stream of events, each event is stored once and in order."""
    monkeypatch.setattr(delivery, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(delivery, "MAX_WAIT_S", 0.05)
    service, undelivered = make_service(storage), list[Undelivered]()
    url = f"http://127.0.0.1:{service.port}"
    async with EventsClient(
        url, key, close_timeout_s=GIVE_UP_S, on_undelivered=undelivered.append
    ) as events:
        stream, before = Stream(events), 0
        for requests in (1, 20):
            service.start()
            await service.until_up()
            await until(lambda: received(service) >= before + requests)  # noqa: B023
            service.kill()
            before = received(service)
        service.start()
        await stream.end()

    assert undelivered == []
    assert await stored_ids(storage) == stream.ids
