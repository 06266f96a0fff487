"""What callers of events are refused, and how: keys, rates, bad questions, outages."""

import asyncio
import base64
import itertools
from collections.abc import Awaitable, Callable
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
from service.events.keys import add_key, revoke_keys
from service.settings import Settings
from service.storage.database import open_database
from service.storage.errors import StorageUnavailable
from tests.conftest import Client
from tests.events.conftest import SESSION, event, on_sqlite
from tests.test_metrics import Read, added, labels_of

__all__ = ["added"]

Caller = Callable[..., Awaitable[Client]]
CALLS: Final = [
    ("POST", "/events"),
    ("GET", "/events"),
    ("GET", "/events/failed"),
    ("POST", "/events/failed/1/replay"),
    ("GET", "/events/stats"),
    ("GET", "/sessions/1"),
]


async def problem_of(answer: ClientResponse) -> tuple[int, str]:
    """Status and code of a problem, which is whole."""
    body = await answer.json(content_type="application/problem+json")
    assert body.keys() == {"type", "title", "status", "detail", "code", "request_id"}
    assert body["status"] == answer.status
    assert body["type"].endswith(body["code"])
    assert body["request_id"] == answer.headers["X-Request-ID"]
    return answer.status, body["code"]


# --- keys ---------------------------------------------------------------------------


def basic(key: str) -> str:
    """A key as a password."""
    return "Basic " + base64.b64encode(f"shop:{key}".encode()).decode()


async def test_nothing_is_told_without_a_key(caller: Caller) -> None:
    """None, an empty, a wrong, an endless or a half one: all get the very same 401."""
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
    told = set()
    for (method, path), each in itertools.product(CALLS, headers):
        answer = await client.request(method, path, headers=each, json=event())
        body = await answer.json()
        assert answer.headers[hdrs.WWW_AUTHENTICATE] == "Bearer"
        assert body.pop("request_id")
        told.add((answer.status, msgspec.json.encode(body)))
    assert len(told) == 1
    ((status, body),) = told
    assert status == 401
    assert msgspec.json.decode(body)["code"] == "unauthorized"


async def test_a_key_goes_either_way(caller: Caller) -> None:
    """As a bearer token, in any case of the word, or in `X-API-Key`."""
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
    """The answer says no more than to a key that never was."""
    client = await caller(key_ttl_s=0.0)
    assert (await client.get("/events")).status == 200
    async with open_database(events_settings().storage) as database:
        await revoke_keys(database, "shop")

    answer = await client.get("/events")

    assert await problem_of(answer) == (401, "unauthorized")
    assert "revoked" not in (await answer.text()).lower()


async def test_a_wrong_key_is_refused_before_the_body_is_read(caller: Caller) -> None:
    """Whoever has no key cannot make the service read what it is sent."""
    client = await caller()

    async def never_ending() -> Any:
        yield b"["
        await asyncio.Event().wait()

    headers = {"Authorization": "Bearer wrong", "Content-Type": "application/json"}
    async with client.post("/events", data=never_ending(), headers=headers) as answer:
        assert await problem_of(answer) == (401, "unauthorized")


async def test_refusals_are_counted_by_status(caller: Caller, added: Read) -> None:
    """Wrong keys and bad requests show in the metrics of HTTP, under their route."""
    client = await caller()
    await client.get("/events", headers={"Authorization": "Bearer wrong"})
    await client.get("/events", params={"limit": 0})
    await client.post("/events", data=b"{", headers={"Content-Type": "text/plain"})
    await client.get(f"/sessions/{SESSION}")

    count = "http_server_request_duration_seconds_count"
    assert added(count, **labels_of("/events", "401")) == 1
    assert added(count, **labels_of("/events", "400")) == 1
    assert added(count, **labels_of("/events", "415", "POST")) == 1
    assert added(count, **labels_of("/sessions/{session_id}", "404")) == 1


async def test_keys_are_in_no_log(caller: Caller, log_entries: list[EventDict]) -> None:
    """Neither a good key nor a wrong one."""
    client = await caller()
    key = client.session.headers[hdrs.AUTHORIZATION].split()[1]
    await client.post("/events", json=event())
    await client.get("/events", headers={"Authorization": "Bearer secret-thing"})

    told = repr(log_entries)
    assert "events.received" in told
    assert key not in told
    assert "secret-thing" not in told


# --- rates --------------------------------------------------------------------------


async def test_each_key_has_its_own_rate(
    events_settings: Callable[..., Settings], aiohttp_client: Any
) -> None:
    """Beyond it 429 says when to come back; other keys do not notice.

    So slow that no token comes back during the test.
    """
    settings = events_settings(key_rate_per_s=0.001)
    async with open_database(settings.storage) as database:
        default = await add_key(database, "shop")
        generous = await add_key(database, "shop", rate_per_s=1_000_000.0)
        slower = await add_key(database, "bank", rate_per_s=0.0001)
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
        assert answer.status == 200


async def test_what_is_over_the_rate_is_not_stored(caller: Caller) -> None:
    """The refused request leaves nothing, the one before it all."""
    client = await caller(key_rate_per_s=0.001)
    assert (await client.post("/events", json=event(id="a"))).status == 202
    assert (await client.post("/events", json=event(id="b"))).status == 429

    again = await caller()
    told = await (await again.get("/events")).json()
    assert [each["id"] for each in told["events"]] == ["a"]


