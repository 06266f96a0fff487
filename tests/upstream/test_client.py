"""The client over real sockets: every fault, what comes of it, and what it leaves."""

import asyncio
import gc
import tracemalloc
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec
import pytest
from aiohttp import TCPConnector, web
from pytest_aiohttp.plugin import AiohttpServer
from structlog.typing import EventDict

from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.upstream import errors
from service.upstream.bodies import (
    UpstreamResponse,
    decode,
)
from service.upstream.client import UpstreamClient, open_client
from service.upstream.profiles import UpstreamProfile
from tests.clock import LoopTime
from tests.conftest import PATIENT, Hurried, MakeSettings, always, message
from tests.ports import free_port
from tests.upstream.conftest import Until, sections

PATH = "/messages/current-period"
ATTEMPTS = 3
MAX_BODY_BYTES = 512 * 1024
MEMORY_LIMIT_BYTES = 16 * MAX_BODY_BYTES
TRY_S = PATIENT["timeout_s"]


class Message(msgspec.Struct):
    """One message, as far as these tests need it."""

    id: int
    text: str
    timestamp: str


class Period(msgspec.Struct):
    """A list of messages."""

    messages: list[Message]


DECODER = msgspec.json.Decoder(Period)

FAULTS = [
    ("not_found", errors.UnexpectedStatus, 1),
    ("too_many_requests", errors.UnexpectedStatus, ATTEMPTS),
    ("server_error", errors.UnexpectedStatus, ATTEMPTS),
    ("unavailable", errors.UnexpectedStatus, ATTEMPTS),
    ("redirect", errors.UnexpectedStatus, 1),
    ("reset", errors.ConnectionDropped, ATTEMPTS),
    ("truncated", errors.MalformedBody, ATTEMPTS),
    ("html", errors.MalformedBody, ATTEMPTS),
    ("wrong_type", errors.ContractBroken, 1),
    ("missing_field", errors.ContractBroken, 1),
    ("gzip_bomb", errors.BodyTooLarge, 1),
    ("huge_body", errors.BodyTooLarge, 1),
]
SLOW_FAULTS = ["hang", "slow_drip"]


@pytest.fixture
async def upstream(
    settings: MakeSettings, sandbox: RunningSandbox
) -> AsyncIterator[UpstreamClient]:
    """A client of the sandbox with one slot: a slot that is kept blocks the next.

    A test that lets the loop's time pass lets its tries time out.
    """
    options = {
        "base_url": sandbox.url,
        "attempts": ATTEMPTS,
        "concurrency": 1,
        "max_body_bytes": MAX_BODY_BYTES,
        "retry_after_max_s": 0,
    }
    async with open_client(*sections(settings(upstream=options))) as client:
        yield client


def connections_in_use(client: UpstreamClient) -> int:
    connector = client._session.connector
    assert isinstance(connector, TCPConnector)
    return len(connector._acquired)


async def fail(client: UpstreamClient) -> errors.UpstreamError:
    """Fetch and decode the messages, of which one must fail."""
    with pytest.raises(errors.UpstreamError) as raised:
        decode(await client.fetch(PATH), DECODER)
    return raised.value


async def assert_works_again(client: UpstreamClient, sandbox: RunningSandbox) -> None:
    """No connection is held, so a good call gets the only slot and succeeds."""
    assert connections_in_use(client) == 0
    sandbox.sandbox.faults = Faults()
    fetched = decode(await client.fetch(PATH), DECODER)
    assert [each.id for each in fetched.messages] == [1]
    assert connections_in_use(client) == 0


@pytest.mark.parametrize("fault, expected, tries", FAULTS)
async def test_a_fault_becomes_one_of_our_errors(
    upstream: UpstreamClient,
    sandbox: RunningSandbox,
    fault: str,
    expected: type[errors.UpstreamError],
    tries: int,
) -> None:
    """Each fault has its class and its number of tries, and leaves nothing behind."""
    sandbox.sandbox.set_messages([message(1)])
    sandbox.sandbox.faults = always(fault, retry_after="0")

    error = await fail(upstream)

    assert isinstance(error, expected)
    assert sandbox.sandbox.calls == {PATH: tries}
    assert error.attempts == tries
    await assert_works_again(upstream, sandbox)


