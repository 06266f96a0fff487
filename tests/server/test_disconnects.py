"""Clients that disconnect before they have the answer: neither an error nor a 200."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final

import pytest
from aiohttp import web
from msgspec.structs import replace
from structlog.typing import EventDict

from service.server.runner import ServiceRunner
from service.settings import load
from service.web.client_stream import ClientStream
from service.web.request_context import Reports, request_context
from tests.metric_samples import growth
from tests.patience import GIVE_UP_S

DURATION: Final = "http_server_request_duration_seconds"
CHUNK: Final = bytes(256 * 1024)
BRIEF_S: Final = 0.3

Until = Callable[[Callable[[], bool]], Awaitable[None]]
Serve = Callable[..., Awaitable[int]]


async def stream(request: web.Request) -> web.StreamResponse:
    """Send an answer without an end."""
    response = web.StreamResponse()
    sending = ClientStream(request, response)
    await sending.start()
    while True:
        await sending.write(CHUNK)


async def wait(request: web.Request) -> web.Response:
    """Answer when the client has disconnected."""
    async with asyncio.timeout(GIVE_UP_S):
        while request.transport is not None:  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0)
    return web.Response()


async def stream_late(request: web.Request) -> web.StreamResponse:
    """Begin to send an answer when the client has disconnected."""
    await wait(request)
    return await stream(request)


async def fail(_request: web.Request) -> web.Response:
    """Fail with a connection that is not the client's."""
    raise ConnectionResetError("the database")


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """A factory that serves these handlers over sockets, and returns the port."""
    async with AsyncExitStack() as stack:

        async def start(**keys: Any) -> int:
            app = web.Application(
                middlewares=[request_context(Reports(access_log=True))]
            )
            routes = (
                *(("/stream", stream), ("/late", stream_late)),
                *(("/wait", wait), ("/fail", fail)),
            )
            app.add_routes([web.get(path, handler) for path, handler in routes])
            given = {"port": 0, "drain_s": 0.0, "write_timeout_s": GIVE_UP_S, **keys}
            runner = ServiceRunner(app, replace(load().settings.server, **given))
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            return site.port

        yield start


async def request(port: int, path: str) -> asyncio.StreamWriter:
    """Send a request; return the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
    if path == "/stream":
        await reader.readexactly(len(CHUNK))
        # What is not read stays in the buffers of the connection.
        writer.transport.pause_reading()  # type: ignore[attr-defined]
    return writer


def answered(entries: list[EventDict]) -> list[EventDict]:
    """Return the lines of answered requests."""
    return [each for each in entries if each["event"] == "http.request"]


@pytest.mark.parametrize("path", ["/stream", "/wait", "/late"])
async def test_a_client_that_disconnects_has_its_own_outcome(
    serve: Serve,
    until: Until,
    log_entries: list[EventDict],
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is logged and counted as 499, without a traceback."""
    # Otherwise the end of the connection belongs to the request.
    monkeypatch.setattr("service.server.connections.HALF_CLOSE_S", -1.0)
    labels = {"http_request_method": "GET", "http_route": path}
    added = growth()
    writer = await request(await serve(), path)
    writer.transport.abort()
    await until(lambda: bool(answered(log_entries)))

    (line,) = answered(log_entries)
    assert (line["http.response.status_code"], line["outcome"]) == (
        499,
        "client_disconnected",
    )
    assert [e["event"] for e in log_entries if e["log_level"] == "error"] == []
    count = f"{DURATION}_count"
    assert added(count, **labels, http_response_status_code="499") == 1
    assert added(count, **labels, http_response_status_code="500") == 0


async def test_the_write_time_limit_is_no_fault_of_ours(
    serve: Serve, until: Until, log_entries: list[EventDict]
) -> None:
    """A client that does not read has disconnected for the log."""
    writer = await request(await serve(write_timeout_s=BRIEF_S), "/stream")
    await until(lambda: bool(answered(log_entries)))
    writer.transport.abort()

    (line,) = answered(log_entries)
    assert line["outcome"] == "client_disconnected"
    assert "http.timeout" in [each["event"] for each in log_entries]
    assert "http.error" not in [each["event"] for each in log_entries]


async def test_the_duration_ends_when_the_answer_is_ready(
    serve: Serve, until: Until, log_entries: list[EventDict]
) -> None:
    """The time in which a client reads slowly is not the service's."""
    writer = await request(await serve(write_timeout_s=2 * BRIEF_S), "/stream")
    await until(lambda: bool(answered(log_entries)))
    writer.transport.abort()

    (line,) = answered(log_entries)
    assert line["duration_s"] < BRIEF_S


async def test_another_lost_connection_is_an_error(
    serve: Serve, until: Until, log_entries: list[EventDict]
) -> None:
    """Only the client's own connection excuses the service."""
    writer = await request(await serve(), "/fail")
    await until(lambda: bool(answered(log_entries)))
    writer.transport.abort()

    (line,) = answered(log_entries)
    assert line["http.response.status_code"] == 500
    assert "http.error" in [each["event"] for each in log_entries]
