"""Context of a request: its id, its trace ids and its log line."""

import asyncio
import re
import time
from collections.abc import AsyncIterator

import pytest
import structlog
from aiohttp import ClientSession, TCPConnector, web
from pytest_aiohttp.plugin import AiohttpClient
from structlog.typing import EventDict

from service.web.client_stream import READY_AT, WAITED_S
from service.web.request_context import (
    CACHE_RESULT,
    REQUEST_ID_HEADER,
    Reports,
    request_context,
)
from tests.conftest import Client

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"
MADE_ID = re.compile(r"[0-9a-f]{32}")

log = structlog.get_logger()


async def fine(request: web.Request) -> web.Response:
    request[CACHE_RESULT] = "hit"
    log.info("test.handled")
    return web.Response(text="fine")


async def binding(request: web.Request) -> web.Response:
    structlog.contextvars.bind_contextvars(left_behind=request.path)
    log.info("test.bound")
    return web.Response(text=str(id(request.transport)))


async def missing(_: web.Request) -> web.Response:
    raise web.HTTPNotFound


async def broken(_: web.Request) -> web.Response:
    raise RuntimeError("the password is tulip")


async def redirecting(_: web.Request) -> web.Response:
    raise web.HTTPFound("/fine")


async def streaming(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"streamed")
    return response


async def waiting(request: web.Request) -> web.Response:
    request[WAITED_S] = 1_000.0
    request[READY_AT] = time.perf_counter() + 1_000.0
    return web.Response(text="waited")


@pytest.fixture
async def client(aiohttp_client: AiohttpClient) -> Client:
    """A small application behind the middleware."""
    app = web.Application(middlewares=[request_context(Reports(access_log=True))])
    handlers = (fine, binding, missing, broken, redirecting, streaming, waiting)
    app.add_routes([web.get(f"/{each.__name__}", each) for each in handlers])
    app.router.add_get("/things/{thing}", fine)
    return await aiohttp_client(app)


@pytest.fixture
async def session(client: Client) -> AsyncIterator[ClientSession]:
    """A session that has one connection only."""
    async with ClientSession(
        client.make_url("/"), connector=TCPConnector(limit=1)
    ) as session:
        yield session


# --- request ids --------------------------------------------------------------------


@pytest.mark.parametrize(
    "requested",
    ["7", "a" * 128, "5f0c1e9a-6c0b-4d7f", "a.b_c~d+e/f=g:h", "=="],
    ids=lambda value: value[:20],
)
@pytest.mark.parametrize(
    "path", ["/fine", "/missing", "/broken", "/redirecting", "/nowhere"]
)
async def test_a_valid_request_id_is_used(
    client: Client,
    log_entries: list[EventDict],
    requested: str,
    path: str,
) -> None:
    """It is in the answer, errors included, and in every log line."""
    response = await client.get(
        path, headers={REQUEST_ID_HEADER: requested}, allow_redirects=False
    )

    assert response.headers[REQUEST_ID_HEADER] == requested
    assert {entry["request_id"] for entry in log_entries} == {requested}


@pytest.mark.parametrize(
    "requested",
    [
        *("", "a" * 129, "a b", "a\tb", '"quoted"', "<script>", "née", "a,b", "{}"),
        *("a\\b", "cu_key", "a:cu_key"),
    ],
    ids=lambda value: ascii(value)[:20],
)
async def test_an_invalid_request_id_is_replaced(
    client: Client, log_entries: list[EventDict], requested: str
) -> None:
    """Characters that are unsafe in logs or headers are refused, and keys."""
    response = await client.get("/missing", headers={REQUEST_ID_HEADER: requested})

    made = response.headers[REQUEST_ID_HEADER]
    assert MADE_ID.fullmatch(made)
    assert (await response.json())["request_id"] == made
    assert {entry["request_id"] for entry in log_entries} == {made}


async def test_made_request_ids_differ(client: Client) -> None:
    """Each request without an id gets one of its own."""
    responses = [await client.get("/fine") for _ in range(20)]

    made = {response.headers[REQUEST_ID_HEADER] for response in responses}
    assert len(made) == 20


