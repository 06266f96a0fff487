"""Ingestion of events is not stopped by queries, nor by bodies of other requests."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Final

import pytest
from aiohttp import ClientSession
from sqlalchemy.engine import make_url

from service.settings import StorageSettings
from service.storage.database import open_database
from tests.events.conftest import event
from tests.events.faults.senders import calling
from tests.isolation.reading import code_of, peak_memory, sample, until_sample
from tests.launcher import Service
from tests.patience import GIVE_UP_S
from tests.running import LOOK_AGAIN_S, until

MakeService = Callable[..., Service]

ENDLESS: Final = "/events/failed"
"""A query that reads a table which `make_endless` has replaced."""
COLUMNS: Final = (
    "'a' AS id, 'shop' AS application, 's' AS session_id, 'c' AS category, "
    "'n' AS name, 1 AS at, '{}' AS event, '' AS codes, '[]' AS errors, "
    "x AS received_at, CAST(NULL AS text) AS format, CAST(NULL AS bigint) AS skew, "
    "CAST(NULL AS text) AS event_id, CAST(NULL AS bytea) AS digest"
)
STATEMENTS: Final = (
    "DROP TABLE failed_events",
    f"""CREATE VIEW failed_events AS WITH RECURSIVE endless(x) AS
    (SELECT 1 UNION ALL SELECT 1 - x FROM endless)
    SELECT {COLUMNS} FROM endless WHERE x > 1""",  # noqa: S608
)
RUNNING: Final = "copilot_usage_lane_running"
WAITING: Final = "copilot_usage_lane_waiting"
MIB: Final = 1_048_576
LARGE: Final = json.dumps(
    [
        event(id=f"# {each}", data={"host": "www.example.com", "path": "x" * 2_000})
        for each in range(470)
    ]
).encode()
on_sqlite: Final = pytest.mark.parametrize("storage", ["sqlite"], indirect=True)


@pytest.fixture
async def endless(storage: StorageSettings) -> StorageSettings:
    """A database in which queries on failed events never end."""
    async with open_database(storage) as database, database.writing() as connection:
        for statement in STATEMENTS:
            await connection.exec_driver_sql(statement)
    return storage


@asynccontextmanager
async def serving(
    make_service: MakeService, storage: StorageSettings, key: str, **settings: object
) -> AsyncIterator[tuple[Service, ClientSession]]:
    """Run a service, and yield a session whose key has been read."""
    service = make_service(storage, **settings)
    service.start()
    await service.until_up()
    async with calling(service.port, key) as session:
        assert await post(session, "first") == "202"
        yield service, session


async def post(session: ClientSession, event_id: str) -> str:
    """Send an event; return the status or the code."""
    async with session.post("/events", json=event(id=event_id)) as response:
        return await code_of(response)


async def get(session: ClientSession, path: str) -> str:
    """Send a query; return the status or the code."""
    async with session.get(path) as response:
        return await code_of(response)


async def test_queries_whose_clients_leave_are_stopped(
    endless: StorageSettings, key: str, make_service: MakeService
) -> None:
    """Ten queries do not stop ingestion, and end in the database with their clients."""
    async with serving(
        make_service,
        endless,
        key,
        events__query_timeout_s=GIVE_UP_S,
        limits__queue_wait_s=GIVE_UP_S,
    ) as (service, session):
        async with calling(service.port, key) as analyst:
            queries = [asyncio.create_task(get(analyst, ENDLESS)) for _ in range(10)]
            await until_sample(session, 7, WAITING, lane="event_queries")
            sent = [await post(session, f"event {number}") for number in range(6)]
            for query in queries:
                query.cancel()
            await asyncio.wait(queries)
        await until_sample(session, 0, RUNNING, lane="event_queries")

        assert sent == ["202"] * 6
        await until_no_statements(endless)
        assert await get(session, "/events") == "200"
        assert (
            await sample(
                session,
                "copilot_usage_storage_transactions",
                use="event_queries",
                state="running",
            )
            == 0
        )


async def test_live_readers_are_refused_and_limited(
    endless: StorageSettings, key: str, make_service: MakeService
) -> None:
    """Of twelve readers three run until the limit, and the others are refused."""
    async with serving(
        make_service,
        endless,
        key,
        events__query_timeout_s=2.0,
        limits__queue_wait_s=0.1,
    ) as (_, session):
        queries = [asyncio.create_task(get(session, ENDLESS)) for _ in range(12)]
        done, running = await asyncio.wait(queries, return_when=asyncio.FIRST_COMPLETED)
        sent = [await post(session, f"event {number}") for number in range(6)]
        codes = sorted(await asyncio.gather(*queries))

        assert sent == ["202"] * 6
        assert codes == ["event_queries_full"] * 9 + ["query_timeout"] * 3
        assert done
        assert running
        await until_sample(session, 0, RUNNING, lane="event_queries")
        await until_no_statements(endless)
        assert await get(session, "/events") == "200"


async def until_no_statements(storage: StorageSettings) -> None:
    """Wait until PostgreSQL has ended the queries, of which it is told separately."""
    async with asyncio.timeout(GIVE_UP_S):
        while await statements_of(storage):  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(LOOK_AGAIN_S)


async def statements_of(storage: StorageSettings) -> int:
    """Return how many queries run in PostgreSQL; SQLite runs them in the service."""
    async with open_database(storage) as database:
        if database.is_sqlite:
            return 0
        async with database.reading() as connection:
            found = await connection.exec_driver_sql(
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' "
                "AND query LIKE '%FROM failed_events%' AND pid <> pg_backend_pid()"
            )
            return int(found.scalar_one())


@on_sqlite
async def test_large_bodies_while_the_database_is_locked(
    storage: StorageSettings, key: str, make_service: MakeService
) -> None:
    """Of 400 bodies of 1 MiB those beyond the backlog are refused before they are read.

    The memory of the process stays bounded.
    """
    async with serving(
        make_service,
        storage,
        key,
        limits__queue_wait_s=GIVE_UP_S,
        storage__lock_timeout_s=GIVE_UP_S,
        # The client needs some time to send what the service does not read.
        server__header_timeout_s=GIVE_UP_S,
        server__request_timeout_s=GIVE_UP_S,
    ) as (service, session):
        assert service.process_id is not None
        before = peak_memory(service.process_id)
        with locked(storage):
            posts = [
                asyncio.create_task(post_large(session, number))
                for number in range(400)
            ]
            await until(lambda: sum(each.done() for each in posts) == 384)
            reserved = await sample(session, "copilot_usage_events_backlog_bytes")
        codes = await asyncio.gather(*posts)
        grown = peak_memory(service.process_id) - before

        assert sorted(codes) == ["202"] * 16 + ["backlog_full"] * 384
        assert 15 * MIB < reserved <= 16 * MIB
        assert grown < 300 * MIB
        assert await sample(session, "copilot_usage_events_backlog_bytes") == 0


async def post_large(session: ClientSession, number: int) -> str:
    """Send events of nearly 1 MiB in all; return the status or the code."""
    headers = {"Content-Type": "application/json"}
    body = LARGE.replace(b"#", b"%d" % number)
    async with session.post("/events", data=body, headers=headers) as response:
        return await code_of(response)


@on_sqlite
async def test_waiting_events_are_refused_in_time(
    storage: StorageSettings, key: str, make_service: MakeService
) -> None:
    """While the database is locked, events whose write has begun are stored later.

    Further ones wait at most `limits.queue_wait_s`; none of these is stored.
    """
    async with serving(
        make_service,
        storage,
        key,
        limits__queue_wait_s=0.1,
        storage__lock_timeout_s=GIVE_UP_S,
        events__commit_wait_ms=0.0,
    ) as (_, session):
        with locked(storage):
            begun = asyncio.create_task(post(session, "begun"))
            await until_sample(session, 1, RUNNING, lane="event_ingest")
            late = await asyncio.gather(*(post(session, f"l{n}") for n in range(5)))
        assert late == ["backlog_full"] * 5
        assert await begun == "202"
        async with session.get("/events") as response:
            stored = [each["id"] for each in (await response.json())["events"]]
        assert stored == ["first", "begun"]


@contextmanager
def locked(storage: StorageSettings) -> Iterator[None]:
    """Lock the file of SQLite, as another process does that writes."""
    path = make_url(storage.url).database
    assert path is not None
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
