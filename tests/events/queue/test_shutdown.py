"""The end of services and writers whose queue does not answer at that moment."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession
from nats.aio.client import Client

from service.events.errors import QueueUnavailable
from service.events.queue import tasks
from service.events.queue.deliveries import Deliveries
from service.events.queue.leases import Leases
from service.events.queue.publisher import open_publisher
from service.events.queue.watch import StreamWatch
from service.events.queue.writer import open_writer
from service.keys.store import SANDBOX_KEY
from service.settings import StorageSettings
from service.storage.database import open_database
from tests.events.conftest import event, on_sqlite
from tests.events.faults.senders import calling
from tests.events.queue.proof import WriterService
from tests.events.queue.test_writer import MakeQueue
from tests.events.queue.test_writer_command import Environment, environment
from tests.isolation.reading import until_sample
from tests.launcher import Launcher, Service
from tests.nats_servers import NatsServer
from tests.patience import GIVE_UP_S

__all__ = ["environment"]

PARTITIONS = "copilot_usage_queue_partitions"
Until = Callable[[Callable[[], bool]], Awaitable[None]]


@on_sqlite
@pytest.mark.parametrize("fault", ["freeze", "kill"])
async def test_a_service_and_a_writer_end_in_order_without_their_queue(
    launcher: Launcher,
    tmp_path: Path,
    environment: Environment,
    nats_server: NatsServer,
    *,
    storage: StorageSettings,
    fault: str,
) -> None:
    """Nothing has to force their end, not even with requests in flight."""
    more = {"logging__access": "false", "limits__queue_wait_s": 0.2}
    settings = environment(storage.url, **more)
    service = Service(launcher, tmp_path / "service.log", **settings)
    writer = WriterService(launcher, tmp_path / "writer.log", **settings)
    service.start("--sandbox")
    writer.start()
    for each in (service, writer):
        await each.until_up()
    async with calling(writer.port, "") as session:
        await until_sample(session, 2, PARTITIONS)
    async with calling(service.port, SANDBOX_KEY) as session:
        async with session.post("/events", json=event()) as answer:
            assert answer.status == 202
        getattr(nats_server, fault)()
        sent = [
            asyncio.create_task(status_of(session, wait))
            for wait in ({}, {"wait": "stored"})
        ]
        for each in (service, writer):
            each.send_signal(signal.SIGTERM)
        assert [await each.ended() for each in (service, writer)] == [0, 0]
        assert {await each for each in sent} <= {0, 503}
    for each in (service, writer):
        assert "service.stopped" in each.log.read_text()
        assert "service.shutdown_forced" not in each.log.read_text()
    if fault == "freeze":
        nats_server.thaw()


async def status_of(session: ClientSession, wait: dict[str, str]) -> int:
    """Send an event; return the status of the answer, or 0 without one."""
    with suppress(ClientError):
        async with session.post("/events", json=event(), params=wait) as answer:
            return answer.status
    return 0


class Swallowing:
    """A method that goes on after its first cancellation, as the library does."""

    def __init__(self, method: Callable[..., Awaitable[Any]]) -> None:
        self.swallowed = 0
        self.begun = asyncio.Event()
        self._method = method

    async def call(self, *arguments: Any) -> Any:
        """Wait to be cancelled for the first time, and then call the method."""
        if not self.swallowed:
            self.begun.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            self.swallowed += 1
        return await self._method(*arguments)


@asynccontextmanager
async def swallowing(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> AsyncIterator[Swallowing]:
    """Have a method swallow a cancellation, within a bounded time."""
    made = Swallowing(getattr(owner, name))

    async def call(*arguments: Any) -> Any:
        return await made.call(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(tasks, "CANCEL_AGAIN_S", 0.01)
        patched.setattr(owner, name, call)
        async with asyncio.timeout(GIVE_UP_S):
            yield made
    assert made.swallowed == 1


async def test_the_watch_of_the_stream_ends_though_a_cancellation_is_swallowed(
    queue_settings: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publisher ends, which would wait for the watch for ever."""
    async with (
        swallowing(monkeypatch, StreamWatch, "read") as read,
        open_publisher(queue_settings(), GIVE_UP_S),
    ):
        await read.begun.wait()


@on_sqlite
@pytest.mark.parametrize("owner, name", [(Leases, "renew"), (Deliveries, "take")])
async def test_a_writer_ends_though_a_cancellation_is_swallowed(
    queue_settings: MakeQueue,
    storage: StorageSettings,
    monkeypatch: pytest.MonkeyPatch,
    *,
    owner: type,
    name: str,
) -> None:
    """It neither renews its leases nor waits for messages after that."""
    settings = queue_settings(queue_partitions=1)
    async with (
        swallowing(monkeypatch, owner, name) as method,
        open_database(storage) as database,
        open_writer(settings, database),
    ):
        await method.begun.wait()


async def test_leases_are_given_back_in_bounded_time(
    queue_settings: MakeQueue,
    storage: StorageSettings,
    monkeypatch: pytest.MonkeyPatch,
    until: Until,
) -> None:
    """A server that does not answer does not keep the writer from its end."""
    monkeypatch.setattr("service.events.queue.writer.LEAVE_S", 0.01)
    never = asyncio.Event()

    async def release(_leases: Leases, _client: Client, _partition: int) -> None:
        await never.wait()
        raise QueueUnavailable

    monkeypatch.setattr(Leases, "release", release)
    async with (
        asyncio.timeout(GIVE_UP_S),
        open_database(storage) as database,
        open_writer(queue_settings(), database) as writer,
    ):
        await until(lambda: bool(writer.partitions))
