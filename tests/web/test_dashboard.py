"""The dashboard as it is served: the page, its files, and how it is without them."""

import gzip
from pathlib import Path
from typing import Final

import pytest
from aiohttp import ClientResponse
from prometheus_client.parser import text_string_to_metric_families
from pytest_aiohttp.plugin import AiohttpClient
from structlog.typing import EventDict

from service.app import create_app
from service.web.dashboard import DASHBOARD, NOT_BUILT, Dashboard, read_dashboard
from service.web.pages import style_source
from tests.conftest import Client, MakeSettings
from tests.usage.test_handlers import ask_raw
from tests.web.test_documentation import Page

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
KEPT: Final = "public, max-age=31536000, immutable"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the build leaves, and a secret beside it."""
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
    settings: MakeSettings, aiohttp_client: AiohttpClient, dashboard: Dashboard
) -> Client:
    """A client of the application; there is no upstream, as pages need none."""
    app = create_app(settings(upstream={"base_url": "http://127.0.0.1:1"}))
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
        (SCRIPT_PATH, "text/javascript; charset=utf-8", KEPT, SCRIPT),
        (STYLE_PATH, "text/css; charset=utf-8", KEPT, STYLE),
        ("/dashboard/assets/data-000000.bin", "application/octet-stream", KEPT, b"\0"),
        (ICON_PATH, "image/svg+xml", "no-cache", ICON),
    ],
)
async def test_files_have_their_types(
    service: Client, path: str, content_type: str, cache_control: str, body: bytes
) -> None:
    """What has a hash in its name is kept for ever; browsers guess no type."""
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
        ("br;q=0, gzip;q=0", None),
        ("*", "br"),
        ("*;q=0", None),
        ("brotli, x-gzip", None),
        ("zstd", None),
        ("", None),
        ("identity, br;q=0.9", None),
    ],
)
async def test_coding_is_the_caller_s_choice(
    service: Client, accept_encoding: str, coding: str | None
) -> None:
    """What the build has compressed is sent to those who take it, and only to them."""
    answer = await fetch(service, SCRIPT_PATH, accept_encoding)

    bodies = {"br": BROTLI, "gzip": GZIP, None: SCRIPT}
    assert answer.headers.get("Content-Encoding") == coding
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert answer.headers["Content-Length"] == str(len(bodies[coding]))
    assert await answer.read() == bodies[coding]


async def test_what_is_not_compressed_goes_plain(service: Client) -> None:
    """A file that was too small to compress is sent to everyone as it is."""
    answer = await fetch(service, STYLE_PATH, "gzip, br")

    assert "Content-Encoding" not in answer.headers
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert await answer.read() == STYLE


@pytest.mark.parametrize("path", [PAGE_PATH, ICON_PATH, SCRIPT_PATH])
async def test_who_has_it_is_not_sent_it_again(service: Client, path: str) -> None:
    """The tag gets 304 with the same headers; another tag gets the file."""
    first = await fetch(service, path, "br")
    tag = first.headers["ETag"]
    ask = {"Accept-Encoding": "br", "If-None-Match": f'"other", W/{tag}'}
    again = await service.get(path, headers=ask)
    other = await service.get(path, headers={"If-None-Match": '"other"'})

    kept = {"Cache-Control", "Content-Security-Policy", "ETag", "Vary"}
    assert (again.status, other.status) == (304, 200)
    assert await again.read() == b""
    assert {name: again.headers.get(name) for name in kept} == {
        name: first.headers.get(name) for name in kept
    }


async def test_each_coding_has_a_tag_of_its_own(service: Client) -> None:
    """What a cache holds in one coding is not taken for another."""
    answers = [await fetch(service, SCRIPT_PATH, each) for each in ("br", "gzip", "")]

    assert len({each.headers["ETag"] for each in answers}) == 3


@pytest.mark.parametrize("path", [PAGE_PATH, ICON_PATH, SCRIPT_PATH])
async def test_head_tells_only_the_headers(service: Client, path: str) -> None:
    """HEAD is answered as GET, without the body."""
    head, get = await service.head(path), await service.get(path)

    own = {"Date": "", "X-Request-ID": ""}
    assert head.status == 200
    assert {**head.headers, **own} == {**get.headers, **own}
    assert await head.read() == b""


# --- what is not there --------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/dashboard/anything",
        "/dashboard/index.html",
        "/dashboard/assets",
        "/dashboard/assets/",
        "/dashboard/assets/index-000000.js",
        "/dashboard/assets/index-Bq1x_9.js/",
        "/dashboard/assets/index-Bq1x_9.js.br",
        "/dashboard/assets/index-Bq1x_9.js.gz",
        "/dashboard/assets/INDEX-Bq1x_9.js",
        "/dashboard/assets/index-Bq1x_9.js%00",
        "/dashboard/assets/%00",
        "/dashboard/assets%2Findex-Bq1x_9.js",
        "/dashboard/assets%2F..%2Findex.html",
        "/dashboard/assets/..%2findex.html",
        "/dashboard/assets/../index.html",
        "/dashboard/assets/..",
        "/dashboard/..%2Fsecret.js",
        "/dashboard/../secret.js",
        "/dashboard/%2e%2e/secret.js",
        "/dashboard/..%5csecret.js",
        "/dashboard//secret.js",
        "/dashboard/%2Fetc%2Fpasswd",
        "/dashboard/.vite",
        "/dashboard/.vite/license.md",
        "/dashboard/.vite%2Flicense.md",
        "/dashboard/%ff",
        "/dashboard/%zz",
        "/dashboard/assets/" + "x" * 4_000,
    ],
    ids=lambda path: path[:50],
)
async def test_what_is_no_file_of_the_page_is_not_found(
    service: Client, path: str
) -> None:
    """Only a file's own name finds it: no path leads out of the folder or around."""
    status, head, body = await ask_raw(service, path.encode())

    assert status == 404
    assert b"Content-Type: application/problem+json" in head
    assert b"Cache-Control: no-store" in head
    assert b'"code":"not_found"' in body