# --- bad questions ------------------------------------------------------------------


def cursor(value: object) -> str:
    """A cursor that says this."""
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).decode().rstrip("=")


LISTS: Final = ("/events", "/events/failed")
CURSORS: Final = {
    "no base64": "!",
    "no json": "AAAA",
    "cut": cursor([1, 2, "a"])[:-3],
    "no list": cursor({"at": 1}),
    "empty": cursor([]),
    "short": cursor([1]),
    "long": cursor([1, 2, "a", 4]),
    "text for numbers": cursor(["1", "2", "a"]),
    "fractions": cursor([1.5, 2.5, "a"]),
    "number for text": cursor([1, 2, 3]),
    "beyond 64 bits": cursor([2**63, 2, "a"]),
    "NUL": cursor([1, 2, "a\0"]),
    "null": cursor([None, None, None]),
    "deep": cursor("x").replace("x", "[" * 1000),
}


@on_sqlite
async def test_a_cursor_that_is_not_ours_is_refused(caller: Caller) -> None:
    """Whatever is in it, it is a bad parameter, and never reaches the database."""
    client = await caller()
    for path, name in itertools.product(LISTS, CURSORS):
        answer = await client.get(path, params={"cursor": CURSORS[name]})
        assert await problem_of(answer) == (400, "invalid_parameter"), (path, name)


async def test_a_cursor_of_another_list_is_refused(caller: Caller) -> None:
    """The lists are ordered differently: one's place is none in the other."""
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


@on_sqlite
@pytest.mark.parametrize("path", [*LISTS, "/events/stats"])
async def test_a_bad_parameter_is_named(caller: Caller, path: str) -> None:
    """400 tells which it is; nothing else is looked at."""
    client = await caller()
    for query in BAD_QUERIES:
        answer = await client.get(URL(f"{path}?{query}", encoded=True))

        assert await problem_of(answer) == (400, "invalid_parameter"), query
        assert query.partition("=")[0] in (await answer.json())["detail"]


@on_sqlite
async def test_counts_are_by_what_is_known(caller: Caller) -> None:
    """Anything else is a bad parameter, pages too."""
    client = await caller()
    for query in ("by=colour", "by=", "limit=5", "cursor=x"):
        answer = await client.get(f"/events/stats?{query}")
        assert await problem_of(answer) == (400, "invalid_parameter")


# --- methods ------------------------------------------------------------------------


@on_sqlite
async def test_head_tells_what_get_would(caller: Caller) -> None:
    """The same status and length, without the body; with the same need of a key."""
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
    """`Allow` lists those that are."""
    client = await caller()
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - set(allowed.split(", ")):
        answer = await client.request(method, path)
        assert await problem_of(answer) == (405, "method_not_allowed")
        assert answer.headers[hdrs.ALLOW] == allowed


async def test_no_cache_keeps_what_only_a_key_may_see(caller: Caller) -> None:
    """A key in `X-API-Key` is nothing to a cache, so each answer says it."""
    client = await caller()
    await client.post("/events", json=event(session_id="1"))
    for method, path in CALLS:
        answer = await client.request(method, path, json=event())
        assert answer.headers[hdrs.CACHE_CONTROL] == "no-store"


# --- outages ------------------------------------------------------------------------


@on_sqlite
async def test_a_full_backlog_is_said_with_a_time(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 `backlog_full`, `Retry-After`, and that nothing was stored."""
    client = await caller()
    collector = client.server.app[events.COLLECTOR]  # type: ignore[attr-defined]
    full = Mock(side_effect=BacklogFull("20000 events wait to be written"))
    monkeypatch.setattr(collector._ingest, "take", full)

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
async def test_an_outage_of_the_database_is_said_with_a_time(
    caller: Caller, method: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 `storage_unavailable` and `Retry-After` everywhere, and no insides."""
    client = await caller(key_ttl_s=3_600.0)
    assert (await client.get("/events")).status == 200
    collector = client.server.app[events.COLLECTOR]  # type: ignore[attr-defined]
    away = Mock(side_effect=StorageUnavailable("/var/secret: disk I/O error"))
    monkeypatch.setattr(collector.questions._database, "reading", away)
    monkeypatch.setattr(collector.questions._database, "writing", away)

    answer = await client.request(method, path, json=event())

    assert await problem_of(answer) == (503, "storage_unavailable")
    assert int(answer.headers[hdrs.RETRY_AFTER]) >= 1
    assert "secret" not in await answer.text()
    monkeypatch.undo()
    assert (await client.post("/events", json=event())).status == 202


async def test_keys_that_cannot_be_read_let_nobody_in(
    events_settings: Callable[..., Settings], aiohttp_client: Any
) -> None:
    """Until a first copy of them is there, even a good key waits: 503, never 401."""
    settings = events_settings()
    async with open_database(settings.storage) as database:
        key = await add_key(database, "shop")
    client: Client = await aiohttp_client(create_app(settings))
    collector = client.server.app[events.COLLECTOR]  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        away = Mock(side_effect=StorageUnavailable("away"))
        patch.setattr(collector.questions._database, "reading", away)
        answer = await client.get("/events", headers={"X-API-Key": key})
        assert await problem_of(answer) == (503, "storage_unavailable")

    assert (await client.get("/events", headers={"X-API-Key": key})).status == 200
