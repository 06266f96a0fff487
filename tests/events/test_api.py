"""Refused requests about events: keys, rates, parameters, methods, outages."""

import asyncio
import base64
import itertools
from collections.abc import Callable
from typing import Any, Final
from unittest.mock import Mock

import msgspec
import pytest
from aiohttp import ClientResponse, hdrs
from structlog.typing import EventDict
from yarl import URL

from service.app import create_app
from service.events import handlers as events
from service.events.errors import BacklogFull
from service.events.ingest import Ingest
from service.keys.store import add_key, revoke_keys
from service.settings import Settings
from service.storage.database import open_database
from service.storage.errors import StorageUnavailable
from tests.conftest import Client
from tests.events.conftest import OWN_EVENTS, Caller, event, on_sqlite
from tests.events.test_ingest import Fatal

CALLS: Final = [
    ("POST", "/events"),
    ("GET", "/events"),
    ("GET", "/events/failed"),
    ("POST", "/events/failed/1/replay"),
    ("POST", "/events/failed/replay"),
    ("POST", "/events/failed/discard"),
    ("GET", "/events/stats"),
    ("GET", "/sessions/1"),
]


async def problem_of(answer: ClientResponse) -> tuple[int, str]:
    """Return status and code of a problem, and check its other fields."""
    body = await answer.json(content_type="application/problem+json")
    assert body.keys() == {"type", "title", "status", "detail", "code", "request_id"}
    assert body["status"] == answer.status
    assert body["type"].endswith(body["code"])
    assert body["request_id"] == answer.headers["X-Request-ID"]
    return answer.status, body["code"]


def basic(key: str) -> str:
    """Return a key as a password."""
    return "Basic " + base64.b64encode(f"shop:{key}".encode()).decode()


async def test_requests_without_a_valid_key_get_the_same_answer(caller: Caller) -> None:
    """A missing, empty, wrong, long or incomplete key gets an identical 401."""
    client = await caller()
    key = client.session.headers.popall(hdrs.AUTHORIZATION)[0].split()[1]
    headers: list[dict[str, str]] = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": key},
        {"Authorization": basic(key)},
        {"Authorization": f"Bearer {key[:-1]}"},
        {"Authorization": f"Bearer {key}x"},
        {"Authorization": f"Bearer {key.upper()}"},
        {"Authorization": "Bearer " + "x" * 4000},
        {"Authorization": "Bearer \u00e4\u20ac"},
        {"X-API-Key": ""},
        {"X-API-Key": "cu_none"},
        {"Authorization": "Bearer wrong", "X-API-Key": key},
    ]
    answers = set()
    for (method, path), each in itertools.product(CALLS, headers):
        answer = await client.request(method, path, headers=each, json=event())
        body = await answer.json()
        assert answer.headers[hdrs.WWW_AUTHENTICATE] == "Bearer"
        assert body.pop("request_id")
        answers.add((answer.status, msgspec.json.encode(body)))
    assert len(answers) == 1
    ((status, body),) = answers
    problem = msgspec.json.decode(body)
    assert (status, problem["code"]) == (401, "unauthorized")
    assert problem["detail"] == "send a valid API key as a bearer token or in X-API-Key"


async def test_a_key_is_accepted_in_either_header(caller: Caller) -> None:
    """A key is a bearer token, in any case of the word, or `X-API-Key`."""
    client = await caller()
    key = client.session.headers.popall(hdrs.AUTHORIZATION)[0].split()[1]
    for headers in (
        {"Authorization": f"Bearer {key}"},
        {"Authorization": f"bearer  {key} "},
        {"X-API-Key": key},
        {"Authorization": basic("other"), "X-API-Key": key},
    ):
        assert (await client.get("/events", headers=headers)).status == 200


async def test_a_revoked_key_is_refused_without_a_restart(
    events_settings: Callable[..., Settings], caller: Caller
) -> None:
    """The answer is the same as for an unknown key."""
    client = await caller(key_ttl_s=0.0)
    assert (await client.get("/events")).status == 200
    async with open_database(events_settings().storage) as database:
        await revoke_keys(database, "shop")

    answer = await client.get("/events")

    assert await problem_of(answer) == (401, "unauthorized")
    assert "revoked" not in (await answer.text()).lower()


async def test_a_wrong_key_is_refused_before_the_body_is_read(caller: Caller) -> None:
    """A request without a valid key is answered before its body ends."""
    client = await caller()

    async def never_ending() -> Any:
        yield b"["
        await asyncio.Event().wait()

    headers = {"Authorization": "Bearer wrong", "Content-Type": "application/json"}
    async with client.post("/events", data=never_ending(), headers=headers) as answer:
        assert await problem_of(answer) == (401, "unauthorized")


