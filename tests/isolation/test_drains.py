"""A drain loses no connection: each one that is accepted gets its answer."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web
from msgspec.structs import replace

from service.server import listener
from service.server.connection_server import ConnectionServer
from service.server.runner import ServiceRunner, listening
from service.server.shutdown import Ending
from service.settings import load
from tests.isolation.callers import HOST, Tally, calling
from tests.isolation.conftest import Run
from tests.patience import GIVE_UP_S
from tests.ports import free_port
from tests.running import Running, ask, ask_once, exit_status, until

DRAINS: Final = 2
ANSWERS: Final = 100
"""Answers between two signals, so that the load is steady."""
WORKERS: Final = [pytest.param(1, id="one"), pytest.param(2, id="two workers")]
LOAD: Final = {
    "server__drain_s": 0.1,
    # A busy machine answers the last requests late.
    "server__shutdown_grace_s": 60.0,
    "logging__access": False,
}
SERVER: Final = replace(load().settings.server, port=0, drain_s=0.0)
REQUEST: Final = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"


async def until_answered(tally: Tally, service: Running) -> None:
    """Wait for some more answers of a running service."""
    enough = tally.answered + ANSWERS
    await until(lambda: tally.answered >= enough or service.process.poll() is not None)
    assert service.process.poll() is None


async def drain(run: Run, tmp_path: Path, drains: int, workers: int) -> Tally:
    """Start and stop a service on one port, again and again, under load."""
    port = free_port()
    options = ("--port", str(port), "--workers", str(workers))
    async with calling(port) as tally:
        for number in range(drains):
            with run(tmp_path / f"log-{number}", *options, **LOAD) as service:
                await until_answered(tally, service)
                service.process.send_signal(signal.SIGTERM)
                assert await exit_status(service.process) == 0
                assert service.events("service.shutdown_forced") == []
    return tally


@pytest.mark.parametrize("workers", WORKERS)
async def test_no_request_fails_in_drains(
    run: Run, workers: int, tmp_path: Path
) -> None:
    """With a connection for each request, none is reset or closed unanswered."""
    tally = await drain(run, tmp_path, DRAINS, workers)

    assert tally.failures == []
    assert tally.answered >= DRAINS * ANSWERS


# --- one connection at a time -------------------------------------------------------


async def answer_soon(_request: web.Request) -> web.Response:
    return web.Response(text="answer")


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    """A server in this process, without a drain; it closes when the context ends."""
    app = web.Application()
    app.router.add_route("*", "/", answer_soon)
    async with listening(app, SERVER) as url:
        yield int(url.rpartition(":")[2])


def connect(port: int) -> socket.socket:
    """A connection that the kernel has accepted, and the server perhaps not."""
    return socket.create_connection((HOST, port), GIVE_UP_S)


def received(connection: socket.socket) -> bytes:
    """All bytes until the server closes; raises if it resets the connection."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65_536), b""))


async def test_waiting_connections_are_accepted() -> None:
    """Connections in the accept queue get their answers, in whatever number."""
    connections = []
    async with serving() as port:
        # The event loop accepts nothing meanwhile.
        for _ in range(200):
            connections.append(connect(port))
            connections[-1].sendall(REQUEST)

    answers = [await asyncio.to_thread(received, each) for each in connections]
    assert [each.count(b"answer") for each in answers] == [1] * 200
    assert all(b"Connection: close" in each for each in answers)


async def test_a_new_connection_may_send_its_request() -> None:
    """A connection that was just accepted has time for its first request."""
    async with serving() as port:
        silent = connect(port)
        asyncio.get_running_loop().call_later(0.3, silent.sendall, REQUEST)

    assert b"answer" in await asyncio.to_thread(received, silent)


async def test_incomplete_headers_may_be_completed() -> None:
    """A request that has begun to arrive on an idle connection is answered."""
    app = web.Application()
    app.router.add_get("/", answer_soon)
    runner = ServiceRunner(app, SERVER)
    await runner.setup()
    with socket.create_server((HOST, 0)) as listening_socket:
        port = listening_socket.getsockname()[1]
        await web.SockSite(runner, listening_socket.dup()).start()
    reader, writer = await asyncio.open_connection(HOST, port)
    await ask(reader, writer, "/")
    writer.write(REQUEST[:10])
    assert isinstance(runner.server, ConnectionServer)
    (connection,) = runner.server._client_connections()
    await until(lambda: connection._has_begun)
    asyncio.get_running_loop().call_later(0.3, writer.write, REQUEST[10:])
    await runner.cleanup()

    assert b"answer" in await reader.read()
    writer.close()


async def test_a_body_in_transit_is_received() -> None:
    """The rest of a body that is received while the server closes is not dropped."""
    head = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nfirst"
    bodies: list[bytes] = []
    begun = asyncio.Event()

    async def read(request: web.Request) -> web.Response:
        begun.set()
        bodies.append(await request.read())
        return web.Response(text="answer")

    app = web.Application()
    app.router.add_post("/", read)
    async with listening(app, SERVER) as url:
        port = int(url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(head)
        await begun.wait()
        asyncio.get_running_loop().call_later(0.3, writer.write, b"other")

    assert b"answer" in await reader.read()
    assert bodies == [b"firstother"]
    writer.close()


async def test_connections_that_stay_silent_are_closed() -> None:
    """A new connection without a request delays the end for a short time only."""
    async with asyncio.timeout(GIVE_UP_S), serving() as port:
        silent = connect(port)

    assert await asyncio.to_thread(received, silent) == b""


async def test_idle_connections_are_closed_at_once() -> None:
    """A connection that had its answer is not given time for another request."""
    async with serving() as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        await ask(reader, writer, "/")
    assert await reader.read() == b""
    writer.close()


async def test_new_connections_are_refused_in_the_end() -> None:
    """When the server has closed, its port is free."""
    async with serving() as port:
        pass
    with pytest.raises(ConnectionRefusedError):
        await ask_once(port, "/")


async def test_a_socket_that_other_processes_use_stays_open() -> None:
    """A worker that retires leaves waiting connections to the others."""
    with socket.create_server((HOST, 0)) as shared:
        ending = Ending()
        ending.keeps_listening = True
        runner = ServiceRunner(web.Application(), SERVER, ending)
        await runner.setup()
        await web.SockSite(runner, shared.dup()).start()
        port = shared.getsockname()[1]
        await runner.cleanup()
        listener.close_all(ending.sockets)

        with connect(port), shared.accept()[0] as accepted:
            assert accepted.getpeername()[0] == HOST


async def test_handshakes_that_have_begun_are_finished() -> None:
    """The filter drops the first packet of a connection, and no later one."""
    with socket.create_server((HOST, 0)) as listening_socket:
        listening_socket.settimeout(0)
        early = connect(listening_socket.getsockname()[1])
        await listener.finish_handshakes([listening_socket])
        late = socket.socket()
        late.settimeout(0)
        late.connect_ex(listening_socket.getsockname())

        accepted, _ = listening_socket.accept()
        with pytest.raises(BlockingIOError):
            listening_socket.accept()
        early.sendall(b"hello")
        accepted.settimeout(GIVE_UP_S)
        assert accepted.recv(5) == b"hello"
        for each in (early, late, accepted):
            each.close()
