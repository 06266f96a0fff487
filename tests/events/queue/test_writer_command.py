"""`copilot-usage writer`: its start, health and metrics, its end, and many writers."""

import secrets
import signal
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
from aiohttp import ClientSession

from service.events.parsing import EventParser
from service.keys.store import SANDBOX_KEY
from service.settings import EventsSettings, StorageSettings
from tests.conftest import POSTGRESQL
from tests.events.conftest import event, on_sqlite
from tests.events.faults.senders import all_events, calling
from tests.events.queue.proof import WriterService
from tests.events.queue.publishing import publishing
from tests.events.queue.test_writer import MakeQueue, sent, until_stored
from tests.isolation.reading import lines, until_sample
from tests.launcher import Launcher, Service
from tests.nats_servers import NatsServer
from tests.running import until_ready
from tests.schemas import drop_schema

PARTITIONS = "copilot_usage_queue_partitions"
UNAVAILABLE = "copilot_usage_queue_unavailable"
Environment = Callable[..., dict[str, object]]


@pytest.fixture
def environment(nats_server: NatsServer) -> Environment:
    """A factory of settings for processes with a queue of four partitions."""

    def make(url: str, **more: object) -> dict[str, object]:
        queue = {"url": nats_server.url, "replicas": 1, "partitions": 4, "lease_s": 1.0}
        chosen = {f"events__queue_{name}": value for name, value in queue.items()}
        return {"storage__url": url, "server__drain_s": 0.0, **chosen, **more}

    return make


@on_sqlite
async def test_a_writer_stores_until_it_is_told_to_end(
    launcher: Launcher,
    tmp_path: Path,
    environment: Environment,
    queue_settings: MakeQueue,
    *,
    storage: StorageSettings,
    parser: EventParser,
) -> None:
    """It is ready, shows its partitions, and gives them back at its end."""
    settings: EventsSettings = queue_settings()
    writer = WriterService(launcher, tmp_path / "log", **environment(storage.url))
    writer.start()
    await writer.until_up()
    await until_ready(writer.port)
    async with publishing(settings, parser) as publisher:
        await publisher.publish(publisher.items(sent("a")))
        await until_stored(publisher)
        async with ClientSession(f"http://127.0.0.1:{writer.port}") as session:
            await until_sample(session, 4, PARTITIONS)
            async with session.get("/usage") as answer:
                assert answer.status == 404
        writer.send_signal(signal.SIGTERM)
        assert await writer.ended() == 0
        assert await publisher.leases() == set()
        await publisher.publish(publisher.items(sent("b")))
        assert await publisher.left() == 1


@on_sqlite
async def test_a_writer_that_is_cut_off_says_so(
    launcher: Launcher,
    tmp_path: Path,
    environment: Environment,
    nats_server: NatsServer,
    storage: StorageSettings,
) -> None:
    """Its metrics show that it stores nothing, though no service tells of it."""
    writer = WriterService(launcher, tmp_path / "log", **environment(storage.url))
    writer.start()
    await writer.until_up()
    await until_ready(writer.port)
    async with ClientSession(f"http://127.0.0.1:{writer.port}") as session:
        await until_sample(session, 4, PARTITIONS)
        await until_sample(session, 4, "copilot_usage_queue_stream_partitions")
        await until_sample(session, 0, UNAVAILABLE)
        nats_server.kill()
        await until_sample(session, 0, PARTITIONS)
        await until_sample(session, 1, UNAVAILABLE)
    assert lines(writer, "events.queue_partitions_lost")


async def test_a_writer_needs_a_queue(launcher: Launcher, tmp_path: Path) -> None:
    """Without one, it ends with the status of an invalid setting."""
    writer = WriterService(launcher, tmp_path / "log")
    writer.start()

    assert await writer.ended() == 2
    assert (
        writer.log.read_text() == "copilot-usage: events.queue_url: a writer needs it\n"
    )


async def test_a_writer_needs_the_schema_of_its_version(
    launcher: Launcher, tmp_path: Path, environment: Environment
) -> None:
    """It stores nothing into a database that must be migrated."""
    schema = f"test_{secrets.token_hex(8)}"
    connection = await asyncpg.connect(POSTGRESQL)
    await connection.execute(f"CREATE SCHEMA {schema}")
    try:
        url = POSTGRESQL.replace("postgresql", "postgresql+asyncpg")
        settings = environment(f"{url}?schema={schema}")
        writer = WriterService(launcher, tmp_path / "log", **settings)
        writer.start()
        assert await writer.ended() == 1
        assert "run: copilot-usage migrate" in writer.log.read_text()
    finally:
        await drop_schema(connection, schema)
        await connection.close()


@on_sqlite
async def test_each_worker_is_a_writer(
    launcher: Launcher,
    tmp_path: Path,
    environment: Environment,
    storage: StorageSettings,
) -> None:
    """Workers of a service share the partitions, and write to one file of SQLite."""
    settings = environment(storage.url, logging__access="false")
    service = Service(launcher, tmp_path / "log", **settings)
    service.start("--sandbox", "--workers=2")
    await service.until_up()
    async with calling(service.port, SANDBOX_KEY) as session:
        await until_sample(session, 4, PARTITIONS)
        ids = [str(number) for number in range(50)]
        for each in ids:
            async with session.post("/events", json=event(id=each)) as answer:
                assert answer.status == 202
        while len(found := await all_events(session)) < len(ids):
            pass
        assert {each["id"] for each in found} == set(ids)
    assert await service.stop() == 0