@pytest.mark.parametrize("path", [PAGE_PATH, "/dashboard", ICON_PATH, SCRIPT_PATH])
async def test_page_is_only_read(service: Client, path: str) -> None:
    """Nothing can be sent to it."""
    answer = await service.post(path, data=b"x")

    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"


async def test_names_are_no_labels(
    service: Client, log_entries: list[EventDict]
) -> None:
    """However many names are asked for, the metrics and the log know three routes."""
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
    assert routes <= counted <= {*routes, "/dashboard"}
    assert logged == {*routes, "/metrics"}


# --- without a build ----------------------------------------------------------------


async def test_without_a_build_a_page_says_how_to(bare: Client) -> None:
    """It is a 404 that no cache keeps, and it names the command and what it needs."""
    answer = await bare.get(f"{PAGE_PATH}?sort=credits_used:desc")
    text = await answer.text()

    assert answer.status == 404
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "make dashboard" in text
    assert "Node.js" in text
    assert "20.19" in text


async def test_that_page_has_no_more_than_its_policy_allows(bare: Client) -> None:
    """Its own style is allowed by its hash; it has no script and no picture."""
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
    assert page.tags()["h1"] == page.tags()["main"] == page.tags()["title"] == 1


async def test_that_page_leads_to_what_there_is(bare: Client) -> None:
    """Every link on this host is one that its API has."""
    text = await (await bare.get(PAGE_PATH)).text()
    paths = [each for each in Page(text).values("href") if each.startswith("/")]
    described = await (await bare.get("/openapi.json")).json()

    assert "/docs" in paths
    assert set(paths) <= described["paths"].keys()


async def test_without_a_build_there_are_no_files(bare: Client) -> None:
    """Nothing is served of what the build would have made."""
    assert (await bare.get(ICON_PATH)).status == 404
    assert (await bare.get(SCRIPT_PATH)).status == 404


@pytest.mark.parametrize("missing", ["index.html", "assets", "."])
def test_half_a_build_is_none(folder: Path, missing: str) -> None:
    """A folder that is just being written does not become half a page."""
    (folder / missing).rename(folder.parent / "elsewhere")

    assert read_dashboard(folder) == NOT_BUILT


async def test_a_build_beside_the_service_does_not_change_the_page(
    service: Client, folder: Path
) -> None:
    """What is served stays one build's until the service starts again."""
    (folder / "assets/index-Bq1x_9.js").unlink()
    (folder / "index.html").write_bytes(b"another")

    assert await (await service.get(PAGE_PATH)).read() == PAGE_TEXT
    assert (await service.get(SCRIPT_PATH)).status == 200
