"""The served dashboard: the page, its files, and the page without a build."""

import gzip
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pytest
from aiohttp import ClientResponse
from prometheus_client.parser import text_string_to_metric_families
from pytest_aiohttp.plugin import AiohttpClient
from structlog.typing import EventDict

from service.app import create_app
from service.settings import SettingsError
from service.web.page_headers import style_source
from service.web.static_pages import (
    DASHBOARD,
    NOT_BUILT,
    Dashboard,
    file_routes,
    read_dashboard,
)
from tests.conftest import Client, MakeSettings
from tests.usage.test_handlers import ask_raw
from tests.web.html_page import Page

PAGE_TEXT: Final = b"<!doctype html><title>Usage</title>"
SCRIPT: Final = b"console.log('usage');" * 9
STYLE: Final = b"body { color: teal }"
ICON: Final = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
BROTLI: Final = b"the script as the build has compressed it"
GZIP: Final = gzip.compress(SCRIPT)

FILES: Final = {
    "index.html": PAGE_TEXT,
    "favicon.svg": ICON,
    "assets/index-Bq1x_9.js": SCRIPT,
    "assets/index-Bq1x_9.js.br": BROTLI,
    "assets/index-Bq1x_9.js.gz": GZIP,
    "assets/index-C0l0ur.css": STYLE,
    "assets/data-000000.bin": b"\x00",
    ".vite/license.md": b"licences",
    "../secret.js": b"secret",
}
PAGE_PATH: Final = "/dashboard/"
SCRIPT_PATH: Final = "/dashboard/assets/index-Bq1x_9.js"
STYLE_PATH: Final = "/dashboard/assets/index-C0l0ur.css"
ICON_PATH: Final = "/dashboard/favicon.svg"
CACHED_FOR_EVER: Final = "public, max-age=31536000, immutable"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The output of a build, and a secret file outside."""
    for name, body in FILES.items():
        path = tmp_path / "dashboard" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return tmp_path / "dashboard"


@pytest.fixture
async def service(
    settings: MakeSettings, aiohttp_client: AiohttpClient, folder: Path
) -> Client:
    """The application with a built page."""
    return await serve(settings, aiohttp_client, read_dashboard(folder))


@pytest.fixture
async def bare(settings: MakeSettings, aiohttp_client: AiohttpClient) -> Client:
    """The application without one."""
    return await serve(settings, aiohttp_client, NOT_BUILT)


async def serve(
    settings: MakeSettings,
    aiohttp_client: AiohttpClient,
    dashboard: Dashboard,
    server: Mapping[str, Any] = MappingProxyType({}),
) -> Client:
    """A client of the application; there is no upstream, as pages need none."""
    app = create_app(
        settings(upstream={"base_url": "http://127.0.0.1:1"}, server=dict(server))
    )
    app[DASHBOARD] = dashboard
    return await aiohttp_client(app)


async def fetch(service: Client, path: str, accept_encoding: str) -> ClientResponse:
    """The answer to a caller who takes these codings, its body as it was sent."""
    headers = {"Accept-Encoding": accept_encoding}
    return await service.get(path, headers=headers, auto_decompress=False)


# --- the page -----------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", "?sort=credits_used:desc", "?a=1&a=&%00=%ff&="])
async def test_page_is_served_whatever_its_query(service: Client, query: str) -> None:
    """The query is the page's own: nothing in it is refused, and nothing changes."""
    answer = await service.get(PAGE_PATH + query)

    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert await answer.read() == PAGE_TEXT


@pytest.mark.parametrize("path", ["/dashboard/events", "/dashboard/vehicles"])
async def test_other_pages_are_the_same_script(service: Client, path: str) -> None:
    """Each page has an address, and the script selects the page by that address."""
    answer = await service.get(f"{path}?a=1")

    assert answer.status == 200
    assert "frame-ancestors" in answer.headers["Content-Security-Policy"]
    assert await answer.read() == PAGE_TEXT


async def test_page_comes_under_a_strict_policy(service: Client) -> None:
    """Scripts, styles and requests stay on this origin; nothing inline, no frames."""
    headers = (await service.get(PAGE_PATH)).headers

    assert headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; "
        "img-src 'self' data:; font-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    features = headers["Permissions-Policy"].split(", ")
    assert {"camera=()", "geolocation=()", "microphone=()"} <= set(features)
    assert all(each.endswith("=()") for each in features)


