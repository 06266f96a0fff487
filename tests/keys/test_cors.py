"""Pages of other origins: preflights, and the answers that their scripts may read."""

from typing import Any, Final
from unittest.mock import Mock

import pytest
from aiohttp import ClientSession

from service.events.collector import Collector
from service.events.errors import BacklogFull
from service.settings import SettingsError, load
from service.storage.database import Database
from tests.events.conftest import event
from tests.keys.conftest import MakeKey, Serve, on_sqlite, with_key
from tests.keys.test_sessions import sign_in

SHOP: Final = "https://shop.example"
WRITE: Final = ("events:write",)
EXPOSED: Final = {"Retry-After", "X-Request-ID"}


def page(origin: str = SHOP, site: str | None = "cross-site") -> dict[str, str]:
    """Return the headers that a browser adds to requests of a page."""
    return {"Origin": origin} | ({"Sec-Fetch-Site": site} if site else {})


def preflight(origin: str = SHOP, headers: str = "content-type") -> dict[str, str]:
    """Return the headers of a preflight."""
    return page(origin) | {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": headers,
    }


def permits(headers: Any, origin: str = SHOP) -> bool:
    """Return whether a page may read an answer, or send after this preflight."""
    assert headers.getall("Vary", []) == ["Origin"]
    permitted: str | None = headers.get("Access-Control-Allow-Origin")
    assert permitted in {None, origin}
    return permitted is not None


@on_sqlite
async def test_a_preflight_of_a_named_origin_is_permitted(serve: Serve) -> None:
    """Its answer names the origin, the method, the headers and its lifetime."""
    async with serve(events={"cors_origins": (SHOP,)}) as service:
        requested = "content-type,x-api-key"
        sent = preflight(headers=requested)
        async with service.options("/events", headers=sent) as answer:
            assert (answer.status, await answer.read()) == (204, b"")
            assert permits(answer.headers)
            assert answer.headers["Access-Control-Allow-Methods"] == "POST"
            assert answer.headers["Access-Control-Allow-Headers"] == requested
            assert int(answer.headers["Access-Control-Max-Age"]) > 0
            assert "Access-Control-Allow-Credentials" not in answer.headers
        for path in ("/v1/track", "/v1/batch", "/api/v1/events"):
            async with service.options(path, headers=sent) as answer:
                assert permits(answer.headers), path
        # Only a beacon, which has its key in the URL, has to permit cookies.
        async with service.options("/events?key=cu_one", headers=sent) as answer:
            assert answer.headers["Access-Control-Allow-Credentials"] == "true"


@on_sqlite
@pytest.mark.parametrize(
    "origin",
    [
        "https://other.example",
        "https://shop.example.evil.example",
        "https://shop.example:8443",
        "http://shop.example",
        "https://sub.shop.example",
        "null",
        "*",
        "",
    ],
)
async def test_no_other_origin_is_permitted(
    origin: str, serve: Serve, make_key: MakeKey
) -> None:
    """Neither its preflight nor its event; nothing is stored."""
    key = await make_key(WRITE)
    reader = with_key(await make_key(("events:read",)))
    async with serve(events={"cors_origins": (SHOP,)}) as service:
        async with service.options("/events", headers=preflight(origin)) as answer:
            assert not permits(answer.headers)
        for site in ("cross-site", "same-site", None):
            sent = send(service, key, page(origin, site))
            async with sent as answer:
                assert answer.status == 403
                assert not permits(answer.headers)
        async with service.get("/events", headers=reader) as answer:
            assert (await answer.json())["events"] == []


def send(service: ClientSession, key: str, headers: dict[str, str], **more: Any) -> Any:
    """Send an event with a key in the query."""
    sent: dict[str, Any] = {"json": event(), "params": {"key": key}, **more}
    return service.post("/events", headers=headers, **sent)


