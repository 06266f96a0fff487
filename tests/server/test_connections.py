"""Connections over raw sockets: malformed requests, time limits and shutdown."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple, Protocol

import pytest
from aiohttp import web
from msgspec.structs import replace
from structlog.typing import EventDict

from service.server.runner import ServiceRunner
from service.settings import load
from service.web.request_context import Reports, request_context
from tests.clock import LoopTime
from tests.patience import GIVE_UP_S

BRIEF_S: Final = 0.5
"""Long enough for a slow machine to send a request: uvloop's time is the real one."""
LIMIT_S: Final = 60.0
"""A time limit that only the loop's time reaches, which the test lets pass."""
LONG_S: Final = 600.0
SERVER: Final = replace(
    load().settings.server,
    port=0,
    drain_s=0.0,
    header_timeout_s=LONG_S,
    write_timeout_s=LONG_S,
    keepalive_s=LONG_S,
)
"""A test shortens the time limit that it is about."""
REQUEST: Final = b"GET /hello HTTP/1.1\r\nHost: a.test\r\n\r\n"
BIG_BYTES: Final = 64 * 1024 * 1024
"""More than all buffers on the way can take."""

Until = Callable[[Callable[[], bool]], Awaitable[None]]


class Served(NamedTuple):
    """A service, its address, and what its slow handler waits for."""

    runner: ServiceRunner
    port: int
    is_waiting: asyncio.Event
    may_answer: asyncio.Event
    stack: AsyncExitStack

    async def connect(self) -> "Caller":
        """A caller on a connection of its own, which ends with the test."""
        caller = Caller(*await asyncio.open_connection("127.0.0.1", self.port))
        self.stack.callback(caller.abort)
        return caller


