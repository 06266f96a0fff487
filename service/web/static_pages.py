"""The dashboard: the built page and its files, or a page that says how to build it.

All files are read when the service starts: a request cannot name any other file, and
all files belong to one build. Names of assets contain a hash, so browsers may cache
them for ever; they revalidate the page itself.
"""

import hashlib
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

from aiohttp import hdrs, web

from service.web.header_values import joined
from service.web.http_cache.conditional import is_not_modified
from service.web.http_cache.encodings import GZIP, IDENTITY, Coding, Variant
from service.web.negotiation import codings_for
from service.web.page_headers import NO_SNIFFING, page_headers, style_source
from service.web.routes import Endpoints, IgnoredQuery

TAG: Final = "dashboard"
FOLDER: Final = Path(__file__).parent / "static" / "dashboard"
"""Output of the build: index.html, other files, and the folder assets."""

PATH: Final = "/dashboard"
PAGE_PATH: Final = f"{PATH}/"
OTHER_PAGES: Final = ("events", "vehicles")
"""Pages of the same script below `PAGE_PATH`; the script chooses by the path."""

ASSETS: Final = "assets"

BROTLI: Final[Coding] = "br"
CODINGS: Final = (BROTLI, GZIP, IDENTITY)
"""The available codings, best first."""
SUFFIXES: Final = {BROTLI: ".br", GZIP: ".gz", IDENTITY: ""}
"""Suffixes of the files that the build has compressed."""

CONTENT_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
UNKNOWN_TYPE: Final = "application/octet-stream"

REVALIDATE: Final = "no-cache"
CACHE_FOR_EVER: Final = "public, max-age=31536000, immutable"

PAGE_SOURCES: Final = (
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",
    "font-src 'self'",
    "connect-src 'self'",
)
PAGE_HEADERS: Final = web.AppKey("dashboard_headers", Mapping[str, str])
"""Headers of the page, with the origins that may embed it."""

_MISSING: Final = Path(__file__).with_name("dashboard_missing.html").read_text("utf-8")
_MISSING_STYLE: Final = _MISSING.partition("<style>")[2].partition("</style>")[0]
_MISSING_HEADERS: Final = {
    hdrs.CACHE_CONTROL: "no-store",
    **page_headers("img-src data:", style_source(_MISSING_STYLE)),
}

endpoints = Endpoints()


class PageFile(NamedTuple):
    """A file, with its media type and a variant for each available coding."""

    content_type: str
    variants: Mapping[Coding, Variant]

    @classmethod
    def read(cls, path: Path) -> "PageFile":
        """Read a file and its compressed variants."""
        content_type = CONTENT_TYPES.get(path.suffix, UNKNOWN_TYPE)
        by_coding = {
            each: path.with_name(path.name + SUFFIXES[each]) for each in CODINGS
        }
        variants = {
            coding: _variant(coding, file.read_bytes())
            for coding, file in by_coding.items()
            if coding == IDENTITY or file.is_file()
        }
        return cls(content_type, variants)

    def best(self, accept_encoding: str) -> Variant:
        """Return the best available variant for `Accept-Encoding`."""
        codings = codings_for(accept_encoding, CODINGS)
        return next(self.variants[each] for each in codings if each in self.variants)


class Dashboard(NamedTuple):
    """The built page and its files; without a page, nothing is built."""

    page: PageFile | None
    files: Mapping[str, PageFile]
    """Other files in the folder of the page, by name."""
    assets: Mapping[str, PageFile]


NOT_BUILT: Final = Dashboard(None, {}, {})
DASHBOARD: Final = web.AppKey("dashboard", Dashboard)


def read_dashboard(folder: Path = FOLDER) -> Dashboard:
    """Read the output of the build; `NOT_BUILT` if it is missing or incomplete."""
    try:
        files = _read_files(folder)
        assets = _read_files(folder / ASSETS)
    except FileNotFoundError:  # not built, or being built
        return NOT_BUILT
    page = files.pop("index.html", None)
    return NOT_BUILT if page is None else Dashboard(page, files, assets)


