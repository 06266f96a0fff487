"""Held answers on the wire: codings, conditions, headers, and every kind of connection.

The service runs as it is deployed, its clock apart. Raw sockets are used where a client
library would hide what is sent.
"""

import asyncio
import gzip
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NamedTuple
from unittest.mock import Mock

import pytest
import zstandard
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from pytest_aiohttp.plugin import AiohttpServer

from service.sandbox.server import RunningSandbox
from service.web.held import (
    LARGEST_BLOCK_BYTES,
    MAX_BUFFERED_BYTES,
    BlockResponse,
)
from service.web.negotiation import codings_for
from tests.clock import Clock
from tests.conftest import MakeSettings, message, report
from tests.faults.matrix import bill_of, serving
from tests.patience import GIVE_UP_S

Until = Callable[[Callable[[], bool]], Awaitable[None]]

SMALL: Final = [message(n, report_id=7) for n in range(30)]
LARGE: Final = [message(n, report_id=7) for n in range(6_000)]
LEASE: Final = report(7, "Short Lease Report", 61)
BILLS: Final = {
    "small": bill_of(SMALL, {7: LEASE}),
    "large": bill_of(LARGE, {7: LEASE}),
}
"""The small one goes as one block; the large in slices, and is compressed late."""

DECODERS: Final[dict[str | None, Callable[[bytes], bytes]]] = {
    None: bytes,
    "gzip": gzip.decompress,
    "zstd": lambda body: zstandard.ZstdDecompressor().decompress(body),
}


class Answer(NamedTuple):
    """An answer as it came over the wire, undecoded."""

    status_line: str
    headers: dict[str, str]
    body: bytes

    @property
    def bill(self) -> bytes:
        return DECODERS[self.headers.get("Content-Encoding")](self.body)


def _name_and_value(line: str) -> tuple[str, str]:
    """A header as it is usually spelt; case means nothing."""
    name, value = line.split(": ", 1)
    return ("ETag" if name.lower() == "etag" else name), value


