"""Keys that everybody may know: in the query, or in Basic authentication."""

import asyncio
import json
from traceback import format_exception
from typing import Any, Final
from unittest.mock import Mock

import pytest
from aiohttp import ClientSession, encode_basic_auth
from structlog.typing import EventDict

from service.events.collector import Collector
from tests.events.conftest import event
from tests.keys.conftest import MakeKey, Serve, on_sqlite, with_key
from tests.patience import GIVE_UP_S

WRITE: Final = ("events:write",)
WIDER: Final = (
    ("events:write", "events:read"),
    ("events:write", "admin"),
    ("events:read",),
)


def as_user(key: str) -> dict[str, str]:
    """Return the header of Basic authentication with a key."""
    return {"Authorization": encode_basic_auth(key, "ignored", encoding="utf-8")}


async def send(service: ClientSession, key: str, way: str, **more: Any) -> int:
    """Send an event with a key in the query or as the user; return the status."""
    if way == "query":
        more["params"] = {"key": key}
    else:
        more["headers"] = as_user(key)
    async with service.post("/events", json=event(), **more) as answer:
        return answer.status


@on_sqlite
@pytest.mark.parametrize("way", ["query", "basic"])
async def test_a_key_that_only_sends_may_be_public(
    way: str, serve: Serve, make_key: MakeKey
) -> None:
    """With any other scope, the key is refused; an unknown one is unauthorized."""
    keys = [(await make_key(WRITE), 202), ("cu_wrong", 401), ("kéy \0", 401), ("", 401)]
    keys += [(await make_key(scopes), 403) for scopes in WIDER]
    async with serve() as service:
        for key, status in keys:
            assert await send(service, key, way) == status, key


@on_sqlite
@pytest.mark.parametrize("way", ["query", "basic"])
async def test_a_key_that_is_no_public_one_is_told_where_to_go(
    way: str, serve: Serve, make_key: MakeKey
) -> None:
    """Basic authentication is a header too, so the answer names the right ones."""
    key = await make_key(("events:write", "events:read"))
    places: dict[str, Any] = {
        "query": {"params": {"key": key}},
        "basic": {"headers": as_user(key)},
    }
    async with serve() as service:
        sent = service.post("/events", json=event(), **places[way])
        async with sent as answer:
            problem = await answer.json(content_type=None)
    assert problem["detail"] == (
        "this API key has other scopes than events:write: send it as a bearer token or "
        "in X-API-Key"
    )


@on_sqlite
async def test_a_header_that_only_a_program_sends_comes_first(
    serve: Serve, make_key: MakeKey
) -> None:
    """A proxy's own Basic authentication does not hide the key behind it."""
    good = await make_key(("events:write", "events:read"))
    narrow = await make_key(WRITE)
    proxy = as_user("proxy")
    requests: list[tuple[dict[str, str], dict[str, str], int]] = [
        (proxy | with_key(good), {}, 202),
        ({"Authorization": f"Bearer {good}"}, {"key": "cu_wrong"}, 202),
        (with_key("cu_wrong"), {"key": narrow}, 401),
        (proxy, {"key": narrow}, 401),
        ({"Authorization": "Basic !"}, {"key": narrow}, 202),
        (as_user(""), {"key": narrow}, 202),
        ({"Authorization": "Basic"}, {}, 401),
    ]
    async with serve() as service:
        for headers, params, status in requests:
            sent = service.post("/events", json=event(), params=params, headers=headers)
            async with sent as answer:
                assert answer.status == status, headers


@on_sqlite
@pytest.mark.parametrize("path", ["/usage", "/events", "/metrics", "/keys"])
async def test_only_endpoints_of_events_write_accept_a_public_key(
    path: str, serve: Serve, make_key: MakeKey
) -> None:
    """Any other endpoint answers as if the request had no key."""
    key = await make_key(WRITE)
    async with serve(auth={"require": ("*",)}) as service:
        async with service.get(path, params={"key": key}) as answer:
            assert answer.status == 401
        async with service.get(path, headers=as_user(key)) as answer:
            assert answer.status == 401


@on_sqlite
async def test_a_query_has_one_key(serve: Serve, make_key: MakeKey) -> None:
    """A second key, or another parameter, is a mistake that the answer names."""
    key = await make_key(WRITE)
    async with serve() as service:
        for query in (f"key={key}&key={key}", f"key={key}&limit=1"):
            async with service.post(f"/events?{query}", json=event()) as answer:
                problem = await answer.json(content_type=None)
                assert (answer.status, problem["code"]) == (400, "invalid_parameter")
                assert key not in json.dumps(problem)


@on_sqlite
async def test_no_key_reaches_the_log_the_metrics_or_an_answer(
    serve: Serve,
    make_key: MakeKey,
    *,
    log_entries: list[EventDict],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A key may be in the right place, in a wrong one, or in a request that fails."""
    key = await make_key(WRITE)
    requests = [
        f"POST /events?key={key} HTTP/1.1",
        f"POST /events?Key={key} HTTP/1.1",
        f"POST /events?key={key}&key={key} HTTP/1.1",
        f"POST /events?{key} HTTP/1.1",
        f"POST /events/{key} HTTP/1.1",
        f"PUT /events?key={key} HTTP/1.1",
        f"GET /nowhere?key={key} HTTP/1.1",
        f"GET /usage/{key} HTTP/1.1",
        f"GET /usage?zone={key} HTTP/1.1",
        f"GET /usage/daily?tz={key} HTTP/1.1",
        f"GET /events?from={key} HTTP/1.1",
        f"POST /events?key={key} HTTP/9.9",
        f"POST /events?key={key}\x01 HTTP/1.1",
        f"{key} /events?key={key} HTTP/1.1",
        f"POST http://[/events?key={key} HTTP/1.1",
        f"POST /events?key={key}",
    ]
    async with serve() as service:
        answers = [await raw(service, each) for each in requests]
        monkeypatch.setattr(Collector, "reserve", Mock(side_effect=RuntimeError))
        answers.append(await raw(service, requests[0]))
        async with service.get("/metrics") as answer:
            metrics = await answer.text()
    assert answers[0].startswith("HTTP/1.1 202 ")
    assert answers[-1].startswith("HTTP/1.1 500 ")
    (error_entry,) = [each for each in log_entries if each["event"] == "http.error"]
    failure = "".join(format_exception(error_entry["exc_info"]))
    out, error = capfd.readouterr()
    logged = repr(log_entries), failure, caplog.text, out, error
    seen = (*answers, metrics, *logged)
    assert all(key not in each for each in seen)


async def raw(service: ClientSession, line: str) -> str:
    """Return the answer to a request line, which may be malformed."""
    url = service._base_url
    assert url is not None
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        tail = "Host: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
        writer.write(f"{line}\r\n{tail}".encode())
        async with asyncio.timeout(GIVE_UP_S):
            return (await reader.read()).decode()
    finally:
        writer.close()
