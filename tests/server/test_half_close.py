"""The end of a client's half of a connection, and requests in any pieces."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

import pytest
from aiohttp import web
from msgspec.structs import replace

from service.server import connections
from service.server.connections import ClientConnection
from service.server.runner import ServiceRunner
from service.settings import load
from service.web.request_context import Reports, request_context
from tests.conformance.checker import Received, faults_of, read_answers
from tests.patience import GIVE_UP_S

HOST: Final = "Host: a.test\r\n"
GET: Final = f"GET /quick HTTP/1.1\r\n{HOST}\r\n".encode()
UPLOAD: Final = f"POST /body HTTP/1.1\r\n{HOST}Content-Length: 2\r\n\r\n".encode()
UPGRADE: Final = (
    f"GET /slow HTTP/1.1\r\n{HOST}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
).encode()
JUNK: Final = b"hello\r\n\r\n"
WINDOW_S: Final = 0.02
KEEPALIVE_S: Final = 0.2
"""After it, connections end that nothing else has ended."""


class Conversation(NamedTuple):
    """A client's end of a connection, and the service's."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    service: ClientConnection

    def arrive(self, pieces: Sequence[bytes]) -> None:
        """Let the service read pieces, each in a read of its own."""
        for piece in pieces:
            self.service.data_received(piece)

    async def answers(self) -> list[Received]:
        """End the sending half, and return all answers, each free of faults."""
        self.writer.write_eof()
        async with asyncio.timeout(GIVE_UP_S):
            answers = read_answers(await self.reader.read(), [])
        assert [fault for each in answers for fault in faults_of(each)] == []
        return answers


async def quick(_request: web.Request) -> web.Response:
    """Answer at once."""
    return web.Response(text="quick")


async def slow(_request: web.Request) -> web.Response:
    """Answer after some turns of the loop."""
    for _ in range(20):
        await asyncio.sleep(0)
    return web.Response(text="slow")


async def body(request: web.Request) -> web.Response:
    """Answer with the body, some turns of the loop after it has arrived."""
    received = await request.read()
    await slow(request)
    return web.Response(body=received, content_type="text/plain")


@pytest.fixture
async def conversation() -> AsyncIterator[Conversation]:
    """A connection to a service of these handlers."""
    app = web.Application(middlewares=[request_context(Reports(access_log=False))])
    app.add_routes([web.get("/quick", quick), web.get("/slow", slow)])
    app.add_routes([web.post("/body", body)])
    settings = replace(
        load().settings.server, port=0, drain_s=0.0, keepalive_s=KEEPALIVE_S
    )
    runner = ServiceRunner(app, settings)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    async with asyncio.timeout(GIVE_UP_S):
        while not (  # noqa: ASYNC110 - nothing signals it
            runner.server and runner.server.connections
        ):
            await asyncio.sleep(0)
    (service,) = runner.server.connections
    assert isinstance(service, ClientConnection)
    yield Conversation(reader, writer, service)
    writer.transport.abort()
    await runner.cleanup()


async def pass_time(seconds: float) -> None:
    """Let the loop run for so long."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:  # noqa: ASYNC110 - it is the time that passes
        await asyncio.sleep(0)


async def test_a_slow_upload_may_be_followed_by_the_end(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time begins with the last byte of a request, not with its head."""
    monkeypatch.setattr(connections, "HALF_CLOSE_S", WINDOW_S)
    conversation.arrive([UPLOAD])
    await pass_time(2 * WINDOW_S)
    conversation.arrive([b"{}"])
    (answer,) = await conversation.answers()
    assert (answer.status, answer.body) == (200, b"{}")


async def test_requests_behind_an_upgrade_are_answered(
    conversation: Conversation,
) -> None:
    """An upgrade that is declined changes nothing for the requests after it."""
    conversation.arrive([UPGRADE + GET + GET])
    assert [each.status for each in await conversation.answers()] == [200] * 3


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
async def test_a_request_is_answered_before_a_malformed_one(
    conversation: Conversation, size: int
) -> None:
    """The empty line between them may be spread over any number of reads."""
    sent = GET + JUNK
    conversation.arrive([sent[at : at + size] for at in range(0, len(sent), size)])
    answers = await conversation.answers()
    assert [each.status for each in answers] == [200, 400]
    assert json.loads(answers[1].body)["code"] == "request_refused"


async def test_a_malformed_request_may_be_followed_by_the_end(
    conversation: Conversation,
) -> None:
    """Its client gets an answer, also without a request before it."""
    conversation.arrive([JUNK])
    assert [each.status for each in await conversation.answers()] == [400]


async def test_a_read_without_bytes_forgets_nothing(conversation: Conversation) -> None:
    """The service itself parses no bytes when it resumes a paused connection."""
    conversation.arrive([GET[:-1], b"", GET[-1:] + JUNK])
    assert [each.status for each in await conversation.answers()] == [200, 400]