class Caller:
    """One connection to the service, of which every byte is seen."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, request: str = "GET /usage HTTP/1.1", **headers: str) -> None:
        """Send a request; `accept_encoding` is `Accept-Encoding`."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [request, "Host: here", *(f"{k}: {v}" for k, v in given.items())]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def receive(self, *, has_body: bool = True) -> Answer:
        """The next answer, which tells its length."""
        async with asyncio.timeout(GIVE_UP_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status_line, *lines = head.strip().split("\r\n")
            headers = dict(_name_and_value(line) for line in lines)
            assert len(headers) == len(lines), "no header is sent twice"
            length = int(headers["Content-Length"]) if has_body else 0
            return Answer(status_line, headers, await self.reader.readexactly(length))

    async def ask(self, **headers: str) -> Answer:
        """What `GET /usage` is answered."""
        self.send(**headers)
        return await self.receive()

    async def is_closed(self) -> bool:
        """Whether the service ends the connection now, sending nothing more."""
        async with asyncio.timeout(GIVE_UP_S):
            return await self.reader.read() == b""


class Service(NamedTuple):
    """The service, as callers that connect to it see it."""

    session: ClientSession
    connect: Callable[[], Awaitable[Caller]]
    clock: Clock
    bill: bytes


@pytest.fixture(params=["small", "large"])
def size(request: pytest.FixtureRequest) -> str:
    """How large the period is."""
    name: str = request.param
    return name


@pytest.fixture
async def service(
    settings: MakeSettings, sandbox: RunningSandbox, size: str
) -> AsyncIterator[Service]:
    """Holds a period, fetched just now, for a minute."""
    sandbox.sandbox.set_messages({"small": SMALL, "large": LARGE}[size])
    sandbox.sandbox.set_report(7, LEASE)
    made = settings(
        server={"port": 0, "drain_s": 0.0},
        upstream={"base_url": sandbox.url},
        usage={"own_process_bytes": 1_000_000_000},
        cache={"ttl_s": 60, "stale_while_revalidate_s": 30, "stale_if_error_s": 90},
        logging={"steps_per_refresh": 0},
    )
    clock, callers = Clock(), []
    async with serving(made, clock) as session:
        url = session._base_url
        assert url is not None

        async def connect() -> Caller:
            caller = Caller(*await asyncio.open_connection(url.host, url.port))
            callers.append(caller)
            return caller

        await (await session.get("/usage")).read()
        yield Service(session, connect, clock, BILLS[size])
        for caller in callers:
            caller.writer.transport.abort()


@pytest.fixture
async def caller(service: Service) -> Caller:
    return await service.connect()


async def in_coding(caller: Caller, coding: str) -> Answer:
    """The bill in a coding, once that is made."""
    async with asyncio.timeout(GIVE_UP_S):
        while True:
            answer = await caller.ask(accept_encoding=coding)
            if answer.headers.get("Content-Encoding", "identity") == coding:
                return answer


# Codings.


@pytest.mark.parametrize(
    "accept_encoding, codings",
    [
        ("", ["identity"]),
        ("gzip", ["gzip", "identity"]),
        ("zstd", ["zstd", "identity"]),
        ("gzip, zstd", ["zstd", "gzip", "identity"]),
        ("gzip, deflate, br, zstd", ["zstd", "gzip", "identity"]),
        ("gzip;q=1.0, zstd;q=0.5", ["gzip", "zstd", "identity"]),
        ("gzip;q=0", ["identity"]),
        ("gzip;q=0.000, zstd", ["zstd", "identity"]),
        ("*", ["zstd", "gzip", "identity"]),
        ("*;q=0", ["identity"]),
        ("*;q=0, gzip", ["gzip", "identity"]),
        ("zstd;q=0, *", ["gzip", "identity"]),
        ("gzip, *;q=0.1", ["gzip", "zstd", "identity"]),
        ("identity", ["identity"]),
        ("identity, gzip;q=0.5", ["identity", "gzip"]),
        ("identity;q=0.5, gzip", ["gzip", "identity"]),
        ("identity;q=0, gzip", ["gzip", "identity"]),
        ("identity;q=0", ["identity"]),
        ("br", ["identity"]),
        ("x-gzip", ["identity"]),
        ("GZIP", ["gzip", "identity"]),
        (" gzip ; q=0.5 ,, zstd ; q=0.7 ", ["zstd", "gzip", "identity"]),
        ("gzip;q=nonsense", ["identity"]),
        (";;;", ["identity"]),
    ],
)
def test_codings_are_taken_by_the_caller_s_wish(
    accept_encoding: str, codings: list[str]
) -> None:
    """RFC 9110 §12.5.3: weights, exclusion and the asterisk; plain bytes as the last.

    Whoever takes nothing at all is sent the plain bytes rather than nothing.
    """
    assert list(codings_for(accept_encoding)) == codings


@pytest.mark.parametrize("coding", ["identity", "gzip", "zstd"])
async def test_every_coding_is_the_same_bill(
    service: Service, caller: Caller, coding: str
) -> None:
    """Decoded, each is the bill to the byte, and says what it is."""
    answer = await in_coding(caller, coding)

    assert answer.status_line == "HTTP/1.1 200 OK"
    assert answer.bill == service.bill
    assert answer.headers["Content-Type"] == "application/json"
    assert ("Content-Encoding" in answer.headers) is (coding != "identity")
    assert (len(answer.body) < len(service.bill)) is (coding != "identity")


# Conditions.


async def test_tags_differ_by_coding_and_stay(caller: Caller) -> None:
    """Each coding has a strong tag, the same at every request."""
    codings = ("identity", "gzip", "zstd")
    tags = [(await in_coding(caller, each)).headers["ETag"] for each in codings * 2]

    assert tags[:3] == tags[3:]
    assert len(set(tags)) == 3
    assert all(re.fullmatch(r'"[!#-~]+"', tag) for tag in tags)


@pytest.mark.parametrize(
    "condition, is_known",
    [
        ("{own}", True),
        ("W/{own}", True),
        ('"other", {own}', True),
        ('"other",W/{own} , "more"', True),
        ("*", True),
        (" * ", True),
        ("{other}", False),
        ('"unknown"', False),
        ('"a,*,b"', False),
        ("", False),
        ("nonsense", False),
        ("{own}x", False),
    ],
)
@pytest.mark.parametrize(
    "coding, other", [("identity", "gzip"), ("gzip", "zstd"), ("zstd", "identity")]
)
@pytest.mark.parametrize("size", ["small"])
async def test_who_knows_the_answer_is_not_sent_it(
    service: Service,
    caller: Caller,
    condition: str,
    coding: str,
    other: str,
    *,
    is_known: bool,
) -> None:
    """Tags are compared weakly, within the coding that would be sent."""
    own = await in_coding(caller, coding)
    tag_of_other = (await in_coding(caller, other)).headers["ETag"]
    known = condition.format(own=own.headers["ETag"], other=tag_of_other)

    caller.send(accept_encoding=coding, if_none_match=known)
    answer = await caller.receive(has_body=not is_known)

    assert (answer.status_line == "HTTP/1.1 304 Not Modified") is is_known
    assert answer.headers["ETag"] == own.headers["ETag"]
    if not is_known:
        assert answer.bill == service.bill


async def test_a_304_tells_what_the_200_would(caller: Caller) -> None:
    """RFC 9110 §15.4.5: all that caches go by, and nothing of a body."""
    full = await in_coding(caller, "gzip")
    caller.send(accept_encoding="gzip", if_none_match=full.headers["ETag"])
    brief = await caller.receive(has_body=False)

    of_a_body = {"Content-Type", "Content-Length", "Content-Encoding"}
    assert set(full.headers) - set(brief.headers) == of_a_body
    volatile = {"X-Request-ID", "Date", *of_a_body}
    for name in set(full.headers) - volatile:
        assert brief.headers[name] == full.headers[name]
    assert (await caller.ask()).status_line == "HTTP/1.1 200 OK", "nothing was left"


async def test_the_tag_changes_with_the_bill_and_only_with_it(
    service: Service, caller: Caller, sandbox: RunningSandbox, size: str
) -> None:
    """Refreshes that find the same keep it, whatever upstream's own tag is."""
    before = await caller.ask()
    messages = {"small": SMALL, "large": LARGE}[size]
    retagged = [each | {"mood": "an extra field"} for each in messages]
    tags = [before.headers["ETag"]]
    for told in (messages, retagged, messages[:-1], messages):
        sandbox.sandbox.set_messages(told)
        service.clock.pass_s(100)
        answer = await caller.ask()
        assert answer.headers["Age"] == "0"
        tags.append(answer.headers["ETag"])

    same, retold, shorter, again = tags[1:]
    assert {same, retold, again} == {before.headers["ETag"]}
    assert shorter != before.headers["ETag"]


# Headers.


@pytest.mark.parametrize(
    "age_s, told",
    [
        (0, ("0", 60, "hit; ttl=60")),
        (1, ("1", 59, "hit; ttl=59")),
        (59, ("59", 1, "hit; ttl=1")),
        (59.75, ("59", 1, "hit; ttl=1")),
        (60, ("60", 0, "hit; ttl=0; detail=stale")),
        (89.5, ("89", 0, "hit; ttl=-29; detail=stale")),
        (90, ("0", 60, "fwd=stale; stored")),
    ],
    ids=str,
)
async def test_headers_tell_the_time_exactly(
    service: Service, caller: Caller, age_s: float, told: tuple[str, int, str]
) -> None:
    """Fresh, then stale while one refresh runs, then fetched again."""
    age, max_age, status = told
    service.clock.pass_s(age_s)
    headers = (await caller.ask()).headers

    assert headers["Age"] == age
    assert headers["Cache-Status"] == f"copilot-usage; {status}"
    assert headers["Cache-Control"] == (
        f"max-age={max_age}, stale-while-revalidate=30, stale-if-error=90"
    )
    assert headers["Vary"] == "Accept, Accept-Encoding"
    assert headers["Usage-Plan"] == "text-rules/1"


@pytest.mark.parametrize("path", ["/usage", "/v1/usage", "/usage?plan=text-rules"])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_all_ways_tell_the_same(
    service: Service, caller: Caller, path: str, version: str, coding: str
) -> None:
    """One block, slices, the front or a route: none shows in headers or body."""
    usual = await in_coding(caller, coding)
    other = await service.connect()
    other.send(f"GET {path} {version}", accept_encoding=coding)
    answer = await other.receive()

    assert answer.bill == service.bill
    of_the_moment = {"X-Request-ID", "Date"}
    of_the_connection = {"Connection"}
    told = [
        {k: v for k, v in each.headers.items() if k not in of_the_moment}
        for each in (usual, answer)
    ]
    assert set(told[1]) - set(told[0]) <= of_the_connection
    assert {**told[1], **told[0]} == {**told[0], **told[1]}


@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_head_tells_what_get_would(caller: Caller, coding: str) -> None:
    """The same headers, the length of the body too, and no body."""
    full = await in_coding(caller, coding)
    caller.send("HEAD /usage HTTP/1.1", accept_encoding=coding)
    head = await caller.receive(has_body=False)
    again = await caller.ask(accept_encoding=coding)

    volatile = {"X-Request-ID", "Date"}
    assert {k: v for k, v in head.headers.items() if k not in volatile} == {
        k: v for k, v in full.headers.items() if k not in volatile
    }
    assert again.body == full.body, "no byte of a body came after the head"


async def test_head_knows_conditions_too(caller: Caller) -> None:
    """Whoever only asks if there is news is told that there is none."""
    tag = (await caller.ask()).headers["ETag"]
    caller.send("HEAD /usage HTTP/1.1", if_none_match=tag)

    answer = await caller.receive(has_body=False)
    assert answer.status_line == "HTTP/1.1 304 Not Modified"


async def test_the_request_id_is_the_request_s_own(caller: Caller) -> None:
    """What is prepared for all has nothing of one caller in it."""
    given = (await caller.ask(x_request_id="my-own")).headers["X-Request-ID"]
    made = [(await caller.ask()).headers["X-Request-ID"] for _ in range(3)]

    assert given == "my-own"
    assert len({given, *made}) == 4


# Connections.


@pytest.mark.parametrize(
    "request_line, connection, stays",
    [
        ("GET /usage HTTP/1.1", None, True),
        ("GET /usage HTTP/1.1", "keep-alive", True),
        ("GET /usage HTTP/1.1", "close", False),
        ("GET /usage HTTP/1.0", None, False),
        ("GET /usage HTTP/1.0", "keep-alive", True),
        ("HEAD /usage HTTP/1.1", "close", False),
        ("HEAD /usage HTTP/1.0", None, False),
    ],
)
async def test_connections_stay_or_end_as_asked(
    service: Service,
    caller: Caller,
    request_line: str,
    connection: str | None,
    *,
    stays: bool,
) -> None:
    """By the rules of each version of HTTP (RFC 9112 §9.3)."""
    caller.send(request_line, **({"connection": connection} if connection else {}))
    answer = await caller.receive(has_body=request_line.startswith("GET"))

    assert answer.body in {b"", service.bill}
    if stays:
        assert (await caller.ask()).bill == service.bill
    else:
        assert await caller.is_closed()


async def test_pipelined_requests_are_answered_in_order(
    service: Service, caller: Caller
) -> None:
    """Whole answers, 304s, other codings and refusals, none lost or overtaken."""
    tag = (await caller.ask()).headers["ETag"]
    for _ in range(3):
        caller.send()
        caller.send(if_none_match=tag)
        caller.send("GET /nothing HTTP/1.1")
        caller.send("GET /usage?limit=1 HTTP/1.1")

    for _ in range(3):
        assert (await caller.receive()).bill == service.bill
        assert "304" in (await caller.receive(has_body=False)).status_line
        assert "404" in (await caller.receive()).status_line
        assert (await caller.receive()).body.count(b"message_id") == 1


@pytest.mark.parametrize("size", ["large"])
async def test_a_slow_reader_gets_it_all_and_holds_nobody_up(
    service: Service, caller: Caller
) -> None:
    """A large answer leaves in slices, as fast as its caller reads, beside others."""
    assert len(service.bill) > 4 * LARGEST_BLOCK_BYTES
    caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(4):
        caller.send()

    other = await service.connect()
    for _ in range(5):
        assert (await other.ask()).bill == service.bill

    caller.writer.transport.resume_reading()  # type: ignore[attr-defined]
    for _ in range(4):
        assert (await caller.receive()).bill == service.bill


async def test_callers_who_leave_amid_an_answer_do_no_harm(service: Service) -> None:
    """However many break off, at whatever moment, the next is served whole."""
    for turns in range(8):
        caller = await service.connect()
        for _ in range(3):
            caller.send()
        for _ in range(turns):
            await asyncio.sleep(0)
        caller.writer.transport.abort()

    assert (await (await service.connect()).ask()).bill == service.bill


@pytest.mark.parametrize("size", ["small"])
async def test_no_two_kinds_of_callers_are_mixed_up(
    service: Service, caller: Caller
) -> None:
    """Whatever was asked before, the answer is what this caller takes and knows."""
    tags: dict[Any, str] = {
        coding: (await in_coding(caller, coding)).headers["ETag"]
        for coding in ("identity", "gzip", "zstd")
    }
    kinds = list(itertools.product(tags, [None, *tags]))
    for coding, known in [*kinds, *reversed(kinds)]:
        condition = {"if_none_match": tags[known]} if known else {}
        caller.send(accept_encoding=coding, **condition)
        answer = await caller.receive(has_body=known != coding)
        assert answer.headers["ETag"] == tags[coding]
        assert ("304" in answer.status_line) is (known == coding)
        assert answer.body == b"" or answer.bill == service.bill


# Blocks of bytes, on a server of their own.

BODY: Final = b"12345"
HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
LONG: Final = b"x" * (8 * MAX_BUFFERED_BYTES)
LONG_HEAD: Final = f"HTTP/1.1 200 OK\r\nContent-Length: {len(LONG)}\r\n\r\n".encode()


async def answer_block(_request: web.Request) -> web.StreamResponse:
    return BlockResponse(200, HEAD, BODY, body_size=len(BODY))


async def answer_large(_request: web.Request) -> web.StreamResponse:
    return BlockResponse(200, LONG_HEAD, LONG, body_size=len(LONG))


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


async def test_pipelined_blocks_are_answered_in_order(server: TestServer) -> None:
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

    contents = {"/block": BODY, "/plain": b"plain", "/large": LONG}
    assert answers == [contents[path] for path in paths]


async def test_a_slow_reader_of_blocks_delays_only_itself(
    server: TestServer, until: Until
) -> None:
    """Who asks on without reading is not answered on; others are, meanwhile."""
    _slow, unread = await connect(server)
    unread.transport.pause_reading()  # type: ignore[attr-defined]
    unread.write(asking("/large") * 20)
    await until(lambda: unsent_bytes(server) > MAX_BUFFERED_BYTES)
    reader, writer = await connect(server)
    async with asyncio.timeout(GIVE_UP_S):
        for _ in range(20):
            writer.write(asking("/block"))
            assert await reader.readexactly(len(HEAD + BODY)) == HEAD + BODY
            assert unsent_bytes(server) <= len(LONG_HEAD + LONG)
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


async def test_callers_who_leave_amid_a_block_do_no_harm(
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
