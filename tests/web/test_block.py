"""A block: every byte known beforehand, and written at once, on real connections."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pytest_aiohttp.plugin import AiohttpServer

from service.web.block import MOST_BUFFERED_BYTES, BlockResponse
from tests.patience import GIVE_UP_S

Until = Callable[[Callable[[], bool]], Awaitable[None]]

BODY: Final = b"12345"
HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
LARGE: Final = b"x" * (8 * MOST_BUFFERED_BYTES)
LARGE_HEAD: Final = f"HTTP/1.1 200 OK\r\nContent-Length: {len(LARGE)}\r\n\r\n".encode()


async def answer_block(_request: web.Request) -> web.StreamResponse:
    return BlockResponse(200, HEAD, BODY, body_size=len(BODY))


async def answer_large(_request: web.Request) -> web.StreamResponse:
    return BlockResponse(200, LARGE_HEAD, LARGE, body_size=len(LARGE))


async def answer_plain(_request: web.Request) -> web.StreamResponse:
    return web.Response(text="plain")


@pytest.fixture
async def server(aiohttp_server: AiohttpServer) -> TestServer:
    """Answers `/block` and `/large` with blocks, `/plain` as aiohttp does."""
    app = web.Application()
    app.router.add_get("/block", answer_block)
    app.router.add_get("/large", answer_large)
    app.router.add_get("/plain", answer_plain)
    return await aiohttp_server(app)


def asking(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode()


async def connect(
    server: TestServer,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    assert server.port is not None
    return await asyncio.open_connection(server.host, server.port)


async def test_a_block_is_sent_as_it_stands(server: TestServer) -> None:
    """Not a byte more or less, and the connection serves on."""
    reader, writer = await connect(server)
    async with asyncio.timeout(GIVE_UP_S):
        for _ in range(3):
            writer.write(asking("/block"))
            assert await reader.readexactly(len(HEAD + BODY)) == HEAD + BODY
    writer.close()
    await writer.wait_closed()


async def test_pipelined_requests_are_answered_in_order(server: TestServer) -> None:
    """Blocks and aiohttp's own answers mix on one connection, none overtaken."""
    reader, writer = await connect(server)
    paths = ["/block", "/plain", "/block", "/large", "/block", "/plain"]
    writer.write(b"".join(map(asking, paths)))

    answers = []
    async with asyncio.timeout(GIVE_UP_S):
        for _ in paths:
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = (
                int(line.split(b":")[1])
                for line in head.splitlines()
                if line.startswith(b"Content-Length")
            )
            answers.append(await reader.readexactly(length))
    writer.close()
    await writer.wait_closed()

    contents = {"/block": BODY, "/plain": b"plain", "/large": LARGE}
    assert answers == [contents[path] for path in paths]


async def test_a_slow_reader_holds_its_own_connection_back(
    server: TestServer, until: Until
) -> None:
    """Who asks on without reading is not answered on; others are, meanwhile."""
    _slow, unread = await connect(server)
    unread.transport.pause_reading()  # type: ignore[attr-defined]
    unread.write(asking("/large") * 20)
    await until(lambda: unsent_bytes(server) > MOST_BUFFERED_BYTES)
    reader, writer = await connect(server)
    async with asyncio.timeout(GIVE_UP_S):
        for _ in range(20):
            writer.write(asking("/block"))
            assert await reader.readexactly(len(HEAD + BODY)) == HEAD + BODY
            assert unsent_bytes(server) <= len(LARGE_HEAD + LARGE)
    for each in (writer, unread):
        each.transport.abort()


def unsent_bytes(server: TestServer) -> int:
    """What the server keeps for the callers that do not read."""
    assert server.runner is not None
    assert server.runner.server is not None
    transports = [each.transport for each in server.runner.server.connections]
    return sum(each.get_write_buffer_size() for each in transports if each)


class Gone:
    """A transport whose caller has left."""

    def is_closing(self) -> bool:
        return True


@pytest.mark.parametrize("transport", [None, Gone()], ids=["lost", "closing"])
async def test_a_caller_who_has_left_is_written_nothing(transport: Gone | None) -> None:
    """aiohttp is told in its own words, and drops the answer."""
    request = Mock(transport=transport)
    response = BlockResponse(200, HEAD, BODY, body_size=len(BODY))

    with pytest.raises(ConnectionError):
        await response.prepare(request)


async def test_callers_who_leave_amid_an_answer_do_no_harm(
    server: TestServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Reset while they are being sent to, they are forgotten without a word."""
    for _ in range(5):
        _, writer = await connect(server)
        writer.write(asking("/large") * 3)
        await asyncio.sleep(0)
        writer.transport.abort()

    reader, writer = await connect(server)
    writer.write(asking("/block"))
    async with asyncio.timeout(GIVE_UP_S):
        assert await reader.readexactly(len(HEAD + BODY)) == HEAD + BODY
    writer.close()
    await writer.wait_closed()
    assert caplog.records == []


def test_its_size_is_told_for_the_log() -> None:
    """`body_length` is that of the body alone, whatever its head."""
    response = BlockResponse(304, HEAD, b"", body_size=0)

    assert (response.status, response.body_length) == (304, 0)
    assert BlockResponse(200, HEAD, BODY, body_size=5).body_length == 5
