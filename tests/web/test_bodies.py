"""Request bodies over real sockets: large, slow, incomplete and compressed ones."""

import asyncio
import gzip
import json
import resource
import zlib
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import pytest
from aiohttp import web
from msgspec.structs import replace

from service.server.runner import listening
from service.settings import load
from service.web.bodies import BODIES, open_lane, read_body
from service.web.limits import Limits
from service.web.request_context import Reports, request_context
from tests.clock import LoopTime
from tests.patience import GIVE_UP_S

MAX_BYTES: Final = 1_000
TIMEOUT_S: Final = 10.0
SERVER: Final = replace(load().settings.server, port=0, drain_s=0.0)


class Answer(NamedTuple):
    """An answer's status and body."""

    status: int
    body: dict[str, Any]


class Served(NamedTuple):
    """A service that returns the body of a request."""

    port: int
    begun: list[web.Request]
    """The requests that it has begun to read."""

    async def send(self, *parts: bytes, then: str = "wait") -> Answer:
        """Send a request in parts; then wait, or end, before reading the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
            if then == "end":
                writer.write_eof()
            async with asyncio.timeout(GIVE_UP_S):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split()[0])
                body = await reader.readexactly(length)
            return Answer(int(head.split()[1]), json.loads(body))
        finally:
            writer.close()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """The service, which waits for each body for a while."""
    begun: list[web.Request] = []

    async def read(request: web.Request) -> web.Response:
        begun.append(request)
        body = await read_body(
            request, ("application/json",), max_bytes=MAX_BYTES, timeout_s=TIMEOUT_S
        )
        return web.json_response({"read": body.decode("latin-1")})

    app = web.Application(middlewares=[request_context(Reports(access_log=False))])
    settings = load().settings
    # One body at a time, and no patience for a second one.
    server = replace(settings.server, max_in_flight=2)
    limits = replace(settings.limits, queue_wait_s=0.01)
    settings = replace(settings, server=server, limits=limits)
    app[BODIES] = open_lane(Limits(settings), settings)
    app.router.add_post("/", read)
    async with listening(app, SERVER) as url:
        yield Served(int(url.rpartition(":")[2]), begun)


def head(
    *lines: str, media: str = "application/json", length: int | None = None
) -> bytes:
    """The head of a request."""
    headers = [f"Content-Type: {media}", *lines]
    if length is not None:
        headers.append(f"Content-Length: {length}")
    return "\r\n".join(["POST / HTTP/1.1", "Host: a.test", *headers, "", ""]).encode()


def whole(body: bytes, *lines: str, media: str = "application/json") -> bytes:
    """A request whose length is true."""
    return head(*lines, media=media, length=len(body)) + body


def chunked(*parts: bytes, ends: bool = True) -> bytes:
    """A body in chunks."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return chunks + (b"0\r\n\r\n" if ends else b"")


