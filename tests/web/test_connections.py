"""Connections over raw sockets: what is no request, who is slow, and how it ends."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple, Protocol

import pytest
from aiohttp import web
from msgspec.structs import replace
from structlog.typing import EventDict

from service.serving import ServiceRunner, listening
from service.settings import load
from service.web.connections import Connection
from service.web.context import request_context
from tests.patience import GIVE_UP_S

BRIEF_S: Final = 0.5
"""Long enough for a slow machine to send a request: uvloop's time is the real one."""
LONG_S: Final = 600.0
SERVER: Final = replace(
    load().settings.server,
    port=0,
    drain_s=0.0,
    header_timeout_s=LONG_S,
    write_timeout_s=LONG_S,
    keepalive_s=LONG_S,
)
"""Nothing is brief but what a test is about."""
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
        """Leave without a word."""
        self.writer.transport.abort()

    async def read(self) -> "Told":
        """One answer."""
        async with asyncio.timeout(GIVE_UP_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            line, *lines = head.decode().rstrip("\r\n").split("\r\n")
            headers = dict(each.split(": ", 1) for each in lines)
            body = await self.reader.readexactly(int(headers["Content-Length"]))
        return Told(int(line.split()[1]), headers, body)

    async def is_closed(self) -> bool:
        """Wait for the other end to close; False where it sends more instead."""
        async with asyncio.timeout(GIVE_UP_S):
            return await self.reader.read(1) == b""

    async def send(self, data: bytes) -> "Told":
        """Send bytes, and read one answer."""
        self.writer.write(data)
        return await self.read()


class Told(NamedTuple):
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

    app = web.Application(middlewares=[request_context(access_log=False)])
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


# --- what is no request -------------------------------------------------------------


@pytest.mark.parametrize(
    "sent, status",
    [
        pytest.param(b"hello\r\n\r\n", 400, id="no HTTP"),
        pytest.param(b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, id="no header"),
        pytest.param(b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n", 400, id="NUL"),
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
            b"GET / HTTP/1.1\r\n" + b"x" * 5_000 + b": a\r\n\r\n", 431, id="long name"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 500 + b"\r\n", 400, id="many headers"
        ),
    ],
)
async def test_what_is_no_request_gets_a_problem(
    serve: Serve, log_entries: list[EventDict], sent: bytes, status: int
) -> None:
    """It is answered in the one shape of errors, logged, and the connection closed."""
    served = await serve(max_line_bytes=1_000, max_field_bytes=4_000)
    caller = await served.connect()

    told = await caller.send(sent)

    problem = json.loads(told.body)
    assert (told.status, problem["status"]) == (status, status)
    assert told.headers["Content-Type"] == "application/problem+json"
    assert told.headers["X-Request-ID"] == problem["request_id"] != ""
    assert problem["code"] == "request_refused"
    assert await caller.is_closed()
    (entry,) = log_entries
    assert entry["event"] == "http.refused"
    assert entry["http.response.status_code"] == status


async def test_equal_bounds_are_still_answered(serve: Serve) -> None:
    """Where line and header may be as long, either too long is refused all the same."""
    served = await serve(max_line_bytes=1_000, max_field_bytes=1_000)

    told = await (await served.connect()).send(b"GET /" + b"x" * 2_000)

    assert told.status in {414, 431}


# --- who is slow --------------------------------------------------------------------


async def test_headers_that_never_end(
    serve: Serve, log_entries: list[EventDict]
) -> None:
    """Who has begun a request and does not end it is told so, and cut off."""
    served = await serve(header_timeout_s=BRIEF_S)
    caller = await served.connect()

    told = await caller.send(b"GET /hello HTTP/1.1\r\nHost: a")

    assert told.status == 408
    assert json.loads(told.body)["code"] == "request_refused"
    assert told.headers["Connection"] == "close"
    assert await caller.is_closed()
    assert [(e["event"], e["reason"]) for e in log_entries] == [
        ("http.timeout", "headers")
    ]


async def test_headers_that_drip(serve: Serve, until: Until) -> None:
    """Sending something now and then buys no more time."""
    served = await serve(header_timeout_s=BRIEF_S)
    caller = await served.connect()
    caller.writer.write(b"GET /hello HTTP/1.1\r\n")

    async def drip() -> None:
        while True:
            caller.writer.write(b"A: b\r\n")
            await asyncio.sleep(BRIEF_S / 10)

    dripping = asyncio.create_task(drip())
    told = await caller.read()
    dripping.cancel()

    assert told.status == 408


async def test_a_connection_without_a_request(serve: Serve) -> None:
    """Who connects and says nothing is cut off, and is told nothing."""
    served = await serve(header_timeout_s=BRIEF_S)

    assert await (await served.connect()).is_closed()


async def test_a_second_request_has_its_time_too(serve: Serve) -> None:
    """The bound holds for each request of a connection, not only for the first."""
    served = await serve(header_timeout_s=BRIEF_S)
    caller = await served.connect()
    assert (await caller.send(REQUEST)).status == 200

    assert (await caller.send(b"GET /hel")).status == 408


async def test_a_slow_answer_is_no_slow_request(serve: Serve) -> None:
    """While a handler works, its caller is not taken for one who sends nothing."""
    served = await serve(header_timeout_s=BRIEF_S, keepalive_s=BRIEF_S)
    caller = await served.connect()
    caller.writer.write(REQUEST.replace(b"hello", b"wait"))
    await served.is_waiting.wait()
    await asyncio.sleep(1.5 * BRIEF_S)
    served.may_answer.set()

    assert (await caller.read()).body == b"at last"


async def test_an_idle_connection_is_closed(serve: Serve) -> None:
    """After its last answer, a connection is kept for so long and no longer."""
    served = await serve(keepalive_s=BRIEF_S)
    caller = await served.connect()

    assert (await caller.send(REQUEST)).status == 200
    assert await caller.is_closed()


async def test_a_body_that_never_ends(serve: Serve) -> None:
    """A body that nobody waits for does not keep the connection after the answer."""
    served = await serve(header_timeout_s=BRIEF_S)
    caller = await served.connect()

    told = await caller.send(
        b"GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
    )

    assert told.body == b"hello"
    assert await caller.is_closed()


async def test_an_answer_that_nobody_reads(
    serve: Serve, log_entries: list[EventDict], until: Until
) -> None:
    """Who asks for much and does not read it loses the connection."""
    served = await serve(write_timeout_s=BRIEF_S)
    caller = await served.connect()
    caller.writer.write(REQUEST.replace(b"hello", b"big"))
    await served.is_waiting.wait()

    await until(lambda: not connections(served))

    assert [(e["event"], e["reason"]) for e in log_entries] == [
        ("http.timeout", "write")
    ]


async def test_an_answer_that_is_read_slowly(serve: Serve) -> None:
    """Who keeps reading gets it all, though it takes twice the bound."""
    served = await serve(write_timeout_s=2 * BRIEF_S)
    caller = await served.connect()
    caller.writer.write(REQUEST.replace(b"hello", b"big"))
    await caller.reader.readuntil(b"\r\n\r\n")

    for _ in range(8):
        await caller.reader.readexactly(BIG_BYTES // 8)
        await asyncio.sleep(BRIEF_S / 2)

    assert (await caller.send(REQUEST)).status == 200


async def test_an_unread_answer_at_the_end(serve: Serve, until: Until) -> None:
    """The last answer of a connection may not stay unread for ever either."""
    served = await serve(write_timeout_s=BRIEF_S)
    caller = await served.connect()
    closing = b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    caller.writer.write(closing)
    await served.is_waiting.wait()

    await until(lambda: not connections(served))


def connections(served: Served) -> list[web.RequestHandler]:
    """The connections that a service still holds."""
    assert served.runner.server is not None
    return served.runner.server.connections


# --- the end ------------------------------------------------------------------------


async def test_draining_closes_between_requests(serve: Serve) -> None:
    """While draining, each connection has one more answer, which says so."""
    served = await serve(drain_s=LONG_S / 2, shutdown_grace_s=LONG_S)
    idle, busy = await served.connect(), await served.connect()
    assert "Connection" not in (await idle.send(REQUEST)).headers
    busy.writer.write(REQUEST.replace(b"hello", b"wait"))
    await served.is_waiting.wait()
    closing = asyncio.create_task(served.runner.cleanup())
    await asyncio.sleep(0)

    fresh = await served.connect()
    for caller in (idle, fresh):
        told = await caller.send(REQUEST)
        assert (told.status, told.body) == (200, b"hello")
        assert told.headers["Connection"] == "close"
        assert await caller.is_closed()
    served.may_answer.set()
    assert (await busy.read()).body == b"at last"
    assert (await busy.send(REQUEST)).headers["Connection"] == "close"
    closing.cancel()


async def test_the_end_waits_for_what_is_being_read(serve: Serve) -> None:
    """An answer that is on its way when all closes arrives whole."""
    served = await serve()
    caller = await served.connect()
    caller.writer.write(REQUEST.replace(b"hello", b"big"))
    await served.is_waiting.wait()
    closing = asyncio.create_task(served.runner.cleanup())

    told = await caller.read()

    assert len(told.body) == BIG_BYTES
    await closing


async def test_the_end_does_not_wait_for_ever(serve: Serve) -> None:
    """A handler that does not end, and a caller who does not read, are cut at last."""
    served = await serve(shutdown_grace_s=BRIEF_S)
    stuck, deaf = await served.connect(), await served.connect()
    deaf.writer.write(REQUEST.replace(b"hello", b"big"))
    await served.is_waiting.wait()
    stuck.writer.write(REQUEST.replace(b"hello", b"wait"))
    await asyncio.sleep(0)

    await served.runner.cleanup()

    assert await stuck.is_closed()


async def test_the_url_is_served_by_such_connections() -> None:
    """What the command line serves is bounded so."""
    app = make_app(asyncio.Event(), asyncio.Event())
    seen: list[type[Any]] = []

    async def note(request: web.Request, _response: web.StreamResponse) -> None:
        seen.append(type(request.protocol))

    app.on_response_prepare.append(note)
    async with listening(app, SERVER) as url:
        host, port = url.removeprefix("http://").split(":")
        caller = Caller(*await asyncio.open_connection(host, int(port)))
        await caller.send(REQUEST)
        caller.writer.close()
        await caller.writer.wait_closed()
    assert seen == [Connection]