async def test_keys_are_not_logged(
    caller: Caller, log_entries: list[EventDict]
) -> None:
    """The log has neither valid nor wrong keys."""
    client = await caller()
    key = client.session.headers[hdrs.AUTHORIZATION].split()[1]
    await client.post("/events", json=event())
    await client.get("/events", headers={"Authorization": "Bearer secret-thing"})

    logged = repr(log_entries)
    assert "events.received" in logged
    assert key not in logged
    assert "secret-thing" not in logged


async def test_each_key_has_its_own_rate(
    events_settings: Callable[..., Settings], aiohttp_client: Any
) -> None:
    """Over the rate of a key 429 has `Retry-After`, and stores nothing.

    The rates are so low that no token returns during the test.
    """
    settings = events_settings(key_rate_per_s=0.001)
    async with open_database(settings.storage) as database:
        default = await add_key(database, "shop", OWN_EVENTS)
        generous = await add_key(database, "shop", OWN_EVENTS, 1_000_000.0)
        slower = await add_key(database, "bank", OWN_EVENTS, 0.0001)
    client: Client = await aiohttp_client(create_app(settings))

    for key, wait_s in ((default, 1_000), (slower, 3_600)):
        headers = {"X-API-Key": key}
        assert (
            await client.post("/events", json=event(), headers=headers)
        ).status == 202
        for method, path in CALLS:
            answer = await client.request(method, path, headers=headers)
            assert await problem_of(answer) == (429, "rate_limited")
            assert wait_s - 60 <= int(answer.headers[hdrs.RETRY_AFTER]) <= wait_s
    for _ in range(20):
        answer = await client.get("/events", headers={"X-API-Key": generous})
        assert len((await answer.json())["events"]) == 1


def cursor(value: object) -> str:
    """Return a cursor with this content."""
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).decode().rstrip("=")


LISTS: Final = ("/events", "/events/failed")
CURSORS: Final = {
    "no base64": "!",
    "no json": "AAAA",
    "no list": cursor({"at": 1}),
    "short": cursor([1]),
    "long": cursor([1, 2, "a", 4]),
    "fractions": cursor([1.5, 2.5, "a"]),
    "number for text": cursor([1, 2, 3]),
    "beyond 64 bits": cursor([2**63, 2, "a"]),
    "NUL": cursor([1, 2, "a\0"]),
    "deep": cursor("x").replace("x", "[" * 1000),
}


@on_sqlite
async def test_a_forged_cursor_is_refused(caller: Caller) -> None:
    """Any other cursor is an invalid parameter, and does not reach the database."""
    client = await caller()
    for path, name in itertools.product(LISTS, CURSORS):
        answer = await client.get(path, params={"cursor": CURSORS[name]})
        assert await problem_of(answer) == (400, "invalid_parameter"), (path, name)


async def test_a_cursor_of_another_list_is_refused(caller: Caller) -> None:
    """The lists have different orders, so their cursors differ."""
    client = await caller()
    for path, other in (LISTS, LISTS[::-1]):
        ours = cursor([1, 2, "a"] if path == "/events" else [1, "a"])
        assert (await client.get(path, params={"cursor": ours})).status == 200
        answer = await client.get(other, params={"cursor": ours})
        assert await problem_of(answer) == (400, "invalid_parameter")


BAD_QUERIES: Final = (
    *("limit=0", "limit=-1", "limit=1001", "limit=x", "limit=1.5", "limit="),
    *("limit=99999999999999999999999", "limit=1&limit=2", "colour=red"),
    *("from=soon", "to=1", "from=", "to=2024-13-01", "from=2024-05-01T25:00"),
    *("session_id=", "category=a%00b", "name=%00", f"category={'x' * 201}"),
    *("application=", "application=%00", f"session_id={'x' * 201}"),
)


BAD_STATS: Final = ("by=colour", "by=", "zeros=x", "zeros=null", "cursor=x")


@on_sqlite
@pytest.mark.parametrize(
    "path, more", [*((path, ()) for path in LISTS), ("/events/stats", BAD_STATS)]
)
async def test_a_bad_parameter_is_named(
    caller: Caller, path: str, more: tuple[str, ...]
) -> None:
    """The detail of the 400 names the parameter."""
    client = await caller()
    for query in BAD_QUERIES + more:
        answer = await client.get(URL(f"{path}?{query}", encoded=True))

        assert await problem_of(answer) == (400, "invalid_parameter"), query
        assert query.partition("=")[0] in (await answer.json())["detail"]


