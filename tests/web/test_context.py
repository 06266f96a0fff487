"""The context of a request: its id, its trace, its one line, and nothing of another."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
import structlog
from aiohttp import ClientSession, TCPConnector, web
from aiohttp.test_utils import TestClient
from pytest_aiohttp.plugin import AiohttpClient
from structlog.typing import EventDict

from service.usage.snapshots.errors import MessageNotFound
from service.web.context import CACHE_RESULT, REQUEST_ID_HEADER, request_context

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
    raise MessageNotFound(7)


async def broken(_: web.Request) -> web.Response:
    raise RuntimeError("the password is tulip")


async def redirecting(_: web.Request) -> web.Response:
    raise web.HTTPFound("/fine")


async def streaming(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"streamed")
    return response


@pytest.fixture
async def client(
    aiohttp_client: AiohttpClient,
) -> TestClient[web.Request, web.Application]:
    """A small application behind the middleware."""
    app = web.Application(middlewares=[request_context(access_log=True)])
    handlers = (fine, binding, missing, broken, redirecting, streaming)
    app.add_routes([web.get(f"/{each.__name__}", each) for each in handlers])
    app.router.add_get("/things/{thing}", fine)
    return await aiohttp_client(app)


@pytest.fixture
async def kept_alive(
    client: TestClient[web.Request, web.Application],
) -> AsyncIterator[ClientSession]:
    """A session that has one connection only."""
    async with ClientSession(
        client.make_url("/"), connector=TCPConnector(limit=1)
    ) as session:
        yield session


# --- request ids --------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    ["7", "a" * 128, "5f0c1e9a-6c0b-4d7f", "a.b_c~d+e/f=g:h", "=="],
    ids=lambda value: value[:20],
)
@pytest.mark.parametrize(
    "path", ["/fine", "/missing", "/broken", "/redirecting", "/nowhere"]
)
async def test_a_sane_request_id_is_kept(
    client: TestClient[web.Request, web.Application],
    log_entries: list[EventDict],
    given: str,
    path: str,
) -> None:
    """It comes back, on errors too, and stands in every line of the log."""
    response = await client.get(
        path, headers={REQUEST_ID_HEADER: given}, allow_redirects=False
    )

    assert response.headers[REQUEST_ID_HEADER] == given
    assert {entry["request_id"] for entry in log_entries} == {given}


@pytest.mark.parametrize(
    "given",
    ["", "a" * 129, "a b", "a\tb", '"quoted"', "<script>", "née", "a,b", "{}", "a\\b"],
    ids=lambda value: ascii(value)[:20],
)
async def test_an_insane_request_id_is_replaced(
    client: TestClient[web.Request, web.Application],
    log_entries: list[EventDict],
    given: str,
) -> None:
    """What could spoil a log or a header is not carried on."""
    response = await client.get("/missing", headers={REQUEST_ID_HEADER: given})

    made = response.headers[REQUEST_ID_HEADER]
    assert MADE_ID.fullmatch(made)
    assert (await response.json())["request_id"] == made
    assert {entry["request_id"] for entry in log_entries} == {made}


async def test_made_request_ids_differ(
    client: TestClient[web.Request, web.Application],
) -> None:
    """Each request without an id gets one of its own."""
    responses = [await client.get("/fine") for _ in range(20)]

    made = {response.headers[REQUEST_ID_HEADER] for response in responses}
    assert len(made) == 20


# --- traces -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "traceparent",
    [
        f"00-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-00",
        f"cc-{TRACE_ID}-{SPAN_ID}-01-what-the-future-brings",
    ],
)
async def test_a_trace_is_carried_into_every_line(
    client: TestClient[web.Request, web.Application],
    log_entries: list[EventDict],
    traceparent: str,
) -> None:
    """A valid `traceparent` joins our lines with the caller's trace."""
    await client.get("/fine", headers={"traceparent": traceparent})

    assert len(log_entries) == 2
    for entry in log_entries:
        assert (entry["trace_id"], entry["span_id"]) == (TRACE_ID, SPAN_ID)


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "nonsense",
        f"00-{TRACE_ID}-{SPAN_ID}",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
        f"00-{TRACE_ID[1:]}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01-more",
        f" 00-{TRACE_ID}-{SPAN_ID}-01x",
    ],
)
async def test_an_invalid_trace_is_ignored(
    client: TestClient[web.Request, web.Application],
    log_entries: list[EventDict],
    traceparent: str,
) -> None:
    """What W3C calls invalid appears in no line."""
    await client.get("/fine", headers={"traceparent": traceparent})

    assert len(log_entries) == 2
    for entry in log_entries:
        assert not {"trace_id", "span_id"} & entry.keys()


