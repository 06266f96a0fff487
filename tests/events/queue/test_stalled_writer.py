"""A writer that is stopped while it stores, and goes on after another took over."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from service.events.parsing import EventParser
from service.settings import StorageSettings
from service.storage.database import open_database
from tests.conftest import POSTGRESQL
from tests.events.queue.proof import WriterService
from tests.events.queue.publishing import publishing
from tests.events.queue.test_writer import (
    MakeQueue,
    ids_in_feed,
    sent,
    until_stored,
)
from tests.isolation.reading import lines
from tests.launcher import Launcher
from tests.nats_servers import NatsServer
from tests.patience import GIVE_UP_S
from tests.running import LOOK_AGAIN_S, until

on_postgresql = pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
EARLIER = "2021-01-01 00:00:00"


class TableLock:
    """A lock on the table of events, for which writers wait."""

    def __init__(self, connection: asyncpg.Connection, table: str) -> None:
        self._connection = connection
        self._table = table

    async def take(self) -> None:
        """Let nobody write until `release`."""
        await self._connection.execute("BEGIN")
        await self._connection.execute(f"LOCK {self._table} IN EXCLUSIVE MODE")

    async def until_waited_for(self) -> None:
        """Wait until a transaction waits for the lock."""
        query = (
            "SELECT count(*) FROM pg_locks "
            "WHERE NOT granted AND relation = $1::text::regclass"
        )
        async with asyncio.timeout(GIVE_UP_S):
            while not await self._connection.fetchval(query, self._table):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_AGAIN_S)

    async def release(self) -> None:
        """Let the others go on."""
        await self._connection.execute("COMMIT")


@asynccontextmanager
async def locked(storage: StorageSettings) -> AsyncIterator[TableLock]:
    """Lock the table of events of a test."""
    schema = make_url(storage.url).query["schema"]
    connection = await asyncpg.connect(POSTGRESQL)
    try:
        lock = TableLock(connection, f"{schema}.events")
        await lock.take()
        yield lock
    finally:
        await connection.close()


@on_postgresql
async def test_a_writer_that_is_stopped_within_a_transaction(
    launcher: Launcher,
    tmp_path: Path,
    queue_settings: MakeQueue,
    nats_server: NatsServer,
    *,
    storage: StorageSettings,
    parser: EventParser,
) -> None:
    """Another one stores its events; nothing is doubled or late when it goes on."""
    environment = {
        "storage__url": storage.url,
        "storage__timeout_s": 2.0,
        "server__drain_s": 0.0,
        "events__queue_url": nats_server.url,
        "events__queue_replicas": 1,
        "events__queue_partitions": 1,
        "events__queue_lease_s": 1.0,
    }
    stopped = WriterService(launcher, tmp_path / "stopped", **environment)
    other = WriterService(launcher, tmp_path / "other", **environment)
    settings = queue_settings(queue_partitions=1)
    async with publishing(settings, parser) as publisher:
        async with locked(storage) as lock:
            stopped.start()
            await publisher.publish(publisher.items(sent("1"), sent("2")))
            await lock.until_waited_for()
            stopped.send_signal(signal.SIGSTOP)
            # Its statement ends now, and its transaction does not.
            await lock.release()
        other.start()
        await publisher.publish(publisher.items(sent("3", timestamp=EARLIER)))
        await until_stored(publisher)
        stopped.send_signal(signal.SIGCONT)
        await until(lambda: bool(lines(stopped, "events.queue_partitions_lost")))
        for number in range(4, 20):
            await publisher.publish(publisher.items(sent(str(number))))
        await until_stored(publisher)

    async with open_database(storage) as database:
        assert await ids_in_feed(database) == [str(n) for n in range(1, 20)]