# --- traces -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "traceparent, is_valid",
    [
        (f"00-{TRACE_ID}-{SPAN_ID}-01", True),
        (f"cc-{TRACE_ID}-{SPAN_ID}-01-what-the-future-brings", True),
        ("", False),
        (f"00-{TRACE_ID}-{SPAN_ID}", False),
        (f"ff-{TRACE_ID}-{SPAN_ID}-01", False),
        (f"00-{'0' * 32}-{SPAN_ID}-01", False),
        (f"00-{TRACE_ID}-{'0' * 16}-01", False),
        (f"00-{TRACE_ID.upper()}-{SPAN_ID}-01", False),
        (f"00-{TRACE_ID[1:]}-{SPAN_ID}-01", False),
        (f"00-{TRACE_ID}-{SPAN_ID}-01-more", False),
    ],
)
async def test_valid_trace_ids_are_in_every_line(
    client: Client, log_entries: list[EventDict], traceparent: str, *, is_valid: bool
) -> None:
    """A `traceparent` that is valid by W3C's rules adds its ids to log lines."""
    await client.get("/fine", headers={"traceparent": traceparent})

    expected = (TRACE_ID, SPAN_ID) if is_valid else (None, None)
    assert len(log_entries) == 2
    for entry in log_entries:
        assert (entry.get("trace_id"), entry.get("span_id")) == expected


# --- isolation ----------------------------------------------------------------------


async def test_a_connection_shares_no_context_between_requests(
    session: ClientSession, log_entries: list[EventDict]
) -> None:
    """Bound values do not reach the next request of the connection."""
    headers = {
        REQUEST_ID_HEADER: "first",
        "traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01",
    }
    first = await (await session.get("/binding", headers=headers)).text()
    mark = len(log_entries)
    headers = {REQUEST_ID_HEADER: "second"}
    await (await session.get("/fine", headers=headers)).read()
    last = await (await session.get("/binding", headers=headers)).text()

    assert first == last  # the same connection
    for entry in log_entries[mark : mark + 2]:
        assert entry["request_id"] == "second"
        assert not {"trace_id", "span_id", "left_behind"} & entry.keys()


async def test_concurrent_requests_have_their_own_ids(
    client: Client, log_entries: list[EventDict]
) -> None:
    """Each line has the id of its own request."""
    ids = [f"request-{number}" for number in range(30)]
    await asyncio.gather(
        *(
            client.get(f"/things/{each}", headers={REQUEST_ID_HEADER: each})
            for each in ids
        )
    )

    answered = [e for e in log_entries if e["event"] == "http.request"]
    assert {e["url.path"]: e["request_id"] for e in answered} == {
        f"/things/{each}": each for each in ids
    }


# --- the request's line, and errors -------------------------------------------------


async def test_the_whole_line_of_a_request(
    client: Client, log_entries: list[EventDict]
) -> None:
    """An answered request is one entry with all its values."""
    await client.get("/things/a%20b?x=1", headers={REQUEST_ID_HEADER: "7"})

    assert [entry["event"] for entry in log_entries] == ["test.handled", "http.request"]
    entry = log_entries[-1]
    assert entry.pop("duration_s") >= 0
    assert entry == {
        "event": "http.request",
        "log_level": "info",
        "request_id": "7",
        "http.request.method": "GET",
        "http.route": "/things/{thing}",
        "url.path": "/things/a b",
        "http.response.status_code": 200,
        "http.response.body.size": 4,
        "cache": "hit",
    }


async def test_a_wait_that_was_asked_for_is_no_duration(
    client: Client, log_entries: list[EventDict]
) -> None:
    """The duration is what the service took, so that a long poll is not slow."""
    await client.get("/waiting")
    assert 0 <= log_entries[-1]["duration_s"] < 1_000


@pytest.mark.parametrize(
    "path, route, status",
    [
        ("/missing", "/missing", 404),
        ("/broken", "/broken", 500),
        ("/redirecting", "/redirecting", 302),
        ("/streaming", "/streaming", 200),
        ("/nowhere", None, 404),
    ],
)
async def test_every_answer_has_its_line(
    client: Client,
    log_entries: list[EventDict],
    path: str,
    route: str | None,
    status: int,
) -> None:
    """Errors, redirects and streams are logged like any other answer, once."""
    response = await client.get(path, allow_redirects=False)
    await response.read()

    lines = [entry for entry in log_entries if entry["event"] == "http.request"]
    assert response.status == status
    assert [(e["http.route"], e["http.response.status_code"]) for e in lines] == [
        (route, status)
    ]
    assert lines[0]["log_level"] == "info"
    assert ("code" in lines[0]) is (status >= 400)


async def test_an_unexpected_error_is_logged_and_not_sent(
    client: Client, log_entries: list[EventDict]
) -> None:
    """A 500 has no internals; the log has the exception."""
    response = await client.get("/broken", headers={REQUEST_ID_HEADER: "7"})
    text = await response.text()

    assert response.status == 500
    assert response.content_type == "application/problem+json"
    assert not re.search("tulip|RuntimeError|Traceback|File", text)
    errors = [entry for entry in log_entries if entry["event"] == "http.error"]
    assert len(errors) == 1
    assert str(errors[0].pop("exc_info")) == "the password is tulip"
    assert errors == [{"event": "http.error", "log_level": "error", "request_id": "7"}]
