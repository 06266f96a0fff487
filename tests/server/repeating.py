"""The service with its fast path, and beside it a server that has none.

Both answer from the same application, so that their answers can be compared.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from aiohttp import web

from service.app import create_app
from service.server.connection_server import ConnectionServer
from service.server.connections import Bounds
from service.server.fast_path import Client, FastPath
from service.server.runner import ServiceRunner
from service.settings import Settings
from service.web.unsent_bytes import UnsentBytes
from tests.patience import GIVE_UP_S

VIN: Final = "1XPWD40X1ED215307"
LENGTH: Final = re.compile(rb"\r\nContent-Length: (\d+)\r\n", re.IGNORECASE)
GET: Final = b"GET /usage HTTP/1.1\r\nHost: a.test\r\n\r\n"
LOOKUP: Final = GET.replace(b"/usage", f"/vehicles/lookup?vin={VIN}".encode())


class Peer:
    """A client's end of a connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, request: bytes) -> bytes:
        """Send a request and return its answer; empty at the end of the connection."""
        self.writer.write(request)
        return await self.receive(is_head=request.startswith(b"HEAD "))

    async def receive(self, *, is_head: bool = False) -> bytes:
        """Return the next answer; empty at the end of the connection."""
        async with asyncio.timeout(GIVE_UP_S):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return b""
            length = LENGTH.search(head)
            if is_head or length is None or head[9:12] in {b"304", b"100"}:
                return head
            return head + await self.reader.readexactly(int(length[1]))


class Repeating(NamedTuple):
    """A running service, and the answers of its fast path so far."""

    app: web.Application
    runner: ServiceRunner
    port: int
    ordinary_port: int
    repeated: list[bytes]
    peers: list[Peer]

    async def connect(self, *, is_ordinary: bool = False, host: str = "") -> Peer:
        """Open a connection, by default to the server with the fast path."""
        port = self.ordinary_port if is_ordinary else self.port
        local = (host, 0) if host else None
        opened = await asyncio.open_connection("127.0.0.1", port, local_addr=local)
        peer = Peer(*opened)
        self.peers.append(peer)
        return peer


@asynccontextmanager
async def repeating(settings: Settings) -> AsyncIterator[Repeating]:
    """Run the service with these settings, and the server without a fast path."""
    app = create_app(settings)
    runner = ServiceRunner(app, settings.server)
    await runner.setup()
    server = runner.server
    assert isinstance(server, ConnectionServer)
    repeated = _watched(server.fast_path)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    bounds, unsent = Bounds.of(settings.server), UnsentBytes(1_000_000)
    ordinary = ConnectionServer.of(server, bounds, unsent)
    listening = await asyncio.get_running_loop().create_server(ordinary, "127.0.0.1")
    port: int = listening.sockets[0].getsockname()[1]
    service = Repeating(app, runner, site.port, port, repeated, [])
    try:
        yield service
    finally:
        for peer in service.peers:
            peer.writer.transport.abort()
        listening.close()
        await ordinary.shutdown(0.1)
        await runner.cleanup()


def _watched(fast_path: FastPath | None) -> list[bytes]:
    """Return a list to which each answer of a fast path is added."""
    assert fast_path is not None
    repeated: list[bytes] = []
    answer = fast_path.answer

    def watch(data: bytes, client: Client) -> Sequence[bytes] | None:
        answered = answer(data, client)
        if answered is not None:
            repeated.append(b"".join(answered))
        return answered

    fast_path.answer = watch  # type: ignore[method-assign]
    return repeated
