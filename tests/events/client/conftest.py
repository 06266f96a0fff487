"""A server that fails on request, and a client without waits."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from service.events.client import EventsClient, Undelivered, delivery, events_client
from tests.events.conftest import PAGE, SESSION
from tests.patience import GIVE_UP_S

Until = Callable[[Callable[[], bool]], Awaitable[None]]
Fail = Callable[[web.Request], Awaitable[web.StreamResponse]]

TRY_S: Final = GIVE_UP_S / 4


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client neither linger nor back off."""
    monkeypatch.setattr(events_client, "LINGER_S", 0.0)
    monkeypatch.setattr(delivery, "FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(events_client, "TRY_TIMEOUT_S", TRY_S)
    defaults = EventsClient.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "close_timeout_s", GIVE_UP_S)


async def view_pages(
    events: EventsClient, paths: range, session_id: str = SESSION
) -> list[str]:
    """Send a view of each numbered page; return the ids."""
    return [
        await events.send(
            "page interaction",
            "pageview",
            {**PAGE, "path": f"/{path}"},
            session_id=session_id,
        )
        for path in paths
    ]


def codes_of(undelivered: list[Undelivered]) -> set[str]:
    return {error.code for each in undelivered for error in each.errors}


class FailingServer:
    """A server that gives each request the next of `failures`, then accepts all."""

    def __init__(self) -> None:
        self.failures: Iterator[Fail] = iter(())
        self.bodies: list[bytes] = []
        self.accepted: list[str] = []
        self.undelivered: list[Undelivered] = []
        self.hangs = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.bodies.append(body)
        fail = next(self.failures, self.accept)
        return await fail(request)

    async def accept(self, request: web.Request) -> web.StreamResponse:
        """Accept all events of the request."""
        lines = (await request.read()).split(b"\n")
        ids = [msgspec.json.decode(line)["id"] for line in lines]
        self.accepted += ids
        return receipt(len(ids))


FAILING: Final = web.AppKey("FAILING", FailingServer)


def receipt(number: int) -> web.Response:
    """Return the receipt of this number of accepted events."""
    results = [{"id": "x", "status": "accepted"}] * number
    return web.json_response({"results": results}, status=202)


@asynccontextmanager
async def serving(server: FailingServer, port: int = 0) -> AsyncIterator[str]:
    """Serve the server; yield its URL."""
    app = web.Application(client_max_size=10**8)
    app[FAILING] = server
    app.router.add_post("/events", server.handle)
    app.router.add_route("*", "/elsewhere", server.handle)
    test_server = TestServer(app, host="127.0.0.1", port=port)
    async with test_server:
        yield f"http://127.0.0.1:{test_server.port}"


@asynccontextmanager
async def client_of(
    server: FailingServer, **options: Any
) -> AsyncIterator[EventsClient]:
    """Serve the server, and open a client that reports to `server.undelivered`."""
    options = {"on_undelivered": server.undelivered.append, **options}
    async with (
        serving(server) as url,
        EventsClient(url, "key", **options) as events,
    ):
        yield events


def answer(status: int, body: bytes = b"", **headers: str) -> Fail:
    """Return a failure with this answer."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}

    async def fail(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=named)

    return fail


async def hang(request: web.Request) -> web.StreamResponse:
    """Never answer."""
    request.app[FAILING].hangs += 1
    await asyncio.Event().wait()
    raise AssertionError("nobody sets that")
