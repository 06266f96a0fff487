"""Cached answers on the wire: codings, conditions, headers and connections.

The service runs with a clock of the test. Raw sockets show bytes that a client library
would hide.
"""

import asyncio
import gzip
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NamedTuple

import pytest
import zstandard
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from pytest_aiohttp.plugin import AiohttpServer

from service.sandbox.server import RunningSandbox
from service.web.http_cache.responses import (
    MAX_BUFFERED_BYTES,
    BlockResponse,
)
from service.web.large_answers import MAX_BLOCK_BYTES
from tests.clock import Clock
from tests.conftest import MakeSettings, message, report
from tests.faults.cells import bill_of
from tests.faults.matrix import serving
from tests.patience import GIVE_UP_S

Until = Callable[[Callable[[], bool]], Awaitable[None]]

SMALL: Final = [message(n, report_id=7) for n in range(30)]
LARGE: Final = [message(n, report_id=7) for n in range(6_000)]
LEASE: Final = report(7, "Short Lease Report", 61)
BILLS: Final = {
    "small": bill_of(SMALL, {7: LEASE}),
    "large": bill_of(LARGE, {7: LEASE}),
}
"""The small one is one block; the large one is sent in slices and compressed later."""

DECODERS: Final[dict[str | None, Callable[[bytes], bytes]]] = {
    None: bytes,
    "gzip": gzip.decompress,
    "zstd": lambda body: zstandard.ZstdDecompressor().decompress(body),
}


class Answer(NamedTuple):
    """A received answer, not decoded."""

    status_line: str
    headers: dict[str, str]
    body: bytes

    @property
    def bill(self) -> bytes:
        return DECODERS[self.headers.get("Content-Encoding")](self.body)


def _name_and_value(line: str) -> tuple[str, str]:
    """A header line, with the usual spelling of its name."""
    name, value = line.split(": ", 1)
    return ("ETag" if name.lower() == "etag" else name), value