def raw_deflate(data: bytes) -> bytes:
    """Deflate without a zlib header, as some clients send it."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


GOOD: Final = b'{"a": 1}'


@pytest.mark.parametrize(
    "request_bytes",
    [
        whole(GOOD),
        whole(GOOD, media="application/json; charset=utf-8"),
        whole(GOOD, "Content-Encoding: identity"),
        whole(gzip.compress(GOOD), "Content-Encoding: GZIP"),
        whole(gzip.compress(b"") + gzip.compress(GOOD), "Content-Encoding: gzip"),
        whole(zlib.compress(GOOD), "Content-Encoding: deflate"),
        whole(raw_deflate(GOOD), "Content-Encoding: deflate"),
        head("Transfer-Encoding: chunked") + chunked(GOOD[:3], GOOD[3:]),
        head("Transfer-Encoding: chunked", "Content-Encoding: gzip")
        + chunked(*(bytes([byte]) for byte in gzip.compress(GOOD))),
    ],
    ids=[
        *("plain", "charset", "identity", "GZIP", "members"),
        *("deflate", "raw deflate", "chunked", "chunked gzip"),
    ],
)
async def test_a_body_is_read_whole_in_every_form(
    served: Served, request_bytes: bytes
) -> None:
    """Plain or compressed, in one piece or byte by byte."""
    assert await served.send(request_bytes) == (200, {"read": GOOD.decode()})


@pytest.mark.parametrize("size", [0, 1, MAX_BYTES])
async def test_a_body_may_have_the_maximum_size(served: Served, size: int) -> None:
    """Sizes from 0 to the maximum are accepted."""
    answer = await served.send(whole(b"x" * size))
    assert answer == (200, {"read": "x" * size})


LARGE: Final = b"x" * (MAX_BYTES + 1)


@pytest.mark.parametrize(
    "parts",
    [
        (whole(LARGE),),
        (head(length=10**15),),
        (head("Transfer-Encoding: chunked"), chunked(LARGE, ends=False)),
        (whole(gzip.compress(LARGE), "Content-Encoding: gzip"),),
        (whole(zlib.compress(LARGE), "Content-Encoding: deflate"),),
    ],
    ids=["plain", "only said", "endless chunks", "gzip", "deflate"],
)
async def test_a_larger_body_is_refused(
    served: Served, parts: tuple[bytes, ...]
) -> None:
    """413 is sent before the whole body is received."""
    answer = await served.send(*parts)
    assert (answer.status, answer.body["code"]) == (413, "body_too_large")
    assert str(MAX_BYTES) in answer.body["detail"]


async def test_a_decompression_bomb_is_refused(served: Served) -> None:
    """Of 256 MiB in 256 KiB, only the maximum is decompressed."""
    packer = zlib.compressobj(9, wbits=31)
    nothing = bytes(1024 * 1024)
    bomb = b"".join(packer.compress(nothing) for _ in range(256)) + packer.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    answers = await asyncio.gather(
        *(
            served.send(
                head("Transfer-Encoding: chunked", "Content-Encoding: gzip"),
                chunked(bomb),
            )
            for _ in range(4)
        )
    )

    assert [each.body["code"] for each in answers] == ["body_too_large"] * 4
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 128 * 1024


@pytest.mark.parametrize(
    "parts",
    [
        (head(length=100), GOOD),
        (head("Transfer-Encoding: chunked"), chunked(GOOD, ends=False)),
        (head("Transfer-Encoding: chunked"), b"64\r\nabc"),
        (
            head("Content-Encoding: gzip", length=100),
            gzip.compress(GOOD)[:10],
        ),
    ],
    ids=["shorter than said", "chunks without end", "half a chunk", "half a gzip"],
)
async def test_a_body_that_is_cut_off_is_refused(
    served: Served, parts: tuple[bytes, ...]
) -> None:
    """The answer is 400, or none if the connection is closed."""
    try:
        answer = await served.send(*parts, then="end")
    except asyncio.IncompleteReadError as error:
        assert error.partial == b""  # noqa: PT017 - no answer is as good
    else:
        assert (answer.status, answer.body["code"]) == (400, "body_incomplete")


@pytest.mark.parametrize(
    "parts",
    [
        (head("Transfer-Encoding: chunked") + b"x\r\n\r\n",),
        (head("Transfer-Encoding: chunked"), b"x\r\n\r\n"),
        (head("Transfer-Encoding: chunked"), b"1\r\n{\r\n0x1\r\n"),
        (head("Transfer-Encoding: chunked"), b"1\r\n{\r\n", b"2\n"),
    ],
    ids=["one read", "begins an empty line", "later chunk", "later read"],
)
async def test_a_malformed_chunk_ends_the_connection(
    served: Served, parts: tuple[bytes, ...]
) -> None:
    """Its request is refused without a wait for the rest, and is the last one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    async with asyncio.timeout(GIVE_UP_S):
        for part in parts:
            writer.write(part)
            while not served.begun and part is not parts[-1]:  # noqa: ASYNC110
                await asyncio.sleep(0)
        received = await reader.read()
    writer.close()
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1
    assert b'"code":"body_incomplete"' in received


