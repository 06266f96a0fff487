"""A database that hangs or ends connections stops nothing else, and works again."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import pytest
from aiohttp import ClientSession
from msgspec.structs import replace
from sqlalchemy.engine import make_url

from service.settings import StorageSettings
from service.storage.breaker import MAX_TIMEOUTS
from tests.events.conftest import event
from tests.events.faults.cluster import Cluster
from tests.events.faults.senders import calling
from tests.isolation.proxy import Proxy, proxying
from tests.isolation.reading import code_of, lines, sample, until_sample
from tests.launcher import Service
from tests.patience import GIVE_UP_S
from tests.running import LOOK_AGAIN_S, until
from tests.vehicles.conftest import vin

MakeService = Callable[..., Service]

pytestmark = pytest.mark.services
TIMEOUT_S: Final = 1.0
HASTY_S: Final = 2.0
"""Time limit for calls that wait in vain."""
LOOK_UP: Final = "/vehicles/lookup?vin="
VINS: Final = [vin(number) for number in range(20)]
BREAKER: Final = "copilot_usage_storage_breaker_state"
TRANSACTIONS: Final = "copilot_usage_storage_transactions"
WAITING: Final = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
    "AND application_name = 'copilot-usage' AND query LIKE '%events%'"
)


@pytest.fixture
def storage(cluster_storage: StorageSettings) -> StorageSettings:
    """A database on a server of the test's own, whose connections it may end."""
    return cluster_storage


@pytest.fixture
async def proxy(storage: StorageSettings) -> AsyncIterator[Proxy]:
    """A proxy before PostgreSQL."""
    url = make_url(storage.url)
    assert url.host is not None
    async with proxying(url.host, url.port or 5432) as running:
        yield running


@pytest.fixture
def behind(storage: StorageSettings, proxy: Proxy) -> StorageSettings:
    """The database behind the proxy."""
    url = make_url(storage.url).set(host="127.0.0.1", port=proxy.port)
    return replace(storage, url=url.render_as_string(hide_password=False))


@pytest.fixture
async def observer(cluster: Cluster) -> AsyncIterator[asyncpg.Connection]:
    """A connection that bypasses the proxy."""
    connection = await asyncpg.connect(cluster.url)
    yield connection
    await connection.close()


@asynccontextmanager
async def serving(
    make_service: MakeService, storage: StorageSettings, key: str, **settings: object
) -> AsyncIterator[tuple[Service, ClientSession]]:
    """Run a service with a sandbox, and yield a session whose key has been read."""
    chosen = {"storage__timeout_s": TIMEOUT_S, "limits__queue_wait_s": 2.0, **settings}
    service = make_service(storage, **chosen)
    service.start("--sandbox")
    await service.until_up()
    async with calling(service.port, key) as session:
        assert await post(session, "first") == "202"
        assert await get(session, "/usage?limit=1") == "200"
        yield service, session


async def post(session: ClientSession, *ids: str) -> str:
    """Send events in one request; return the status or the code."""
    body = [event(id=each) for each in ids]
    async with session.post("/events", json=body) as response:
        if response.status == 503:
            assert int(response.headers["Retry-After"]) >= 1
        return await code_of(response)


async def get(session: ClientSession, path: str) -> str:
    """Send a request; return the status or the code."""
    async with session.get(path) as response:
        return await code_of(response)


async def until_stored(session: ClientSession, event_id: str) -> set[str]:
    """Send an event until it is stored; return the codes of the other answers."""
    codes = set()
    async with asyncio.timeout(GIVE_UP_S):
        while (code := await post(session, event_id)) != "202":
            codes.add(code)
            await asyncio.sleep(LOOK_AGAIN_S)
    return codes


async def until_open(service: Service, session: ClientSession) -> set[str]:
    """Send events until the circuit is open; return the codes of the answers."""
    codes = set()
    async with asyncio.timeout(GIVE_UP_S):
        while not await sample(session, BREAKER, state="open"):
            codes.add(await post(session, "during"))
            assert await get(session, "/usage?limit=1") == "200"
    await until(lambda: len(lines(service, "storage.breaker.opened")) == 1)
    return codes


