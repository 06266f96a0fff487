"""Storage that cannot be written: full, broken, read-only or locked by another.

Each time requests get 503 and nothing of them is stored, questions are answered
meanwhile, and it is over without a restart as soon as the cause is.
"""

import resource
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import ClientSession
from sqlalchemy.engine import make_url

from service.settings import Storage
from service.storage import database
from tests.conftest import Client
from tests.events.conftest import event
from tests.events.faults.cluster import Cluster
from tests.events.faults.conftest import make_key
from tests.events.faults.senders import Event, all_events, calling
from tests.events.faults.test_kills import check_file
from tests.launcher import Service

Caller = Callable[..., Awaitable[Client]]
MakeService = Callable[..., Service]
on_sqlite: Final = pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
BATCH: Final = 100
FULL_AT_PAGES: Final = 300
ROOM_BYTES: Final = 3 * 4096
"""What may still be written: less than a batch, so that it breaks in the middle."""


class Batches:
    """Batch after batch of events; what was accepted has to be all there is."""

    def __init__(self, session: ClientSession | Client) -> None:
        self.accepted: list[str] = []
        self._session = session
        self._made = 0

    async def send(self) -> int:
        """Send the next one; gives the status."""
        ids = self._next()
        status, answer = await self._post(ids)
        if status == 202:
            assert {each["status"] for each in answer["results"]} == {"accepted"}
            self.accepted += ids
            self._made += BATCH
        return status

    def _next(self) -> list[str]:
        """Those that were refused are sent again."""
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
        """Fail unless all that was accepted is there, and nothing else."""
        kept = [each["id"] for each in await all_events(self._session)]
        assert sorted(kept) == sorted(self.accepted)


@on_sqlite
async def test_the_disk_is_full(
    caller: Caller, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite has no page left amid a batch, until old events are removed."""
    limit = f"PRAGMA max_page_count = {FULL_AT_PAGES}"
    monkeypatch.setattr(database, "SQLITE_PRAGMAS", (*database.SQLITE_PRAGMAS, limit))
    batches = Batches(await caller())
    while await batches.send() == 202:
        pass
    assert len(batches.accepted) > 2 * BATCH
    await batches.check()
    assert await batches.send() == 503
    await batches.check()

    gone = batches.accepted[: 2 * BATCH]
    del batches.accepted[: 2 * BATCH]
    with closing(sqlite3.connect(path_of(storage))) as connection, connection:
        connection.executemany("DELETE FROM events WHERE id = ?", [(i,) for i in gone])
    assert await batches.send() == 202
    await batches.check()
    check_file(storage)


@on_sqlite
async def test_the_disk_cannot_be_written(
    storage: Storage, key: str, make_service: MakeService
) -> None:
    """Writes fail in a running process, and break off amid a batch, until they don't.

    The kernel refuses the process all that lies beyond a size, as a file system does
    that has become read-only.
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
    storage: Storage, key: str, make_service: MakeService
) -> None:
    """A writer beyond `storage.lock_timeout_s` costs a 503 and keeps nobody waiting."""
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
    cluster: Cluster, cluster_storage: Storage, make_service: MakeService
) -> None:
    """As a standby is, or a server whose disk is full; then it is written again."""
    service = make_service(cluster_storage)
    service.start()
    await service.until_up()
    read_only = "ALTER SYSTEM SET default_transaction_read_only = "
    key = await make_key(cluster_storage)
    async with calling(service.port, key) as session:
        batches = Batches(session)
        assert await batches.send() == 202
        await cluster.execute(f"{read_only}on", "SELECT pg_reload_conf()")
        # Its connections hear of it one after the other.
        while await batches.send() == 202:
            await batches.check()
        assert await batches.send() == 503
        await batches.check()
        await cluster.execute(f"{read_only}off", "SELECT pg_reload_conf()")
        while await batches.send() == 503:
            await batches.check()
        await batches.check()


def path_of(storage: Storage) -> str:
    """Where the file of SQLite is."""
    path = make_url(storage.url).database
    assert path is not None
    return path


def size_of_wal(storage: Storage) -> int:
    """How much SQLite has written beside its file."""
    return Path(f"{path_of(storage)}-wal").stat().st_size


@contextmanager
def files_no_larger(process_id: int, size: int) -> Iterator[None]:
    """Let a process write no file beyond so many bytes."""
    soft, hard = resource.prlimit(process_id, resource.RLIMIT_FSIZE)
    resource.prlimit(process_id, resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.prlimit(process_id, resource.RLIMIT_FSIZE, (soft, hard))