class Caller:
    """A raw connection to the service."""

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
        """Read the next answer, by its `Content-Length`."""
        async with asyncio.timeout(GIVE_UP_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status_line, *lines = head.strip().split("\r\n")
            headers = dict(_name_and_value(line) for line in lines)
            assert len(headers) == len(lines), "no header is sent twice"
            length = int(headers["Content-Length"]) if has_body else 0
            return Answer(status_line, headers, await self.reader.readexactly(length))

    async def ask(self, **headers: str) -> Answer:
        """Return the answer to `GET /usage`."""
        self.send(**headers)
        return await self.receive()

    async def is_closed(self) -> bool:
        """Return true if the service closes the connection without further bytes."""
        async with asyncio.timeout(GIVE_UP_S):
            return await self.reader.read() == b""


class Service(NamedTuple):
    """The service, with a clock and the expected body."""

    session: ClientSession
    connect: Callable[[], Awaitable[Caller]]
    clock: Clock
    bill: bytes


@pytest.fixture(params=["small", "large"])
def size(request: pytest.FixtureRequest) -> str:
    """Size of the period."""
    name: str = request.param
    return name


@pytest.fixture
async def service(
    settings: MakeSettings, sandbox: RunningSandbox, size: str
) -> AsyncIterator[Service]:
    """The service with a period that is fresh for a minute."""
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
    """Wait for the answer in a coding."""
    async with asyncio.timeout(GIVE_UP_S):
        while True:
            answer = await caller.ask(accept_encoding=coding)
            if answer.headers.get("Content-Encoding", "identity") == coding:
                return answer


# Codings.


@pytest.mark.parametrize("coding", ["identity", "gzip", "zstd"])
async def test_every_coding_is_the_same_bill(
    service: Service, caller: Caller, coding: str
) -> None:
    """Each coding decodes to the same bytes and names itself."""
    answer = await in_coding(caller, coding)

    assert answer.status_line == "HTTP/1.1 200 OK"
    assert answer.bill == service.bill
    assert answer.headers["Content-Type"] == "application/json"
    assert ("Content-Encoding" in answer.headers) is (coding != "identity")
    assert (len(answer.body) < len(service.bill)) is (coding != "identity")


# Conditions.


@pytest.mark.parametrize(
    "condition, names_etag",
    [
        ("{own}", True),
        ('"other", {own}', True),
        ('"other",W/{own} , "more"', True),
        ("*", True),
        ("{other}", False),
        ('"unknown"', False),
        ('"a,*,b"', False),
        ("nonsense", False),
        ("{own}x", False),
    ],
)
@pytest.mark.parametrize(
    "coding, other", [("identity", "gzip"), ("gzip", "zstd"), ("zstd", "identity")]
)
@pytest.mark.parametrize("size", ["small"])
async def test_a_matching_etag_gets_304(
    service: Service,
    caller: Caller,
    condition: str,
    coding: str,
    other: str,
    *,
    names_etag: bool,
) -> None:
    """Tags are compared weakly, with that of the selected coding."""
    own = await in_coding(caller, coding)
    tag_of_other = (await in_coding(caller, other)).headers["ETag"]
    known = condition.format(own=own.headers["ETag"], other=tag_of_other)

    caller.send(accept_encoding=coding, if_none_match=known)
    answer = await caller.receive(has_body=not names_etag)

    assert (answer.status_line == "HTTP/1.1 304 Not Modified") is names_etag
    assert answer.headers["ETag"] == own.headers["ETag"]
    if not names_etag:
        assert answer.bill == service.bill


async def test_a_304_has_the_headers_of_the_200(caller: Caller) -> None:
    """It has all headers except those of a body (RFC 9110 §15.4.5)."""
    full = await in_coding(caller, "gzip")
    caller.send(accept_encoding="gzip", if_none_match=full.headers["ETag"])
    brief = await caller.receive(has_body=False)

    of_a_body = {"Content-Type", "Content-Length", "Content-Encoding"}
    assert set(full.headers) - set(brief.headers) == of_a_body
    volatile = {"X-Request-ID", "Date", *of_a_body}
    for name in set(full.headers) - volatile:
        assert brief.headers[name] == full.headers[name]
    assert (await caller.ask()).status_line == "HTTP/1.1 200 OK", (
        "no bytes of a body follow"
    )


async def test_the_etag_changes_only_with_the_body(
    service: Service, caller: Caller, sandbox: RunningSandbox, size: str
) -> None:
    """A refresh without a change keeps it, whatever the upstream's own tag."""
    before = await caller.ask()
    messages = {"small": SMALL, "large": LARGE}[size]
    retagged = [each | {"mood": "an extra field"} for each in messages]
    tags = [before.headers["ETag"]]
    for listed in (messages, retagged, messages[:-1], messages):
        sandbox.sandbox.set_messages(listed)
        service.clock.pass_s(100)
        answer = await caller.ask()
        assert answer.headers["Age"] == "0"
        tags.append(answer.headers["ETag"])

    same, extended, shorter, again = tags[1:]
    assert {same, extended, again} == {before.headers["ETag"]}
    assert shorter != before.headers["ETag"]


# Headers.


@pytest.mark.parametrize(
    "age_s, expected",
    [
        (0, ("0", "hit; ttl=60")),
        (59.75, ("59", "hit; ttl=1")),
        (60, ("60", "hit; ttl=0; detail=stale")),
        (89.5, ("89", "hit; ttl=-29; detail=stale")),
        (90, ("0", "fwd=stale; stored")),
    ],
    ids=str,
)
async def test_headers_follow_the_age(
    service: Service, caller: Caller, age_s: float, expected: tuple[str, str]
) -> None:
    """The answer is fresh, then stale during a refresh, then fetched again."""
    age, status = expected
    service.clock.pass_s(age_s)
    headers = (await caller.ask()).headers

    assert headers["Age"] == age
    assert headers["Cache-Status"] == f"copilot-usage; {status}"
    assert headers["Cache-Control"] == (
        "max-age=60, stale-while-revalidate=30, stale-if-error=90"
    )
    assert headers["Vary"] == "Accept, Accept-Encoding"
    assert headers["Usage-Plan"] == "text-rules/1"


@pytest.mark.parametrize("path", ["/usage", "/v1/usage", "/usage?plan=text-rules"])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_all_paths_send_the_same(
    service: Service, caller: Caller, path: str, version: str, coding: str
) -> None:
    """Headers and body are equal for blocks, slices, the fast path and routes."""
    usual = await in_coding(caller, coding)
    other = await service.connect()
    other.send(f"GET {path} {version}", accept_encoding=coding)
    answer = await other.receive()

    assert answer.bill == service.bill
    of_the_moment = {"X-Request-ID", "Date"}
    of_the_connection = {"Connection"}
    compared = [
        {k: v for k, v in each.headers.items() if k not in of_the_moment}
        for each in (usual, answer)
    ]
    assert set(compared[1]) - set(compared[0]) <= of_the_connection
    assert {**compared[1], **compared[0]} == {**compared[0], **compared[1]}


@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_head_has_the_headers_of_get(caller: Caller, coding: str) -> None:
    """The headers are equal, `Content-Length` included, and there is no body."""
    full = await in_coding(caller, coding)
    caller.send("HEAD /usage HTTP/1.1", accept_encoding=coding)
    head = await caller.receive(has_body=False)
    again = await caller.ask(accept_encoding=coding)

    volatile = {"X-Request-ID", "Date"}
    assert {k: v for k, v in head.headers.items() if k not in volatile} == {
        k: v for k, v in full.headers.items() if k not in volatile
    }
    assert again.body == full.body, "no byte of a body came after the head"


async def test_each_answer_has_its_own_request_id(caller: Caller) -> None:
    """A prepared answer contains no request id."""
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
async def test_connections_persist_or_close_by_the_rules(
    service: Service,
    caller: Caller,
    request_line: str,
    connection: str | None,
    *,
    stays: bool,
) -> None:
    """Each version of HTTP has its own rules (RFC 9112 §9.3)."""
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
    """Answers, 304s and refusals are all sent, in order."""
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
async def test_a_slow_reader_delays_no_other_client(
    service: Service, caller: Caller
) -> None:
    """A large answer is sent at the speed of its client, while others are served."""
    assert len(service.bill) > 4 * MAX_BLOCK_BYTES
    caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(4):
        caller.send()

    other = await service.connect()
    for _ in range(5):
        assert (await other.ask()).bill == service.bill

    caller.writer.transport.resume_reading()  # type: ignore[attr-defined]
    for _ in range(4):
        assert (await caller.receive()).bill == service.bill


async def test_clients_that_disconnect_do_no_harm(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """Aborted connections log nothing, and the next client is served."""
    for turns in range(8):
        caller = await service.connect()
        for _ in range(3):
            caller.send()
        for _ in range(turns):
            await asyncio.sleep(0)
        caller.writer.transport.abort()

    assert (await (await service.connect()).ask()).bill == service.bill
    assert caplog.records == []


@pytest.mark.parametrize("size", ["small"])
async def test_prepared_answers_are_not_mixed_up(
    service: Service, caller: Caller
) -> None:
    """Each combination of coding and known tag gets its own answer."""
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


# Blocks, on a small server.

BODY: Final = b"12345"
HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
LONG: Final = b"x" * (8 * MAX_BUFFERED_BYTES)
LONG_HEAD: Final = f"HTTP/1.1 200 OK\r\nContent-Length: {len(LONG)}\r\n\r\n".encode()


async def answer_block(_request: web.Request) -> web.StreamResponse:
    return BlockResponse(200, HEAD, BODY, body_size=len(BODY))


async def answer_large(_request: web.Request) -> web.StreamResponse:
    return BlockResponse(200, LONG_HEAD, LONG, body_size=len(LONG))


@pytest.fixture
async def server(aiohttp_server: AiohttpServer) -> TestServer:
    """A server that answers `/block` and `/large` with blocks."""
    app = web.Application()
    app.router.add_get("/block", answer_block)
    app.router.add_get("/large", answer_large)
    return await aiohttp_server(app)


def asking(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode()


async def connect(
    server: TestServer,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    assert server.port is not None
    return await asyncio.open_connection(server.host, server.port)


async def test_a_slow_reader_of_blocks_delays_only_itself(
    server: TestServer, until: Until
) -> None:
    """A client that does not read gets no further answers, but others do."""
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
    """Unsent bytes of all connections."""
    assert server.runner is not None
    assert server.runner.server is not None
    transports = [each.transport for each in server.runner.server.connections]
    return sum(each.get_write_buffer_size() for each in transports if each)