async def test_a_database_that_does_not_answer(
    behind: StorageSettings, key: str, make_service: MakeService, proxy: Proxy
) -> None:
    """Requests fail fast after a few time-outs, and work again with the database.

    Usage is answered all the time, and keys stay valid.
    """
    async with serving(make_service, behind, key) as (service, session):
        proxy.drop()
        codes = await until_open(service, session)
        failures = len(lines(service, "events.commit_failed"))
        refused = [await post(session, "open") for _ in range(50)]
        queried = await get(session, "/events")
        usage = await get(session, "/usage?limit=1")

        assert codes <= {"storage_unavailable", "backlog_full"}
        assert set(refused) == {"storage_unavailable"}
        assert queried == "storage_unavailable"
        assert usage == "200"
        # The open circuit refuses without a line for each request.
        assert len(lines(service, "events.commit_failed")) == failures
        assert await sample(session, "copilot_usage_storage_refused_total") >= 51

        proxy.forward()
        assert await until_stored(session, "after") <= {"storage_unavailable"}
        await until(lambda: len(lines(service, "storage.breaker.closed")) == 1)
        assert await get(session, "/events") == "200"
        assert await sample(session, BREAKER, state="closed") == 1
        assert await service.stop() == 0


async def test_look_ups_alone_find_a_silent_database(
    behind: StorageSettings, make_service: MakeService, proxy: Proxy
) -> None:
    """Given up time after time, they open the circuit; then vPIC answers at once."""
    service = make_service(
        behind, events__enabled="false", vehicles__storage_wait_s=HASTY_S
    )
    service.start("--sandbox")
    await service.until_up()
    async with ClientSession(f"http://127.0.0.1:{service.port}") as session:
        assert await get(session, f"{LOOK_UP}{VINS[0]}") == "200"
        await until_sample(session, 0, TRANSACTIONS, use="vehicles", state="running")
        assert lines(service, "vehicle.not_read") == []
        assert await sample(session, BREAKER, state="closed") == 1
        proxy.drop()
        codes = [await get(session, LOOK_UP + each) for each in VINS[1:4]]
        await until(lambda: len(lines(service, "storage.breaker.opened")) == 1)
        failures = len(lines(service, "vehicle.not_read"))
        codes += [await get(session, LOOK_UP + each) for each in VINS]

        assert set(codes) == {"200"}
        # The open circuit refuses without a line for each look-up.
        assert failures == MAX_TIMEOUTS
        assert len(lines(service, "vehicle.not_read")) == failures
        assert lines(service, "vehicle.not_kept") == []

        proxy.forward()
        await until(lambda: len(lines(service, "storage.breaker.closed")) == 1)
        assert await get(session, LOOK_UP + VINS[0]) == "200"
    assert await service.stop() == 0


@pytest.mark.parametrize("is_open", [False, True], ids=["hanging", "refusing"])
async def test_sigterm_while_the_database_does_not_answer(
    behind: StorageSettings,
    key: str,
    make_service: MakeService,
    proxy: Proxy,
    *,
    is_open: bool,
) -> None:
    """The service ends without waiting for the database."""
    async with serving(
        make_service, behind, key, storage__timeout_s=1.0 if is_open else 5.0
    ) as (service, session):
        proxy.drop()
        waiting = asyncio.create_task(post(session, "waiting"))
        if is_open:
            await until_open(service, session)
        else:
            await until_sample(
                session, 1, "copilot_usage_lane_running", lane="event_ingest"
            )
        waiting.cancel()
        await asyncio.wait([waiting])
    assert await service.stop() == 0


async def test_connections_that_are_terminated_between_requests(
    storage: StorageSettings,
    key: str,
    make_service: MakeService,
    observer: asyncpg.Connection,
) -> None:
    """Each is replaced before its next use, and no request fails."""
    async with serving(make_service, storage, key) as (service, session):
        assert await get(session, "/events") == "200"
        for number in range(3):
            assert await terminate(observer) >= 2
            assert await post(session, f"event {number}") == "202"
            assert await get(session, "/events") == "200"
        assert lines(service, "events.commit_failed") == []


async def test_a_connection_that_is_terminated_during_a_write(
    storage: StorageSettings,
    key: str,
    make_service: MakeService,
    observer: asyncpg.Connection,
    cluster: Cluster,
) -> None:
    """The group is written again on another connection, and its requests succeed."""
    async with (
        serving(make_service, storage, key, storage__timeout_s=GIVE_UP_S) as (
            service,
            session,
        ),
    ):
        async with locking(cluster):
            posts = [asyncio.create_task(post(session, f"e{n}")) for n in range(3)]
            await until_number(observer, WAITING, 1)
            assert await terminate(observer, "AND wait_event_type = 'Lock'") == 1
            await until_number(observer, WAITING, 1)
        codes = await asyncio.gather(*posts)
        (line,) = [
            each for each in lines(service, "storage.failed") if each["use"] == "events"
        ]

        assert codes == ["202"] * 3
        assert line["error.type"] == "ConnectionLost"
        assert lines(service, "events.commit_failed") == []
        assert await observer.fetchval("SELECT count(*) FROM events") == 4


