"""A TCP proxy before a server, which a test can make drop packets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

CHUNK_BYTES: Final = 65_536


class Proxy:
    """Forwards connections to a server, as long as its two directions are open."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._to_server = asyncio.Event()
        self._to_client = asyncio.Event()
        self._connections: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.forward()

    def forward(self) -> None:
        """Forward everything, also what has waited meanwhile."""
        self._to_server.set()
        self._to_client.set()

    def drop(self) -> None:
        """Forward nothing; new connections are accepted and get no answer."""
        self._to_server.clear()
        self._to_client.clear()

    def drop_answers(self) -> None:
        """Forward nothing to the clients any more."""
        self._to_client.clear()

    def disconnect(self) -> None:
        """End all connections."""
        for writer in self._connections:
            writer.transport.abort()
        self._connections.clear()

    async def handle(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Forward one connection until one of its ends is closed."""
        self._connections.add(writer)
        await self._to_server.wait()
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        self._connections.add(server_writer)
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, server_writer, self._to_server))
            group.create_task(_copy(server_reader, writer, self._to_client))


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_open: asyncio.Event
) -> None:
    try:
        while chunk := await reader.read(CHUNK_BYTES):
            await is_open.wait()
            writer.write(chunk)
            await writer.drain()
    except ConnectionError:
        pass  # as a network: the other end sees it too
    await is_open.wait()
    writer.close()


@asynccontextmanager
async def proxying(host: str, port: int) -> AsyncIterator[Proxy]:
    """Run a proxy on a free port."""
    proxy = Proxy(host, port)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.handle(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        proxy.disconnect()
        await asyncio.sleep(0)  # aborted transports close their sockets now