async def test_requests_before_a_malformed_body_are_answered(served: Served) -> None:
    """They were received before it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    malformed = head("Transfer-Encoding: chunked") + b"x\r\n\r\n"
    writer.write(whole(GOOD) + whole(GOOD) + malformed + whole(GOOD))
    async with asyncio.timeout(GIVE_UP_S):
        received = await reader.read()
    writer.close()
    statuses = [each[:3] for each in received.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"200", b"400"]


@pytest.mark.parametrize(
    "body, coding",
    [
        (b"no gzip at all", "gzip"),
        (gzip.compress(GOOD)[:10] + b"\xff" * 40, "gzip"),
        (b"\x78\x9cno deflate", "deflate"),
        (zlib.compress(GOOD)[:-6], "deflate"),
        (gzip.compress(GOOD)[:-8], "gzip"),
        (gzip.compress(GOOD)[:-8] + bytes(8), "gzip"),
        (gzip.compress(GOOD) + b"more", "gzip"),
        (b"", "gzip"),
    ],
    ids=[
        *("no gzip", "broken gzip", "no deflate", "cut deflate"),
        *("no checksum", "wrong checksum", "something after it", "nothing"),
    ],
)
async def test_a_body_that_is_not_compressed_as_it_says_is_refused(
    served: Served, body: bytes, coding: str
) -> None:
    """400 has no text of the library."""
    answer = await served.send(whole(body, f"Content-Encoding: {coding}"))
    assert answer.status == 400
    assert answer.body["code"] == "body_incomplete"
    assert "zlib" not in str(answer.body)


@pytest.mark.parametrize(
    "parts",
    [
        (head(length=100),),
        (head(length=100), b"x"),
        (head("Transfer-Encoding: chunked"), b"5\r\nab"),
        (head("Content-Encoding: gzip", length=100), gzip.compress(GOOD)[:12]),
    ],
    ids=["nothing", "a byte", "half a chunk", "half a gzip"],
)
async def test_a_slow_body_is_refused(
    served: Served, loop_time: LoopTime, parts: tuple[bytes, ...]
) -> None:
    """408 follows after the time limit."""
    async with loop_time.passing(TIMEOUT_S, at_each=lambda: len(served.begun)):
        answer = await served.send(*parts)
    assert (answer.status, answer.body["code"]) == (408, "body_too_slow")


async def test_slow_bodies_leave_room_for_others(served: Served) -> None:
    """Further slow bodies are refused, and whole ones are read at once."""
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(head(length=100))
    async with asyncio.timeout(GIVE_UP_S):
        while not served.begun:  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0)

    refused = await served.send(head(length=100), b"x")
    read = await served.send(whole(GOOD))

    assert (refused.status, refused.body["code"]) == (503, "bodies_full")
    assert read.status == 200
    writer.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        whole(GOOD, media=""),
        whole(GOOD, media="application/json, text/plain"),
        whole(GOOD, media="application/json; charset=latin-1"),
        whole(GOOD, "Content-Encoding: br"),
        whole(GOOD, "Content-Encoding: gzip, gzip"),
        b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=[
        *("empty", "two", "latin-1", "br", "twice", "no type"),
    ],
)
async def test_other_types_and_codings_are_refused(
    served: Served, request_bytes: bytes
) -> None:
    """415 lists the accepted types, charsets and codings."""
    answer = await served.send(request_bytes)
    assert (answer.status, answer.body["code"]) == (415, "unsupported_media_type")
    assert "accepted" in answer.body["detail"]


async def test_the_next_request_is_not_read_as_a_body(served: Served) -> None:
    """Beyond its length nothing belongs to a body; both lengths at once are refused."""
    lying = whole(GOOD, "Transfer-Encoding: chunked")
    answer = await served.send(lying)
    assert answer.status == 400
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(whole(GOOD) + whole(b"[]"))
    async with asyncio.timeout(GIVE_UP_S):
        first = await reader.readuntil(b'1}"}')
        told = first + await reader.readuntil(b'"}')
    writer.close()
    assert told.count(b"200 OK") == 2
    assert json.dumps(GOOD.decode()).encode() in told
    assert told.endswith(b'{"read": "[]"}')