# --- isolation ----------------------------------------------------------------------


async def test_nothing_leaks_on_a_kept_connection(
    kept_alive: ClientSession, log_entries: list[EventDict]
) -> None:
    """What one request binds is gone in the next on the same connection."""
    headers = {
        REQUEST_ID_HEADER: "first",
        "traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01",
    }
    first = await (await kept_alive.get("/binding", headers=headers)).text()
    mark = len(log_entries)
    headers = {REQUEST_ID_HEADER: "second"}
    await (await kept_alive.get("/fine", headers=headers)).read()
    last = await (await kept_alive.get("/binding", headers=headers)).text()

    assert first == last  # the same connection
    for entry in log_entries[mark : mark + 2]:
        assert entry["request_id"] == "second"
        assert not {"trace_id", "span_id", "left_behind"} & entry.keys()


async def test_requests_at_once_keep_apart(
    client: TestClient[web.Request, web.Application], log_entries: list[EventDict]
) -> None:
    """However many run at once, each line has the id of its own request."""
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
    client: TestClient[web.Request, web.Application], log_entries: list[EventDict]
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
    client: TestClient[web.Request, web.Application],
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


async def test_the_line_can_be_turned_off(
    aiohttp_client: AiohttpClient, log_entries: list[EventDict]
) -> None:
    """Without the access log a request still has its id, and no line of its own."""
    app = web.Application(middlewares=[request_context(access_log=False)])
    app.router.add_get("/fine", fine)

    response = await (await aiohttp_client(app)).get("/fine")

    assert response.headers[REQUEST_ID_HEADER]
    assert [entry["event"] for entry in log_entries] == ["test.handled"]


async def test_the_unexpected_is_logged_once_and_told_to_nobody(
    client: TestClient[web.Request, web.Application], log_entries: list[EventDict]
) -> None:
    """A mistake of ours is a 500 without internals; the log has all of it."""
    response = await client.get("/broken", headers={REQUEST_ID_HEADER: "7"})
    text = await response.text()

    assert response.status == 500
    assert response.content_type == "application/problem+json"
    assert not re.search("tulip|RuntimeError|Traceback|File", text)
    errors = [entry for entry in log_entries if entry["event"] == "http.error"]
    assert len(errors) == 1
    assert str(errors[0].pop("exc_info")) == "the password is tulip"
    assert errors == [{"event": "http.error", "log_level": "error", "request_id": "7"}]


async def test_the_expected_is_no_error_of_ours(
    client: TestClient[web.Request, web.Application], log_entries: list[EventDict]
) -> None:
    """A caller's mistake does not fill the log with errors."""
    await client.get("/missing")
    await client.get("/nowhere")

    assert [e["log_level"] for e in log_entries] == ["info", "info"]


async def test_a_redirect_has_no_code(
    client: TestClient[web.Request, web.Application], log_entries: list[EventDict]
) -> None:
    """It refuses nothing."""
    await client.get("/redirecting", allow_redirects=False)

    (line,) = [each for each in log_entries if each["event"] == "http.request"]
    assert "code" not in line