class Caller(NamedTuple):
    """One end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def abort(self) -> None:
        """Abort the connection."""
        self.writer.transport.abort()

    async def read(self) -> "Received":
        """One answer."""
        async with asyncio.timeout(GIVE_UP_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            line, *lines = head.decode().rstrip("\r\n").split("\r\n")
            headers = dict(each.split(": ", 1) for each in lines)
            body = await self.reader.readexactly(int(headers["Content-Length"]))
        return Received(int(line.split()[1]), headers, body)

    async def is_closed(self) -> bool:
        """Wait for the other end to close; False where it sends more instead."""
        async with asyncio.timeout(GIVE_UP_S):
            return await self.reader.read(1) == b""

    async def send(self, data: bytes) -> "Received":
        """Send bytes, and read one answer."""
        self.writer.write(data)
        return await self.read()


class Received(NamedTuple):
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Serve(Protocol):
    """Serves a small application on a free port, with these settings."""

    async def __call__(self, **keys: Any) -> Served: ...


def make_app(is_waiting: asyncio.Event, may_answer: asyncio.Event) -> web.Application:
    """An application with an answer that is quick, one that waits, and a big one."""

    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def wait(_request: web.Request) -> web.Response:
        is_waiting.set()
        await may_answer.wait()
        return web.Response(text="at last")

    async def big(_request: web.Request) -> web.Response:
        is_waiting.set()
        return web.Response(body=bytes(BIG_BYTES))

    app = web.Application(middlewares=[request_context(Reports(access_log=False))])
    app.add_routes(
        [web.get("/hello", hello), web.get("/wait", wait), web.get("/big", big)]
    )
    return app


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """A factory of services; all are closed at the end, without waiting for callers."""
    async with AsyncExitStack() as stack:

        async def start(**keys: Any) -> Served:
            is_waiting, may_answer = asyncio.Event(), asyncio.Event()
            server = replace(SERVER, **keys)
            runner = ServiceRunner(make_app(is_waiting, may_answer), server)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            stack.callback(may_answer.set)
            site = web.TCPSite(runner, server.host, 0)
            await site.start()
            return Served(runner, site.port, is_waiting, may_answer, stack)

        yield start


# --- malformed requests -------------------------------------------------------------


@pytest.mark.parametrize(
    "sent, status",
    [
        pytest.param(b"hello\r\n\r\n", 400, id="no HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01", 400, id="TLS"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400, id="length"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n",
            400,
            id="smuggling",
        ),
        pytest.param(
            b"GET /" + b"x" * 2_000 + b" HTTP/1.1\r\n\r\n", 414, id="long line"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nA: " + b"x" * 5_000 + b"\r\n\r\n", 431, id="long header"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 500 + b"\r\n", 400, id="many headers"
        ),
    ],
)
async def test_a_malformed_request_gets_a_problem(
    serve: Serve, log_entries: list[EventDict], sent: bytes, status: int
) -> None:
    """It is logged, and the connection is closed."""
    served = await serve(max_line_bytes=1_000, max_field_bytes=4_000)
    caller = await served.connect()

    received = await caller.send(sent)

    problem = json.loads(received.body)
    assert (received.status, problem["status"]) == (status, status)
    assert received.headers["Content-Type"] == "application/problem+json"
    assert received.headers["X-Request-ID"] == problem["request_id"] != ""
    assert problem["code"] == "request_refused"
    assert await caller.is_closed()
    (entry,) = log_entries
    assert entry["event"] == "http.refused"
    assert entry["http.response.status_code"] == status


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"CONNECT a.test:80 HTTP/1.1\r\nContent-Length: %d", id="tunnel"),
        pytest.param(
            b"CONNECT a.test:80 HTTP/1.1\r\nTransfer-Encoding: chunked\r\nA: %d",
            id="chunked tunnel",
        ),
        pytest.param(
            b"GET /hello HTTP/1.1\r\nTransfer-Encoding:\r\nContent-Length: %d",
            id="empty coding",
        ),
        pytest.param(
            b"GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n"
            b"Transfer-Encoding: chunked\r\nA: %d",
            id="chunked HTTP/1.0",
        ),
        pytest.param(
            b"GET /hello HTTP/1.1\r\nContent-Length: 18446744073709551615\r\nA: %d",
            id="largest number",
        ),
    ],
)
async def test_a_body_is_not_read_as_a_request(serve: Serve, head: bytes) -> None:
    """A request with a body whose end is doubtful gets one answer, and the end."""
    served = await serve()
    caller = await served.connect()
    begin = head % len(REQUEST) + b"\r\nHost: a.test\r\n\r\n"

    received = await caller.send(begin + REQUEST)

    assert received.status == 400
    assert received.headers["Connection"] == "close"
    assert json.loads(received.body)["code"] == "request_refused"
    assert await caller.is_closed()


async def test_equal_limits_are_enforced(serve: Serve) -> None:
    """A line or header that is too long is refused, also with equal limits."""
    served = await serve(max_line_bytes=1_000, max_field_bytes=1_000)

    received = await (await served.connect()).send(b"GET /" + b"x" * 2_000)

    assert received.status in {414, 431}


# --- time limits --------------------------------------------------------------------


async def test_headers_that_never_end(
    serve: Serve, log_entries: list[EventDict]
) -> None:
    """An incomplete request gets 408, and the connection is closed."""
    served = await serve(header_timeout_s=BRIEF_S)
    caller = await served.connect()

    received = await caller.send(b"GET /hello HTTP/1.1\r\nHost: a")

    assert received.status == 408
    assert json.loads(received.body)["code"] == "request_refused"
    assert received.headers["Connection"] == "close"
    assert await caller.is_closed()
    assert [(e["event"], e["reason"]) for e in log_entries] == [
        ("http.timeout", "headers")
    ]


async def test_headers_that_drip(serve: Serve, until: Until) -> None:
    """Sending single lines does not extend the time."""
    served = await serve(header_timeout_s=BRIEF_S)
    caller = await served.connect()
    caller.writer.write(b"GET /hello HTTP/1.1\r\n")

    async def drip() -> None:
        while True:
            caller.writer.write(b"A: b\r\n")
            await asyncio.sleep(BRIEF_S / 10)

    dripping = asyncio.create_task(drip())
    received = await caller.read()
    dripping.cancel()

    assert received.status == 408


async def test_a_connection_without_a_request(serve: Serve) -> None:
    """It is closed without an answer."""
    served = await serve(header_timeout_s=BRIEF_S)

    assert await (await served.connect()).is_closed()


async def test_a_second_request_has_its_time_too(serve: Serve) -> None:
    """Each request of a connection has the time limit."""
    served = await serve(header_timeout_s=BRIEF_S)
    caller = await served.connect()
    assert (await caller.send(REQUEST)).status == 200

    assert (await caller.send(b"GET /hel")).status == 408


async def test_a_slow_answer_is_no_slow_request(
    serve: Serve, loop_time: LoopTime
) -> None:
    """The time of a handler is not counted."""
    served = await serve(header_timeout_s=LIMIT_S, keepalive_s=LIMIT_S)
    caller = await served.connect()
    caller.writer.write(REQUEST.replace(b"hello", b"wait"))
    await served.is_waiting.wait()
    await loop_time.pass_s(1.5 * LIMIT_S)
    served.may_answer.set()

    assert (await caller.read()).body == b"at last"


async def test_an_idle_connection_is_closed(serve: Serve) -> None:
    """It is closed after `keepalive_s`."""
    served = await serve(keepalive_s=BRIEF_S)
    caller = await served.connect()

    assert (await caller.send(REQUEST)).status == 200
    assert await caller.is_closed()


async def test_a_body_that_never_ends(serve: Serve) -> None:
    """An unread body does not keep the connection open."""
    served = await serve(header_timeout_s=BRIEF_S)
    caller = await served.connect()

    received = await caller.send(
        b"GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
    )

    assert received.body == b"hello"
    assert await caller.is_closed()


async def test_an_answer_that_nobody_reads(
    serve: Serve, log_entries: list[EventDict], until: Until
) -> None:
    """A client that does not read its answer is disconnected."""
    served = await serve(write_timeout_s=BRIEF_S)
    caller = await served.connect()
    caller.writer.write(REQUEST.replace(b"hello", b"big"))
    await served.is_waiting.wait()

    await until(lambda: not connections(served))

    assert [(e["event"], e["reason"]) for e in log_entries] == [
        ("http.timeout", "write")
    ]


async def test_an_answer_that_is_read_slowly(serve: Serve, loop_time: LoopTime) -> None:
    """A client that reads on gets the whole answer after the time limit too."""
    served = await serve(write_timeout_s=LIMIT_S)
    caller = await served.connect()
    caller.writer.write(REQUEST.replace(b"hello", b"big"))
    await caller.reader.readuntil(b"\r\n\r\n")

    for _ in range(8):
        await caller.reader.readexactly(BIG_BYTES // 8)
        await loop_time.pass_s(LIMIT_S / 4)

    assert (await caller.send(REQUEST)).status == 200


async def test_an_unread_answer_at_the_end(serve: Serve, until: Until) -> None:
    """The last answer of a connection has the time limit too."""
    served = await serve(write_timeout_s=BRIEF_S)
    caller = await served.connect()
    closing = b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    caller.writer.write(closing)
    await served.is_waiting.wait()

    await until(lambda: not connections(served))


def connections(served: Served) -> list[web.RequestHandler]:
    """The open connections of a service."""
    assert served.runner.server is not None
    return served.runner.server.connections


# --- shutdown ------------------------------------------------------------------------


async def test_draining_closes_between_requests(serve: Serve) -> None:
    """While draining, each connection gets one more answer."""
    served = await serve(drain_s=LONG_S / 2, shutdown_grace_s=LONG_S)
    idle, busy = await served.connect(), await served.connect()
    assert "ClientConnection" not in (await idle.send(REQUEST)).headers
    busy.writer.write(REQUEST.replace(b"hello", b"wait"))
    await served.is_waiting.wait()
    closing = asyncio.create_task(served.runner.cleanup())
    await asyncio.sleep(0)

    fresh = await served.connect()
    for caller in (idle, fresh):
        received = await caller.send(REQUEST)
        assert (received.status, received.body) == (200, b"hello")
        assert received.headers["Connection"] == "close"
        assert await caller.is_closed()
    served.may_answer.set()
    assert (await busy.read()).body == b"at last"
    assert (await busy.send(REQUEST)).headers["Connection"] == "close"
    closing.cancel()


async def test_shutdown_waits_for_an_answer_to_be_read(serve: Serve) -> None:
    """An answer that is being sent arrives completely."""
    served = await serve()
    caller = await served.connect()
    caller.writer.write(REQUEST.replace(b"hello", b"big"))
    await served.is_waiting.wait()
    closing = asyncio.create_task(served.runner.cleanup())

    received = await caller.read()

    assert len(received.body) == BIG_BYTES
    await closing


async def test_shutdown_has_a_time_limit(serve: Serve) -> None:
    """A hanging handler and a client that does not read are aborted."""
    served = await serve(shutdown_grace_s=BRIEF_S)
    stuck, deaf = await served.connect(), await served.connect()
    deaf.writer.write(REQUEST.replace(b"hello", b"big"))
    await served.is_waiting.wait()
    stuck.writer.write(REQUEST.replace(b"hello", b"wait"))
    await asyncio.sleep(0)

    await served.runner.cleanup()

    assert await stuck.is_closed()
