"""A service on a real socket, whose queries on the period a test can hold."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
)
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import pytest

from service.app import create_app
from service.sandbox.server import RunningSandbox
from service.server.runner import listening
from service.usage.snapshots import store
from service.usage.snapshots.cancellation import QueryCancelled, check_cancelled
from service.usage.snapshots.selection import select
from service.web.unsent_bytes import UNSENT, UnsentBytes
from tests.conftest import MakeSettings, message
from tests.events.faults.conftest import cluster, cluster_storage, key, make_service
from tests.isolation.history import former_revision
from tests.launcher import Launcher, forked
from tests.metric_samples import value
from tests.running import Answer, Running, ask_once

# An archive of the code has no history, from which these tests take the former version.
collect_ignore = [] if former_revision() else ["test_upgrades.py"]

__all__ = ["cluster", "cluster_storage", "key", "make_service"]

MESSAGES: Final = 2_000
"""Messages of a period whose queries do not run in the event loop."""
BUFFER_BYTES: Final = 4_096
"""Size of the kernel's buffers of connections, which doubles it."""
LOOK_AGAIN_S: Final = 0.001

T = TypeVar("T")


class Held:
    """Queries, each of which computes until it is released or cancelled."""

    def __init__(self) -> None:
        self.running = 0
        self.cancelled = 0
        self.is_released = threading.Event()

    def until_released(self, compute: Callable[..., T]) -> Callable[..., T]:
        """Return a function that computes a query when the queries are released."""

        def compute_late(*arguments: Any) -> T:
            self.running += 1
            try:
                while not self.is_released.wait(LOOK_AGAIN_S):
                    check_cancelled()
            except QueryCancelled:
                self.cancelled += 1
                raise
            finally:
                self.running -= 1
            return compute(*arguments)

        return compute_late


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Hold all queries for pages until the end of the test."""
    held = Held()
    monkeypatch.setattr(store, "select", held.until_released(select))
    yield held
    held.is_released.set()


class Service:
    """A service that listens on a port."""

    def __init__(self, port: int, unsent: UnsentBytes) -> None:
        self.port = port
        self.unsent = unsent

    async def get(self, path: str) -> Answer:
        """Return the answer to a request on a connection of its own."""
        return await ask_once(self.port, path)

    async def send(self, path: str) -> asyncio.StreamWriter:
        """Send a request, and return its connection."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        await writer.drain()
        return writer


class Serve(Protocol):
    """A context in which a service with these settings listens."""

    def __call__(
        self, messages: int = MESSAGES, **sections: dict[str, Any]
    ) -> AbstractAsyncContextManager[Service]: ...


@pytest.fixture
def serve(settings: MakeSettings, sandbox: RunningSandbox) -> Serve:
    """A factory of services on a real socket, with a period of so many messages."""

    @asynccontextmanager
    async def run(
        messages: int = MESSAGES, **sections: dict[str, Any]
    ) -> AsyncIterator[Service]:
        sandbox.sandbox.set_messages([message(number) for number in range(messages)])
        server = {"port": 0, "drain_s": 0.0, **sections.pop("server", {})}
        cache = {"ttl_s": 3_600.0, **sections.pop("cache", {})}
        made = settings(
            upstream={"base_url": sandbox.url},
            vehicles={"enabled": False},
            server=server,
            cache=cache,
            **sections,
        )
        app = create_app(made)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            # Accepted connections inherit it, so that the kernel keeps little.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            listener.setblocking(False)  # noqa: FBT003
            async with listening(app, made.server, inherited=[listener]) as url:
                yield Service(int(url.rpartition(":")[2]), app[UNSENT])

    return run


Run = Callable[..., AbstractContextManager[Running]]
"""`run(log, "--workers", "2", server__drain_s=1)` serves with these settings."""


@pytest.fixture
def run(launcher: Launcher) -> Run:
    """A factory of running services, as forks that start at once."""
    return partial(forked, launcher)


Until = Callable[[Callable[[], bool]], Awaitable[None]]


def active() -> float:
    """Return the number of requests that are being answered or sent."""
    return value("http_server_active_requests", http_request_method="GET")
