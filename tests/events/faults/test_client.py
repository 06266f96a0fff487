"""The clients of applications during kills and restarts of the service."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from copilot_usage_client import AsyncClient, Client, Problem, delivery
from service.events.tables import events as events_table
from service.settings import StorageSettings
from service.storage.database import open_database
from tests.events.conftest import on_sqlite
from tests.launcher import Service
from tests.patience import GIVE_UP_S
from tests.running import until

AnyClient = AsyncClient | Client


def view_pages(client: AnyClient, number: int) -> list[str | None]:
    """Track so many views; return their ids."""
    page = {"host": "www.example.com", "path": "/"}
    return [
        client.track("page interaction", "pageview", page, session_id="session")
        for _ in range(number)
    ]


async def flush(client: AnyClient) -> bool:
    """Wait for the delivery of all events."""
    if isinstance(client, AsyncClient):
        return await client.flush(GIVE_UP_S)
    return await asyncio.to_thread(client.flush, GIVE_UP_S)


class Stream:
    """A task that tracks events as fast as they are delivered, and their ids."""

    def __init__(self, client: AnyClient) -> None:
        self.ids: list[str | None] = []
        self._client = client
        self._is_over = False
        self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._is_over:
            await until(lambda: self._client.counts.memory_bytes < 100_000)
            self.ids += view_pages(self._client, 300)
            await asyncio.sleep(0)

    async def end(self) -> None:
        """Stop tracking."""
        self._is_over = True
        await self._running


async def stored_ids(storage: StorageSettings) -> list[str]:
    """Return the ids of all events, by time."""
    columns = events_table.c
    query = select(columns.id).order_by(columns.at, columns.id)
    async with open_database(storage) as database, database.reading() as connection:
        return list(await connection.scalars(query))


def received(service: Service) -> int:
    """Return the number of requests that the service has accepted, by its log."""
    return service.log.read_text().count("events.received")


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clients try again soon."""
    monkeypatch.setattr(delivery, "FIRST_BACKOFF_S", 0.05)
    monkeypatch.setattr(delivery, "MAX_BACKOFF_S", 0.05)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_the_service_is_killed_and_comes_back(
    kind: type[AnyClient],
    storage: StorageSettings,
    key: str,
    make_service: Callable[..., Service],
    tmp_path: Path,
) -> None:
    """After kills under a stream of events, each event is stored once."""
    service, problems = make_service(storage), list[Problem]()
    url = f"http://127.0.0.1:{service.port}"
    client = kind(url, key, spool_dir=tmp_path / "spool", on_error=problems.append)
    stream, before = Stream(client), 0
    for requests in (1, 5):
        service.start()
        await service.until_up()
        await until(lambda: received(service) >= before + requests)  # noqa: B023
        service.kill()
        before = received(service)
    service.start()
    await stream.end()
    assert await flush(client)
    closed = client.close()
    assert await closed if not isinstance(closed, bool) else closed

    assert problems == []
    assert len(stream.ids) > 1_000
    assert await stored_ids(storage) == stream.ids


@on_sqlite
async def test_a_key_that_becomes_valid(
    storage: StorageSettings,
    key: str,
    make_service: Callable[..., Service],
    tmp_path: Path,
) -> None:
    """Events with an unknown key are kept for one that the service knows."""
    service, problems = make_service(storage), list[Problem]()
    url, folder = f"http://127.0.0.1:{service.port}", tmp_path / "spool"
    service.start()
    await service.until_up()
    with Client(url, "cu_unknown", spool_dir=folder, on_error=problems.append) as first:
        ids = view_pages(first, 100)
        await until(lambda: bool(problems))
        await asyncio.to_thread(first.close, 0)
    assert [each.code for each in problems] == ["refused"]
    assert await stored_ids(storage) == []
    with Client(url, key, spool_dir=folder) as second:
        assert await flush(second)

    assert await stored_ids(storage) == ids


@on_sqlite
async def test_results_of_the_service_are_reported(
    storage: StorageSettings,
    key: str,
    make_service: Callable[..., Service],
    tmp_path: Path,
) -> None:
    """Failed, conflicting and large events are reported; the others are stored."""
    settings = {"events__max_events": 7, "events__max_body_bytes": 20_000}
    service, problems = make_service(storage, **settings), list[Problem]()
    url, page = f"http://127.0.0.1:{service.port}", {"host": "a.test", "path": "/"}
    service.start()
    await service.until_up()
    client = AsyncClient(url, key, spool_dir=tmp_path, on_error=problems.append)

    def track(event_id: str, data: dict[str, str]) -> None:
        names = ("page interaction", "pageview")
        at = "2021-01-01T00:00:00Z"
        client.track(*names, data, session_id="s", timestamp=at, event_id=event_id)

    async with client:
        for event_id in "abcdefghijklm":
            track(event_id, page)
        track("without a path", {"host": "a.test"})
        track("a", {**page, "path": "/other"})
        track("large", {**page, "title": "x" * 20_000})
        assert await client.flush(GIVE_UP_S)

    reported = [
        (each.code, each.event_id, [error["code"] for error in each.errors])
        for each in problems
    ]
    assert sorted(reported) == [
        ("conflict", "a", ["conflict"]),
        ("failed", "without a path", ["schema"]),
        ("rejected", "large", []),
    ]
    assert await stored_ids(storage) == list("abcdefghijklm")