@pytest.mark.parametrize(
    "ancestors, directive",
    [
        (("self",), "'self'"),
        (
            ("https://intranet.example.com", "http://[::1]:8080"),
            "https://intranet.example.com http://[::1]:8080",
        ),
    ],
)
async def test_pages_of_named_origins_may_embed_the_page(
    settings: MakeSettings,
    aiohttp_client: AiohttpClient,
    folder: Path,
    ancestors: tuple[str, ...],
    directive: str,
) -> None:
    """The policy of the page names them, and the other headers stay."""
    server = {"frame_ancestors": ancestors}
    service = await serve(settings, aiohttp_client, read_dashboard(folder), server)
    policy = (await service.get(PAGE_PATH)).headers["Content-Security-Policy"]

    assert policy.split("; ")[-1] == f"frame-ancestors {directive}"
    assert (
        "frame-ancestors 'none'"
        in (await service.get("/docs")).headers["Content-Security-Policy"]
    )


@pytest.mark.parametrize(
    "ancestor",
    ["*", "'self'", "intranet.example.com", "https://a.test/", "https://a.test; x"],
)
def test_an_invalid_ancestor_prevents_the_start(
    settings: MakeSettings, ancestor: str
) -> None:
    """Only origins and `self` are accepted, so nothing else enters the policy."""
    with pytest.raises(SettingsError, match="frame_ancestors"):
        settings(server={"frame_ancestors": (ancestor,)})


@pytest.mark.parametrize(
    "target, location",
    [
        ("/dashboard", "/dashboard/"),
        ("/dashboard?sort=a:b&x=%0d%0aY:z", "/dashboard/?sort=a:b&x=%0D%0AY:z"),
        ("/dashboard?//elsewhere.test", "/dashboard/?//elsewhere.test"),
    ],
)
async def test_path_without_its_slash_leads_to_the_page(
    service: Client, target: str, location: str
) -> None:
    """The query goes with it, and no browser keeps the redirect."""
    status, head, _ = await ask_raw(service, target.encode())

    lines = head.decode().split("\r\n")
    assert status == 308
    assert f"Location: {location}" in lines
    assert "Cache-Control: no-cache" in lines
    assert not [line for line in lines if line.startswith("Y:")]


# --- its files ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, content_type, cache_control, body",
    [
        (SCRIPT_PATH, "text/javascript; charset=utf-8", CACHED_FOR_EVER, SCRIPT),
        (STYLE_PATH, "text/css; charset=utf-8", CACHED_FOR_EVER, STYLE),
        (
            "/dashboard/assets/data-000000.bin",
            "application/octet-stream",
            CACHED_FOR_EVER,
            b"\0",
        ),
        (ICON_PATH, "image/svg+xml", "no-cache", ICON),
    ],
)
async def test_files_have_their_types(
    service: Client, path: str, content_type: str, cache_control: str, body: bytes
) -> None:
    """Assets are cached for ever; browsers must not guess types."""
    answer = await fetch(service, path, "identity")

    assert answer.status == 200
    assert answer.headers["Content-Type"] == content_type
    assert answer.headers["Cache-Control"] == cache_control
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert await answer.read() == body


@pytest.mark.parametrize(
    "accept_encoding, coding",
    [
        ("gzip, deflate, br, zstd", "br"),
        ("br;q=0.5, gzip", "gzip"),
        ("br;q=0, gzip;q=0.1", "gzip"),
        ("*", "br"),
        ("brotli, x-gzip", None),
        ("", None),
        ("identity, br;q=0.9", None),
    ],
)
async def test_coding_follows_accept_encoding(
    service: Client, accept_encoding: str, coding: str | None
) -> None:
    """A compressed variant is sent only to clients that accept it."""
    answer = await fetch(service, SCRIPT_PATH, accept_encoding)

    bodies = {"br": BROTLI, "gzip": GZIP, None: SCRIPT}
    assert answer.headers.get("Content-Encoding") == coding
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert answer.headers["Content-Length"] == str(len(bodies[coding]))
    assert await answer.read() == bodies[coding]


async def test_a_file_without_variants_is_sent_uncompressed(service: Client) -> None:
    """The build does not compress small files."""
    answer = await fetch(service, STYLE_PATH, "gzip, br")

    assert "Content-Encoding" not in answer.headers
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert await answer.read() == STYLE


@pytest.mark.parametrize("path", [PAGE_PATH, ICON_PATH, SCRIPT_PATH])
async def test_a_matching_etag_gets_304(service: Client, path: str) -> None:
    """The tag gets 304 with the same headers; another tag gets the file."""
    first = await fetch(service, path, "br")
    tag = first.headers["ETag"]
    ask = {"Accept-Encoding": "br", "If-None-Match": f'"other", W/{tag}'}
    again = await service.get(path, headers=ask)
    other = await service.get(path, headers={"If-None-Match": '"other"'})

    names = {"Cache-Control", "Content-Security-Policy", "ETag", "Vary"}
    assert (again.status, other.status) == (304, 200)
    assert await again.read() == b""
    assert {name: again.headers.get(name) for name in names} == {
        name: first.headers.get(name) for name in names
    }