@on_sqlite
async def test_head_has_the_headers_of_get(caller: Caller) -> None:
    """HEAD has the status and length of GET without the body, and needs a key."""
    client = await caller()
    await client.post("/events", json=event(session_id="1"))
    for path in [path for method, path in CALLS if method == "GET"]:
        got, head = await client.get(path), await client.head(path)
        assert head.status == got.status == 200
        assert head.headers[hdrs.CONTENT_LENGTH] == str(len(await got.read()))
        assert await head.read() == b""
        wrong = await client.head(path, headers={"Authorization": "Bearer wrong"})
        assert wrong.status == 401


@on_sqlite
@pytest.mark.parametrize(
    "path, allowed",
    [
        ("/events", "GET, HEAD, POST"),
        ("/events/failed", "GET, HEAD"),
        ("/events/failed/1/replay", "POST"),
        ("/events/stats", "GET, HEAD"),
        ("/sessions/1", "GET, HEAD"),
    ],
)
async def test_other_methods_are_not_allowed(
    caller: Caller, path: str, allowed: str
) -> None:
    """`Allow` lists the allowed methods."""
    client = await caller()
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - set(allowed.split(", ")):
        answer = await client.request(method, path)
        assert await problem_of(answer) == (405, "method_not_allowed")
        assert answer.headers[hdrs.ALLOW] == allowed


async def test_answers_are_not_cached(caller: Caller) -> None:
    """Every answer has `no-store`: a cache does not know `X-API-Key`."""
    client = await caller()
    await client.post("/events", json=event(session_id="1"))
    for method, path in CALLS:
        answer = await client.request(method, path, json=event())
        assert answer.headers[hdrs.CACHE_CONTROL] == "no-store"


@on_sqlite
async def test_a_full_backlog_is_refused(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is 503 `backlog_full` with `Retry-After`; nothing is stored."""
    client = await caller()
    collector = client.server.app[events.COLLECTOR]  # type: ignore[attr-defined]
    full = Mock(side_effect=BacklogFull("20000 events wait to be written"))
    monkeypatch.setattr(collector._ingest, "accept", full)

    answer = await client.post("/events", json=event())

    assert await problem_of(answer) == (503, "backlog_full")
    assert int(answer.headers[hdrs.RETRY_AFTER]) >= 1
    detail = (await answer.json())["detail"]
    assert detail.startswith("nothing was stored;")
    assert "20000" not in detail
    monkeypatch.undo()
    assert (await (await client.get("/events")).json())["events"] == []


@on_sqlite
@pytest.mark.parametrize("method, path", CALLS)
async def test_an_outage_of_the_database_is_reported(
    caller: Caller, method: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every endpoint answers 503 with `Retry-After`, without internals."""
    client = await caller(key_ttl_s=3_600.0)
    assert (await client.get("/events")).status == 200
    collector = client.server.app[events.COLLECTOR]  # type: ignore[attr-defined]
    away = Mock(side_effect=StorageUnavailable("/var/secret: disk I/O error"))
    monkeypatch.setattr(collector.queries._database, "reading", away)
    monkeypatch.setattr(collector.queries._database, "writing", away)
    monkeypatch.setattr(collector.queries._database, "write_in_thread", away)

    answer = await client.request(
        method, path, json=event() if path == "/events" else None
    )

    assert await problem_of(answer) == (503, "storage_unavailable")
    assert int(answer.headers[hdrs.RETRY_AFTER]) >= 1
    assert "secret" not in await answer.text()
    monkeypatch.undo()
    assert (await client.post("/events", json=event())).status == 202


async def test_without_keys_every_request_gets_503(
    events_settings: Callable[..., Settings], aiohttp_client: Any
) -> None:
    """Until the keys are read once, even a valid key gets 503 instead of 401."""
    settings = events_settings()
    async with open_database(settings.storage) as database:
        key = await add_key(database, "shop", OWN_EVENTS)
    client: Client = await aiohttp_client(create_app(settings))
    collector = client.server.app[events.COLLECTOR]  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        away = Mock(side_effect=StorageUnavailable("away"))
        patch.setattr(collector.queries._database, "reading", away)
        answer = await client.get("/events", headers={"X-API-Key": key})
        assert await problem_of(answer) == (503, "storage_unavailable")

    assert (await client.get("/events", headers={"X-API-Key": key})).status == 200


@on_sqlite
async def test_a_writer_that_ends_makes_the_process_unready(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests get 503 at once, and readiness has the reason; queries are answered."""
    client = await caller()
    assert (await client.get("/health/ready")).status == 200
    monkeypatch.setattr(Ingest, "_start", Mock(side_effect=Fatal))

    for _ in range(2):
        answer = await client.post("/events", json=event())
        assert await problem_of(answer) == (503, "storage_unavailable")

    ready = await client.get("/health/ready")
    assert await problem_of(ready) == (503, "not_ready")
    detail = (await ready.json())["detail"]
    assert detail.startswith("the writer of events has ended;")
    assert (await client.get("/events")).status == 200