@on_sqlite
async def test_a_page_may_read_its_answers_and_its_errors(
    serve: Serve, make_key: MakeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each refusal has the same headers as an acceptance."""
    key, slow = await make_key(WRITE), await make_key(WRITE, 0.001)
    wide = await make_key()
    form = {"Content-Type": "multipart/form-data"}
    requests: list[tuple[str, dict[str, str], dict[str, Any], int]] = [
        (key, {}, {}, 202),
        ("", {}, {}, 401),
        ("cu_wrong", {}, {}, 401),
        (wide, {}, {}, 403),
        (key, {}, {"params": {"key": key, "limit": "1"}}, 400),
        (key, {}, {"json": None, "data": b"{"}, 400),
        (key, {}, {"json": None, "data": b" " * 65_537}, 413),
        (key, {}, {"json": [event()] * 11}, 413),
        (key, form, {"json": None, "data": b"--"}, 415),
        (slow, {}, {}, 202),
        (slow, {}, {}, 429),
    ]
    bounds = {"max_body_bytes": 65_536, "max_events": 10}
    async with serve(events={"cors_origins": (SHOP,), **bounds}) as service:
        for text, headers, body, status in requests:
            async with send(service, text, page() | headers, **body) as answer:
                assert answer.status == status, await answer.text()
                assert permits(answer.headers)
                exposed = answer.headers["Access-Control-Expose-Headers"]
                assert set(exposed.split(", ")) >= EXPOSED
                assert "Access-Control-Allow-Credentials" not in answer.headers
        monkeypatch.setattr(Collector, "reserve", Mock(side_effect=BacklogFull("full")))
        async with send(service, key, page()) as answer:
            assert answer.status == 503
            assert permits(answer.headers)


@on_sqlite
async def test_every_origin_may_be_permitted(serve: Serve, make_key: MakeKey) -> None:
    """`*` stands for all origins, sandboxed pages too; a key is needed nevertheless."""
    key = await make_key(WRITE)
    async with serve(events={"cors_origins": ("*",)}) as service:
        for origin in (SHOP, "null", "capacitor://localhost"):
            async with service.options("/events", headers=preflight(origin)) as answer:
                assert permits(answer.headers, origin)
            for text, status in ((key, 202), ("cu_wrong", 401)):
                async with send(service, text, page(origin)) as answer:
                    assert answer.status == status
                    assert permits(answer.headers, origin)


@on_sqlite
async def test_a_page_has_no_right_by_a_cookie(
    serve: Serve, make_key: MakeKey, database: Database
) -> None:
    """The session of a browser does not count, also not with its token."""
    everything = await make_key()
    async with serve(events={"cors_origins": (SHOP,)}) as service:
        facts = await sign_in(service, everything)
        token = {"X-CSRF-Token": facts["csrf_token"]}
        for text in ("", "cu_wrong"):
            async with send(service, text, page() | token) as answer:
                assert answer.status == 401
        own = {"X-CSRF-Token": facts["csrf_token"], "Sec-Fetch-Site": "same-origin"}
        async with service.post("/events", json=event(), headers=own) as answer:
            assert answer.status == 202


@on_sqlite
async def test_other_endpoints_permit_no_page(serve: Serve, make_key: MakeKey) -> None:
    """A page can neither ask for events nor change anything else."""
    key = await make_key()
    async with serve(events={"cors_origins": ("*",)}) as service:
        for path in ("/usage", "/keys", "/vehicles/remove", "/events/failed/1/replay"):
            async with service.options(path, headers=preflight()) as answer:
                assert answer.status == 405
                assert "Access-Control-Allow-Origin" not in answer.headers
        async with service.get("/events", headers=page() | with_key(key)) as answer:
            assert answer.status == 200
            assert "Access-Control-Allow-Origin" not in answer.headers
        async with service.post("/keys", json={}, headers=page()) as answer:
            assert answer.status == 403


@on_sqlite
async def test_without_named_origins_nothing_is_permitted(
    serve: Serve, make_key: MakeKey
) -> None:
    """The default is that no page of another origin can send events."""
    key = await make_key(WRITE)
    async with serve() as service:
        async with service.options("/events", headers=preflight()) as answer:
            assert answer.status == 405
        async with send(service, key, page()) as answer:
            assert answer.status == 403
            assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:5173",
        "http://127.0.0.1:8080",
        "http://[::1]:8080",
        "https://xn--bcher-kva.example",
    ],
)
def test_an_origin_has_a_scheme_a_host_and_a_port(origin: str) -> None:
    """The environment separates origins by commas."""
    text = f"{origin},{SHOP}"
    loaded = load(environment={"COPILOT_USAGE_EVENTS__CORS_ORIGINS": text})
    assert loaded.settings.events.cors_origins == (origin, SHOP)


@pytest.mark.parametrize(
    "origin",
    [
        *("", "null", "shop.example", "//shop.example", "https://", "https:shop"),
        *(
            f"{SHOP}/",
            f"{SHOP}/path",
            f"{SHOP}?",
            f"{SHOP}#",
            "https://u:p@shop.example",
        ),
        *("https://*.shop.example", "https://*", "*.example", "https://shop.*"),
        *(f"{SHOP}:443", "http://shop.example:80", f"{SHOP}:", f"{SHOP}:0"),
        *(f"{SHOP}:65536", f"{SHOP}:*", "https://Shop.example", "HTTPS://shop.example"),
        *("https://bücher.example", "ftp://shop.example", "file://", f" {SHOP}"),
        *("https://.example", "https://shop..example", f"{SHOP} {SHOP}", f"{SHOP}\n"),
    ],
)
@pytest.mark.parametrize("before", [(), ("*",), (SHOP,)])
def test_any_other_origin_stops_the_start(origin: str, before: tuple[str]) -> None:
    """Also one that looks right and that no browser sends, and `*` with others."""
    origins = (*before, origin)
    with pytest.raises(SettingsError, match=r"^events\.cors_origins: "):
        load(options={"events": {"cors_origins": origins}})