@endpoints.get(
    PAGE_PATH,
    parameters=IgnoredQuery,
    media_types=("text/html",),
    other_statuses={
        HTTPStatus.NOT_FOUND: "The page is not built; this one says how to."
    },
)
async def read_dashboard_page(
    request: web.Request, _parameters: IgnoredQuery
) -> web.StreamResponse:
    """The dashboard of the current period."""
    return await _read_page(request)


async def _read_page(request: web.Request) -> web.StreamResponse:
    page = request.app[DASHBOARD].page
    if page is None:
        return web.Response(
            status=HTTPStatus.NOT_FOUND,
            text=_MISSING,
            content_type="text/html",
            headers=_MISSING_HEADERS,
        )
    return _send(request, page, request.app[PAGE_HEADERS])


def add_dashboard(app: web.Application, frame_ancestors: Sequence[str]) -> None:
    """Add the built page, which pages of these origins may show in a frame."""
    headers = page_headers(*PAGE_SOURCES, frame_ancestors=frame_ancestors)
    app[DASHBOARD] = read_dashboard()
    app[PAGE_HEADERS] = {hdrs.CACHE_CONTROL: REVALIDATE, **headers}
    app.add_routes(file_routes())


def file_routes() -> list[web.RouteDef]:
    """Return the routes of the page's files, which are no part of the API."""
    return [
        web.get(PATH, _redirect_to_page),
        *(web.get(f"{PATH}/{name}", _read_page) for name in OTHER_PAGES),
        web.get(f"{PATH}/{{name}}", _read_file),
        web.get(f"{PATH}/{ASSETS}/{{name}}", _read_asset),
    ]


async def _redirect_to_page(request: web.Request) -> web.StreamResponse:
    query = request.rel_url.raw_query_string
    target = f"{PAGE_PATH}?{query}" if query else PAGE_PATH
    # Browsers cache such a redirect for ever, but another service may get this address.
    headers = {hdrs.CACHE_CONTROL: REVALIDATE}
    raise web.HTTPPermanentRedirect(target, headers=headers)


async def _read_file(request: web.Request) -> web.StreamResponse:
    return _send_named(request, request.app[DASHBOARD].files, REVALIDATE)


async def _read_asset(request: web.Request) -> web.StreamResponse:
    return _send_named(request, request.app[DASHBOARD].assets, CACHE_FOR_EVER)


def _send_named(
    request: web.Request, files: Mapping[str, PageFile], cache_control: str
) -> web.Response:
    file = files.get(request.match_info["name"])
    if file is None:
        raise web.HTTPNotFound
    headers = {
        hdrs.CACHE_CONTROL: cache_control,
        **NO_SNIFFING,
    }
    return _send(request, file, headers)


def _send(
    request: web.Request, file: PageFile, headers: Mapping[str, str]
) -> web.Response:
    """Answer with the best variant for the client, or 304 if the client has it."""
    variant = file.best(joined(request.headers, hdrs.ACCEPT_ENCODING) or "")
    sent = {**headers, hdrs.ETAG: variant.etag, hdrs.VARY: hdrs.ACCEPT_ENCODING}
    if is_not_modified(joined(request.headers, hdrs.IF_NONE_MATCH), variant.etag):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=sent)
    sent[hdrs.CONTENT_TYPE] = file.content_type
    if variant.coding != IDENTITY:
        sent[hdrs.CONTENT_ENCODING] = variant.coding
    return web.Response(body=variant.body, headers=sent)


def _read_files(folder: Path) -> dict[str, PageFile]:
    """Read the files of a folder, without their compressed variants."""
    compressed = tuple(filter(None, SUFFIXES.values()))
    return {
        path.name: PageFile.read(path)
        for path in folder.iterdir()
        if path.is_file() and path.suffix not in compressed
    }


def _variant(coding: Coding, body: bytes) -> Variant:
    digest = hashlib.blake2b(body, digest_size=12).hexdigest()
    return Variant(coding, body, f'"{digest}"')