@pytest.mark.parametrize("fault", SLOW_FAULTS)
async def test_a_slow_try_is_broken_off(
    upstream: UpstreamClient, sandbox: RunningSandbox, hurried: Hurried, fault: str
) -> None:
    """One that hangs, and one that drips, end with their time and are tried again."""
    sandbox.sandbox.set_messages([message(1)])
    sandbox.sandbox.faults = always(fault)

    async with hurried(TRY_S):
        error = await fail(upstream)

    assert type(error) is errors.TryTimedOut
    assert sandbox.sandbox.calls == {PATH: ATTEMPTS}
    await assert_works_again(upstream, sandbox)


async def test_a_bomb_is_not_unpacked(
    upstream: UpstreamClient, sandbox: RunningSandbox
) -> None:
    """1 MiB that unpacks to 1 GiB is refused while it is read, in little memory."""
    sandbox.sandbox.faults = Faults(gzip_bomb=1)
    await fail(upstream)  # the sandbox packs the bomb at its first use
    tracemalloc.start()
    try:
        await fail(upstream)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < MEMORY_LIMIT_BYTES


class KeptBody(bytearray):
    """A body of which it can be seen whether it is still in memory."""


@pytest.mark.parametrize("faults", [Faults(truncated=1), Faults(html=1)])
@pytest.mark.parametrize("attempts", [1, ATTEMPTS])
async def test_a_failed_try_keeps_no_body(
    settings: MakeSettings, sandbox: RunningSandbox, faults: Faults, attempts: int
) -> None:
    """Bodies are freed at once, without the garbage collector: also the last one."""
    bodies: list[weakref.ref[KeptBody]] = []

    def new_body() -> KeptBody:
        sandbox.sandbox.faults = Faults()  # the next try succeeds
        body = KeptBody()
        bodies.append(weakref.ref(body))
        return body

    options = {"base_url": sandbox.url, "attempts": attempts, "retry_after_max_s": 0}
    upstream = sections(settings(upstream=options))
    async with open_client(*upstream, new_body=new_body) as client:
        sandbox.sandbox.faults = faults
        gc.disable()
        try:
            with suppress(errors.MalformedBody):
                await client.fetch(PATH)
            kept = [each() for each in bodies]
        finally:
            gc.enable()

    assert kept == [None] * min(attempts, 2)


async def test_the_limit_is_exact(
    upstream: UpstreamClient, sandbox: RunningSandbox
) -> None:
    """A body as large as allowed is read, one byte more is refused."""
    body = b'["%s"]' % (b"x" * (MAX_BODY_BYTES - 4))
    sandbox.sandbox.set_messages(body)
    assert (await upstream.fetch(PATH)).body == bytearray(body)

    sandbox.sandbox.set_messages(body + b" ")
    with pytest.raises(errors.BodyTooLarge):
        await upstream.fetch(PATH)


@pytest.mark.parametrize(
    "body, tries",
    [
        (b"", ATTEMPTS),
        (b"{", ATTEMPTS),
        (b"\xff\xfe{}", ATTEMPTS),
        (b'{"messages":[]} {}', 1),
    ],
    ids=["empty", "cut", "UTF-16", "two values"],
)
async def test_a_body_that_is_no_json_is_malformed(
    upstream: UpstreamClient, sandbox: RunningSandbox, body: bytes, tries: int
) -> None:
    """Only a truncated body is fetched again."""
    sandbox.sandbox.set_messages(body)

    error = await fail(upstream)

    assert type(error) is errors.MalformedBody
    assert (sandbox.sandbox.calls, error.attempts) == ({PATH: tries}, tries)


# --- no connection at all -----------------------------------------------------------


async def fail_at(settings: MakeSettings, base_url: str) -> errors.UpstreamError:
    options = {"base_url": base_url, "attempts": ATTEMPTS}
    async with open_client(*sections(settings(upstream=options))) as client:
        error = await fail(client)
        assert connections_in_use(client) == 0
    return error


