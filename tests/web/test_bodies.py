"""Bodies over real sockets: large, slow, cut off, lying and compressed ones."""

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

from service.serving import listening
from service.settings import load
from service.web.bodies import read_body
from service.web.context import request_context
from tests.clock import LoopTime
from tests.patience import GIVE_UP_S

MOST: Final = 1_000
WITHIN_S: Final = 10.0
SERVER: Final = replace(load().settings.server, port=0, drain_s=0.0)


class Answer(NamedTuple):
    """An answer's status and body."""

    status: int
    body: dict[str, Any]


class Served(NamedTuple):
    """A service that tells what it has read."""

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

    async def read(asked: web.Request) -> web.Response:
        begun.append(asked)
        body = await read_body(
            asked, ("application/json",), most=MOST, within_s=WITHIN_S
        )
        return web.json_response({"read": body.decode("latin-1")})

    app = web.Application(middlewares=[request_context(access_log=False)])
    app.router.add_post("/", read)
    async with listening(app, SERVER) as url:
        yield Served(int(url.rpartition(":")[2]), begun)


def head(
    *lines: str, media: str = "application/json", length: int | None = None
) -> bytes:
    """The head of a request."""
    told = [f"Content-Type: {media}", *lines]
    if length is not None:
        told.append(f"Content-Length: {length}")
    return "\r\n".join(["POST / HTTP/1.1", "Host: a.test", *told, "", ""]).encode()


def whole(body: bytes, *lines: str, media: str = "application/json") -> bytes:
    """A request whose length is true."""
    return head(*lines, media=media, length=len(body)) + body


def chunked(*parts: bytes, ends: bool = True) -> bytes:
    """A body in chunks."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return chunks + (b"0\r\n\r\n" if ends else b"")


def raw_deflate(data: bytes) -> bytes:
    """What some call deflate: without zlib's head."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


GOOD: Final = b'{"a": 1}'


@pytest.mark.parametrize(
    "request_bytes",
    [
        whole(GOOD),
        whole(GOOD, media="application/json; charset=utf-8"),
        whole(GOOD, media="Application/JSON;charset=UTF-8"),
        whole(GOOD, "Content-Encoding: identity"),
        whole(gzip.compress(GOOD), "Content-Encoding: gzip"),
        whole(gzip.compress(GOOD), "Content-Encoding: GZIP"),
        whole(gzip.compress(b"") + gzip.compress(GOOD), "Content-Encoding: gzip"),
        whole(zlib.compress(GOOD), "Content-Encoding: deflate"),
        whole(raw_deflate(GOOD), "Content-Encoding: deflate"),
        head("Transfer-Encoding: chunked") + chunked(GOOD[:3], GOOD[3:]),
        head("Transfer-Encoding: chunked", "Content-Encoding: gzip")
        + chunked(*(bytes([byte]) for byte in gzip.compress(GOOD))),
    ],
    ids=[
        *("plain", "charset", "loud", "identity", "gzip", "GZIP", "members"),
        *("deflate", "raw deflate", "chunked", "chunked gzip"),
    ],
)
async def test_a_body_is_read_whole_in_every_form(
    served: Served, request_bytes: bytes
) -> None:
    """Plain or compressed, in one piece or byte by byte."""
    assert await served.send(request_bytes) == (200, {"read": GOOD.decode()})


@pytest.mark.parametrize("size", [0, 1, MOST])
async def test_a_body_may_be_as_large_as_agreed(served: Served, size: int) -> None:
    """Up to the last byte, and empty too."""
    answer = await served.send(whole(b"x" * size))
    assert answer == (200, {"read": "x" * size})


LARGE: Final = b"x" * (MOST + 1)


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
    """As soon as it is known, whatever is still to come."""
    answer = await served.send(*parts)
    assert (answer.status, answer.body["code"]) == (413, "body_too_large")
    assert str(MOST) in answer.body["detail"]


async def test_a_bomb_is_never_unpacked(served: Served) -> None:
    """Of 256 MiB in a quarter of one only so much is unpacked as shows what it is."""
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
    """Where the sender can still hear it: 400; what has come is not used."""
    try:
        answer = await served.send(*parts, then="end")
    except asyncio.IncompleteReadError as error:
        assert error.partial == b""  # noqa: PT017 - no answer is as good
    else:
        assert (answer.status, answer.body["code"]) == (400, "body_incomplete")


@pytest.mark.parametrize(
    "body, coding",
    [
        (b"no gzip at all", "gzip"),
        (gzip.compress(GOOD)[:10] + b"\xff" * 40, "gzip"),
        (b"\x78\x9cno deflate", "deflate"),
        (zlib.compress(GOOD)[:-6], "deflate"),
        (gzip.compress(GOOD)[:-1], "gzip"),
        (gzip.compress(GOOD)[:-8], "gzip"),
        (gzip.compress(GOOD)[:-8] + bytes(8), "gzip"),
        (gzip.compress(GOOD) + b"more", "gzip"),
        (b"", "gzip"),
    ],
    ids=[
        *("no gzip", "broken gzip", "no deflate", "cut deflate", "a byte missing"),
        *("no checksum", "wrong checksum", "something after it", "nothing"),
    ],
)
async def test_a_body_that_is_not_compressed_as_it_says_is_refused(
    served: Served, body: bytes, coding: str
) -> None:
    """400 says so, with nothing of the library's."""
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
async def test_a_body_that_does_not_come_is_given_up(
    served: Served, loop_time: LoopTime, parts: tuple[bytes, ...]
) -> None:
    """408 after the time that a body has, however it drips."""
    async with loop_time.passing(WITHIN_S, at_each=lambda: len(served.begun)):
        answer = await served.send(*parts)
    assert (answer.status, answer.body["code"]) == (408, "body_too_slow")


@pytest.mark.parametrize(
    "request_bytes",
    [
        whole(GOOD, media="text/plain"),
        whole(GOOD, media=""),
        whole(GOOD, media="application/json, text/plain"),
        whole(GOOD, media="application/json; charset=latin-1"),
        whole(GOOD, media="application/json; charset=utf-16"),
        whole(GOOD, "Content-Encoding: br"),
        whole(GOOD, "Content-Encoding: zstd"),
        whole(GOOD, "Content-Encoding: gzip, gzip"),
        whole(GOOD, "Content-Encoding: x"),
        b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=[
        *("text", "empty", "two", "latin-1", "utf-16"),
        *("br", "zstd", "twice", "unknown", "no type"),
    ],
)
async def test_other_types_and_codings_are_refused(
    served: Served, request_bytes: bytes
) -> None:
    """415 lists what is taken."""
    answer = await served.send(request_bytes)
    assert (answer.status, answer.body["code"]) == (415, "unsupported_media_type")
    assert "taken" in answer.body["detail"]


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
