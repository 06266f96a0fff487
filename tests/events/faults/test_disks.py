"""Storage that cannot be written: full, broken, read-only or locked.

Requests with events get 503 and store nothing; queries are answered. The service
recovers without a restart.
"""

import asyncio
import resource
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import ClientSession
from sqlalchemy.engine import make_url

from service.events import counting
from service.settings import StorageSettings
from service.storage import engines
from tests.conftest import Client
from tests.events.conftest import event
from tests.events.faults.cluster import Cluster
from tests.events.faults.conftest import make_key
from tests.events.faults.senders import Event, all_events, calling
from tests.events.faults.test_kills import check_file
from tests.launcher import Service
from tests.patience import GIVE_UP_S

Caller = Callable[..., Awaitable[Client]]
MakeService = Callable[..., Service]
on_sqlite: Final = pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
BATCH: Final = 100
FULL_AT_PAGES: Final = 300
ROOM_BYTES: Final = 3 * 4096
"""Room for less than a batch, so that a write fails in the middle."""


class Batches:
    """Sends batches of events, and checks that only accepted ones are stored."""

    def __init__(self, session: ClientSession | Client) -> None:
        self.accepted: list[str] = []
        self._session = session
        self._made = 0

    async def send(self) -> int:
        """Send the next batch; return the status."""
        ids = self._next()
        status, answer = await self._post(ids)
        if status == 202:
            assert {each["status"] for each in answer["results"]} == {"accepted"}
            self.accepted += ids
            self._made += BATCH
        return status

    def _next(self) -> list[str]:
        """Return the next ids; refused ones are sent again."""
        return [f"event {self._made + number}" for number in range(BATCH)]

    async def _post(self, ids: list[str]) -> tuple[int, Any]:
        body: list[Event] = [event(id=each) for each in ids]
        async with self._session.post("/events", json=body) as response:
            answer = await response.json()
        if response.status != 202:
            assert response.status == 503, answer
            assert answer["code"] == "storage_unavailable"
            assert int(response.headers["Retry-After"]) >= 1
        return response.status, answer

    async def check(self) -> None:
        """Fail unless exactly the accepted events are stored."""
        stored = [each["id"] for each in await all_events(self._session)]
        assert sorted(stored) == sorted(self.accepted)


@on_sqlite
async def test_the_disk_is_full(
    caller: Caller, storage: StorageSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite runs out of pages in a batch, until old events are removed."""
    limit = f"PRAGMA max_page_count = {FULL_AT_PAGES}"
    monkeypatch.setattr(engines, "SQLITE_PRAGMAS", (*engines.SQLITE_PRAGMAS, limit))
    monkeypatch.setattr(counting, "EVERY_S", 0.01)
    batches = Batches(await caller())
    # Adding changes to the counts makes room, so a batch may fit after a refusal.
    for _ in range(2):
        while await batches.send() == 202:
            pass
        await batches.check()
    assert len(batches.accepted) > 2 * BATCH

    removed = batches.accepted[: 2 * BATCH]
    del batches.accepted[: 2 * BATCH]
    # In a thread: the service needs the event loop to end its own transactions.
    await asyncio.to_thread(remove_events, storage, removed)
    assert await batches.send() == 202
    await batches.check()
    check_file(storage)


@on_sqlite
async def test_the_disk_cannot_be_written(
    storage: StorageSettings, key: str, make_service: MakeService
) -> None:
    """Writes of a running process fail, also in the middle of a batch, and recover.

    A resource limit refuses writes beyond a file size, as a full disk does.
    """
    service = make_service(storage)
    process_id = service.start()
    await service.until_up()
    async with calling(service.port, key) as session:
        batches = Batches(session)
        assert await batches.send() == 202
        for room in (0, ROOM_BYTES):
            with files_no_larger(process_id, size_of_wal(storage) + room):
                for _ in range(3):
                    assert await batches.send() == 503
                    await batches.check()
            assert await batches.send() == 202
            await batches.check()
    assert await service.stop() == 0
    check_file(storage)


@on_sqlite
async def test_another_process_holds_the_lock(
    storage: StorageSettings, key: str, make_service: MakeService
) -> None:
    """A lock longer than `storage.lock_timeout_s` gives 503 without a longer wait."""
    service = make_service(storage, storage__lock_timeout_s=0.05)
    service.start()
    await service.until_up()
    async with calling(service.port, key) as session:
        batches = Batches(session)
        assert await batches.send() == 202
        with closing(sqlite3.connect(path_of(storage))) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(3):
                assert await batches.send() == 503
                await batches.check()
        assert await batches.send() == 202
        await batches.check()


@pytest.mark.services
async def test_postgresql_is_read_only(
    cluster: Cluster, cluster_storage: StorageSettings, make_service: MakeService
) -> None:
    """A read-only server, such as a standby, gives 503; later writes succeed."""
    service = make_service(cluster_storage)
    service.start()
    await service.until_up()
    read_only = "ALTER SYSTEM SET default_transaction_read_only = "
    key = await make_key(cluster_storage)
    async with calling(service.port, key) as session:
        batches = Batches(session)
        assert await batches.send() == 202
        await cluster.execute(f"{read_only}on", "SELECT pg_reload_conf()")
        # Its connections apply the change one after the other.
        while await batches.send() == 202:
            await batches.check()
        assert await batches.send() == 503
        await batches.check()
        await cluster.execute(f"{read_only}off", "SELECT pg_reload_conf()")
        while await batches.send() == 503:
            await batches.check()
        await batches.check()


def remove_events(storage: StorageSettings, ids: list[str]) -> None:
    """Delete events as another process does, which waits for its lock."""
    connecting = sqlite3.connect(path_of(storage), timeout=GIVE_UP_S)
    with closing(connecting) as connection, connection:
        connection.executemany("DELETE FROM events WHERE id = ?", [(i,) for i in ids])


def path_of(storage: StorageSettings) -> str:
    """Return the path of the SQLite file."""
    path = make_url(storage.url).database
    assert path is not None
    return path


def size_of_wal(storage: StorageSettings) -> int:
    """Return the size of SQLite's write-ahead log in bytes."""
    return Path(f"{path_of(storage)}-wal").stat().st_size


@contextmanager
def files_no_larger(process_id: int, size: int) -> Iterator[None]:
    """Limit the size of the files that a process writes."""
    soft, hard = resource.prlimit(process_id, resource.RLIMIT_FSIZE)
    resource.prlimit(process_id, resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.prlimit(process_id, resource.RLIMIT_FSIZE, (soft, hard))