async def test_a_refused_connection(
    settings: MakeSettings, sandbox: RunningSandbox
) -> None:
    """Without a listener, or with one that speaks no TLS, all tries end alike."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    for base_url in (nowhere, sandbox.url.replace("http:", "https:")):
        error = await fail_at(settings, base_url)

        assert type(error) is errors.ConnectFailed
        assert error.attempts == ATTEMPTS


@pytest.mark.parametrize(
    "base_url",
    ["http://a\\b", "http://a..b", f"http://{'a' * 64}.example"],
    ids=["backslash", "empty label", "long label"],
)
async def test_an_address_that_makes_no_url(
    settings: MakeSettings, base_url: str
) -> None:
    """An impossible host is an error of upstream's address, not of ours."""
    assert type(await fail_at(settings, base_url)) is errors.BadRequestUrl


INVALID_HTTP = {
    "nothing": b"",
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\n",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "bad gzip": b"HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\nno gzip!!",
    "long header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("kind, sent", INVALID_HTTP.items(), ids=INVALID_HTTP)
async def test_invalid_http(settings: MakeSettings, kind: str, sent: bytes) -> None:
    """A server that breaks HTTP itself is as one that drops the connection."""

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        error = await fail_at(settings, f"http://127.0.0.1:{port}")

    is_body = kind == "bad gzip"
    assert type(error) is (
        errors.MalformedBody if is_body else errors.ConnectionDropped
    )


@pytest.mark.parametrize(
    "sent, etag",
    [
        (b'"1"', '"1"'),
        (b'W/"1"', 'W/"1"'),
        ('"é"'.encode(), '"é"'),
        (b'"\xe9"', None),
    ],
    ids=["strong", "weak", "UTF-8", "Latin-1"],
)
async def test_a_tag_that_cannot_be_sent_back_is_none(
    settings: MakeSettings, sent: bytes, etag: str | None
) -> None:
    """RFC 9110 allows any byte from 128 on; a request would have another tag."""

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nETag: "
        writer.write(head + sent + b"\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        made = settings(upstream={"base_url": url})
        async with open_client(*sections(made)) as client:
            assert (await client.fetch(PATH)).etag == etag


# --- manners ------------------------------------------------------------------------


async def test_calls_in_flight_are_bounded(
    settings: MakeSettings, sandbox: RunningSandbox, loop_time: LoopTime
) -> None:
    """Upstream never sees more than `concurrency` requests at once."""
    options = {"base_url": sandbox.url, "concurrency": 3}
    sandbox.sandbox.options = msgspec.structs.replace(
        sandbox.sandbox.options, latency_ms=10_000
    )
    calls = sandbox.sandbox.calls
    async with (
        open_client(*sections(settings(upstream=options))) as client,
        loop_time.passing(10.0, at_each=lambda: calls.total() // 3),
    ):
        fetches = [client.fetch(PATH) for _ in range(15)]
        await asyncio.gather(*fetches)

    assert sandbox.sandbox.max_in_flight == 3
    assert sandbox.sandbox.calls == {PATH: 15}


async def test_waiting_for_a_slot_takes_no_time_of_the_try(
    settings: MakeSettings, sandbox: RunningSandbox, hurried: Hurried
) -> None:
    """Calls that queue for longer than `timeout_s` still succeed at their first try."""
    options = {"base_url": sandbox.url, "concurrency": 1, "timeout_s": 5 * TRY_S}
    async with (
        open_client(*sections(settings(upstream=options))) as client,
        hurried(TRY_S),
    ):
        fetches = [client.fetch(PATH) for _ in range(12)]
        fetched = await asyncio.gather(*fetches)

    assert [each.attempts for each in fetched] == [1] * 12


async def test_cancelled_call_frees_its_slot(
    upstream: UpstreamClient,
    sandbox: RunningSandbox,
    until: Until,
) -> None:
    """A cancelled call closes its connection, and the next one is served."""
    sandbox.sandbox.set_messages([message(1)])
    sandbox.sandbox.faults = Faults(hang=1)
    call = asyncio.create_task(upstream.fetch(PATH))
    await until(lambda: sandbox.sandbox.in_flight == 1)

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    await assert_works_again(upstream, sandbox)
    await until(lambda: sandbox.sandbox.in_flight == 0)


async def test_headers_of_requests(
    settings: MakeSettings, aiohttp_server: AiohttpServer
) -> None:
    """Requests name the client and accept compression; cookies are not stored."""
    seen: list[web.Request] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request)
        response = web.Response(body=b"[1]", content_type="application/octet-stream")
        response.set_cookie("visited", "yes")
        response.enable_compression()
        return response

    app = web.Application()
    app.router.add_get("/base/path", answer)
    server = await aiohttp_server(app)
    # By name, as no jar takes a cookie from a bare address.
    options = {"base_url": f"http://localhost:{server.port}/base/"}
    async with open_client(*sections(settings(upstream=options))) as client:
        fetched = [await client.fetch("/path") for _ in range(2)]

    assert fetched == [UpstreamResponse(bytearray(b"[1]"), 1)] * 2
    for request in seen:
        assert request.headers["Accept"] == "application/json"
        assert request.headers["User-Agent"] == "copilot-usage"
        assert "gzip" in request.headers["Accept-Encoding"]
        assert "Cookie" not in request.headers


async def test_each_try_is_logged(
    upstream: UpstreamClient, sandbox: RunningSandbox, log_entries: list[EventDict]
) -> None:
    """A failed status, a failed connection and a success: one whole entry for each."""
    for fault in ("unavailable", "reset"):
        sandbox.sandbox.faults = always(fault, times=1, retry_after="0")
        await upstream.fetch(PATH)

    tries = [entry for entry in log_entries if entry["event"] == "upstream.request"]
    assert [entry.pop("duration_s") >= 0 for entry in tries] == [True] * 4
    fixed = {"event": "upstream.request", "url.path": PATH}
    resent = "http.request.resend_count"
    status = "http.response.status_code"
    assert tries == [
        {**fixed, "log_level": "info", status: 503, resent: 0},
        {**fixed, "log_level": "info", status: 200, resent: 1},
        {**fixed, "log_level": "warning", "error.type": "ConnectionDropped", resent: 0},
        {**fixed, "log_level": "info", status: 200, resent: 1},
    ]


# --- what is peculiar to one upstream -----------------------------------------------


@pytest.mark.parametrize(
    "content_type, is_taken",
    [
        ("application/json", True),
        ("application/json; charset=utf-8", True),
        ("Application/JSON", True),
        ("text/html; charset=utf-8", False),
        ("application/xml", False),
        ("text/plain", False),
        ("application/jsonp", False),
    ],
)
async def test_only_the_agreed_type_is_read(
    settings: MakeSettings,
    aiohttp_server: AiohttpServer,
    content_type: str,
    *,
    is_taken: bool,
) -> None:
    """An upstream with a media type: others are refused by header, and not retried."""
    calls = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return web.Response(body=b"[1]", headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get("/", answer)
    server = await aiohttp_server(app)
    options = {"base_url": str(server.make_url("")), "attempts": ATTEMPTS}
    other = UpstreamProfile("other", media_type="application/json")
    async with open_client(
        *sections(settings(upstream=options)), profile=other
    ) as client:
        if is_taken:
            fetched = await client.fetch("/")
            assert fetched == UpstreamResponse(bytearray(b"[1]"), 1)
        else:
            with pytest.raises(errors.WrongMediaType) as raised:
                await client.fetch("/")
            assert raised.value.attempts == 1
        assert connections_in_use(client) == 0
    assert calls == 1


async def test_a_form_is_sent_with_every_try(
    settings: MakeSettings, aiohttp_server: AiohttpServer
) -> None:
    """It goes by POST, whole each time, and what answers it is read as ever."""
    seen: list[tuple[str, str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        text = await request.text()
        seen.append((request.method, request.content_type, text))
        return web.json_response([1], status=200 if len(seen) == ATTEMPTS else 503)

    app = web.Application()
    app.router.add_route("*", "/batch/", answer)
    server = await aiohttp_server(app)
    options = {"base_url": str(server.make_url("")), "attempts": ATTEMPTS}
    form = {"format": "json", "data": "A;B", "more": "é&="}
    async with open_client(*sections(settings(upstream=options))) as client:
        fetched = await client.fetch("/batch/", form=form)

    assert fetched == UpstreamResponse(bytearray(b"[1]"), ATTEMPTS)
    sent = "format=json&data=A;B&more=%C3%A9%26%3D".replace(";", "%3B")
    assert seen == [("POST", "application/x-www-form-urlencoded", sent)] * ATTEMPTS