async def test_each_coding_has_a_tag_of_its_own(service: Client) -> None:
    """Variants have different ETags."""
    answers = [await fetch(service, SCRIPT_PATH, each) for each in ("br", "gzip", "")]

    assert len({each.headers["ETag"] for each in answers}) == 3


@pytest.mark.parametrize("path", [PAGE_PATH, ICON_PATH, SCRIPT_PATH])
async def test_head_has_the_headers_of_get(service: Client, path: str) -> None:
    """HEAD is answered as GET, without the body."""
    head, get = await service.head(path), await service.get(path)

    own = {"Date": "", "X-Request-ID": ""}
    assert head.status == 200
    assert {**head.headers, **own} == {**get.headers, **own}
    assert await head.read() == b""


# --- unknown files --------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/dashboard/anything",
        "/dashboard/index.html",
        "/dashboard/assets/index-000000.js",
        "/dashboard/assets/index-Bq1x_9.js.br",
        "/dashboard/assets/INDEX-Bq1x_9.js",
        "/dashboard/assets/index-Bq1x_9.js%00",
        "/dashboard/assets%2Findex-Bq1x_9.js",
        "/dashboard/assets/..%2findex.html",
        "/dashboard/..%2Fsecret.js",
        "/dashboard/../secret.js",
        "/dashboard/%2e%2e/secret.js",
        "/dashboard//secret.js",
        "/dashboard/%2Fetc%2Fpasswd",
        "/dashboard/.vite/license.md",
        "/dashboard/%ff",
        "/dashboard/assets/" + "x" * 4_000,
    ],
    ids=lambda path: path[:50],
)
async def test_other_paths_are_not_found(service: Client, path: str) -> None:
    """No path leads out of the folder."""
    status, head, body = await ask_raw(service, path.encode())

    assert status == 404
    assert b"Content-Type: application/problem+json" in head
    assert b"Cache-Control: no-store" in head
    assert b'"code":"not_found"' in body


async def test_file_names_are_no_metric_labels(
    service: Client, log_entries: list[EventDict]
) -> None:
    """Metrics and log have templates of routes only."""
    for path in ("favicon.svg", "nothing", "assets/a.js", "assets/b.js", ""):
        await service.get(f"/dashboard/{path}")
    text = await (await service.get("/metrics")).text()

    counted = {
        sample.labels["http_route"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("http_route", "").startswith("/dashboard")
    }
    logged = {each["http.route"] for each in log_entries if "http.route" in each}
    routes = {"/dashboard/", "/dashboard/{name}", "/dashboard/assets/{name}"}
    declared = {route.path for route in file_routes()}
    assert routes <= counted <= {*routes, *declared}
    assert logged == {*routes, "/metrics"}


# --- without a build ----------------------------------------------------------------


async def test_without_a_build_a_page_explains_how_to_build(bare: Client) -> None:
    """An uncacheable 404 names the command and its requirements."""
    answer = await bare.get(f"{PAGE_PATH}?sort=credits_used:desc")
    text = await answer.text()

    assert answer.status == 404
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "make dashboard" in text
    assert "Node.js" in text
    assert "20.19" in text


async def test_that_page_keeps_its_policy(bare: Client) -> None:
    """It has a style, no script and no picture, and links to paths of the API."""
    answer = await bare.get(PAGE_PATH)
    text = await answer.text()

    style = text.partition("<style>")[2].partition("</style>")[0]
    policy = answer.headers["Content-Security-Policy"].split("; ")
    assert len(style) > 100
    assert policy == [
        "default-src 'none'",
        "img-src data:",
        style_source(style),
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    page = Page(text)
    assert not page.tags().keys() & {"script", "img", "iframe"}
    assert not page.values("style")
    described = await (await bare.get("/openapi.json")).json()
    links = {each for each in page.values("href") if each.startswith("/")}
    assert "/docs" in links
    assert links <= described["paths"].keys()
    assert page.tags()["h1"] == page.tags()["main"] == page.tags()["title"] == 1


@pytest.mark.parametrize("missing", ["index.html", "assets", "."])
def test_an_incomplete_build_is_none(folder: Path, missing: str) -> None:
    """A folder without a page or assets is no build."""
    (folder / missing).rename(folder.parent / "elsewhere")

    assert read_dashboard(folder) == NOT_BUILT


async def test_a_later_build_does_not_change_the_page(
    service: Client, folder: Path
) -> None:
    """Files are read at the start only."""
    (folder / "assets/index-Bq1x_9.js").unlink()
    (folder / "index.html").write_bytes(b"another")

    assert await (await service.get(PAGE_PATH)).read() == PAGE_TEXT
    assert (await service.get(SCRIPT_PATH)).status == 200