async def test_a_connection_that_is_lost_during_a_commit(
    behind: StorageSettings,
    key: str,
    make_service: MakeService,
    *,
    proxy: Proxy,
    observer: asyncpg.Connection,
    cluster: Cluster,
) -> None:
    """Events that were stored before the loss are duplicates, and stored once."""
    await cluster.execute(*SLOW_COMMIT)
    async with serving(make_service, behind, key, storage__timeout_s=GIVE_UP_S) as (
        _,
        session,
    ):
        sent = asyncio.create_task(receipt(session, "a", "b"))
        await until_number(observer, COMMITTING, 1)
        proxy.drop_answers()
        await until_number(observer, "SELECT count(*) FROM events", 3)
        proxy.disconnect()
        proxy.forward()
        statuses = [each["status"] for each in (await sent)["results"]]

        assert statuses == ["duplicate", "duplicate"]
        assert await observer.fetchval("SELECT count(*) FROM events") == 3


async def test_a_server_that_is_stopped(
    storage: StorageSettings, key: str, make_service: MakeService, cluster: Cluster
) -> None:
    """Each failure leaves one line; keys stay valid, and all works after a restart."""
    async with serving(
        make_service, storage, key, events__key_ttl_s=3_600.0, events__key_grace_s=60.0
    ) as (service, session):
        cluster.stop()
        codes = [
            await post(session, "during"),
            await get(session, "/events"),
            await get(session, "/events/stats?by=name"),
            await get(session, "/vehicles/lookup?vin=1XPWD40X1ED215307"),
        ]
        # The look-up asks vPIC instead.
        assert codes == ["storage_unavailable"] * 3 + ["200"]
        assert await get(session, "/usage?limit=1") == "200"
        await until(lambda: len(lines(service, "vehicle.not_read")) == 1)
        async with asyncio.timeout(GIVE_UP_S):
            while await get(session, "/health/ready?for=events") == "200":  # noqa: ASYNC110
                await asyncio.sleep(LOOK_AGAIN_S)
        assert await get(session, "/health/ready?for=vehicles") == "200"
        assert await get(session, "/health/ready") == "200"
        failed = [
            (each["use"], each["operation"])
            for each in lines(service, "storage.failed")
            # Work in the background may be in progress, and fail too.
            if each["use"] not in {"retention", "periods", "budgets"}
        ]
        assert failed == [("event_queries", "read")] * 2
        assert all(each["reason"] for each in lines(service, "storage.failed"))
        assert len(lines(service, "events.commit_failed")) == 1
        await cluster.start()
        assert await post(session, "during") == "202"
        assert await get(session, "/events") == "200"
        assert await get(session, "/health/ready?for=events") == "200"


SLOW_COMMIT: Final = (
    """CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(1); RETURN NULL; END $$""",
    """CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON events
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.id = 'b')
    EXECUTE FUNCTION wait()""",
)
"""A deferred trigger runs in the commit, and lets it take a second."""
COMMITTING: Final = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"


@asynccontextmanager
async def locking(cluster: Cluster) -> AsyncIterator[None]:
    """Lock the table of events, so that writes wait."""
    connection = await asyncpg.connect(cluster.url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE events IN EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def until_number(observer: asyncpg.Connection, query: str, expected: int) -> None:
    """Wait until a query returns this number."""
    async with asyncio.timeout(GIVE_UP_S):
        while await observer.fetchval(query) != expected:  # noqa: ASYNC110 - no event
            await asyncio.sleep(LOOK_AGAIN_S)


async def receipt(session: ClientSession, *ids: str) -> Any:
    """Send events; return the receipt."""
    async with session.post("/events", json=[event(id=i) for i in ids]) as response:
        assert response.status == 202
        return await response.json()


async def terminate(observer: asyncpg.Connection, more: str = "") -> int:
    """Terminate the connections of services; return how many."""
    terminated = await observer.fetch(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "  # noqa: S608
        f"WHERE application_name = 'copilot-usage' {more}"
    )
    return len(terminated)
