"""The dashboard: the built page and its files, or a page that says how to build it.

All files are read when the service starts, so that a name can only be that of one of
them, and a page is never served with the scripts of another build. Names of assets
carry a hash of their contents: browsers keep them for ever, and ask for the page anew.
"""

import hashlib
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

from aiohttp import hdrs, web

from service.usage.encodings import GZIP, IDENTITY, Coding, Variant
from service.web.held import is_known
from service.web.negotiation import codings_for
from service.web.pages import page_headers, style_source
from service.web.routes import Endpoints, OwnQuery

FOLDER: Final = Path(__file__).parent / "static" / "dashboard"
"""Where the build writes the page: index.html, files beside it, and its assets/."""

PATH: Final = "/dashboard"
PAGE_PATH: Final = f"{PATH}/"
ASSETS: Final = "assets"

BROTLI: Final[Coding] = "br"
CODINGS: Final = (BROTLI, GZIP, IDENTITY)
"""What is offered, best first."""
SUFFIXES: Final = {BROTLI: ".br", GZIP: ".gz", IDENTITY: ""}
"""What the build adds to the name of a file that it has compressed."""

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

ASK_FIRST: Final = "no-cache"
KEEP: Final = "public, max-age=31536000, immutable"

PAGE_HEADERS: Final = {
    hdrs.CACHE_CONTROL: ASK_FIRST,
    **page_headers(
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
    ),
}

_MISSING: Final = Path(__file__).with_name("dashboard_missing.html").read_text("utf-8")
_MISSING_STYLE: Final = _MISSING.partition("<style>")[2].partition("</style>")[0]
_MISSING_HEADERS: Final = {
    hdrs.CACHE_CONTROL: "no-store",
    **page_headers("img-src data:", style_source(_MISSING_STYLE)),
}

endpoints = Endpoints()


class PageFile(NamedTuple):
    """A file as it is sent: its type, and the codings that it is there in."""

    content_type: str
    variants: Mapping[Coding, Variant]

    @classmethod
    def read(cls, path: Path) -> "PageFile":
        """A file and what lies beside it in other codings."""
        content_type = CONTENT_TYPES.get(path.suffix, UNKNOWN_TYPE)
        of_coding = {
            each: path.with_name(path.name + SUFFIXES[each]) for each in CODINGS
        }
        variants = {
            coding: _variant(coding, file.read_bytes())
            for coding, file in of_coding.items()
            if coding == IDENTITY or file.is_file()
        }
        return cls(content_type, variants)

    def best(self, accept_encoding: str) -> Variant:
        """What the caller likes best; there always is the plain file."""
        codings = codings_for(accept_encoding, CODINGS)
        return next(self.variants[each] for each in codings if each in self.variants)


class Dashboard(NamedTuple):
    """What was built; without a page, nothing was."""

    page: PageFile | None
    beside: Mapping[str, PageFile]
    """Files beside the page, by name."""
    assets: Mapping[str, PageFile]


NOT_BUILT: Final = Dashboard(None, {}, {})
DASHBOARD: Final = web.AppKey("dashboard", Dashboard)


def read_dashboard(folder: Path = FOLDER) -> Dashboard:
    """All that the build has written; `NOT_BUILT` where it has not, or is at it."""
    try:
        beside = _read_files(folder)
        assets = _read_files(folder / ASSETS)
    except FileNotFoundError:
        return NOT_BUILT
    page = beside.pop("index.html", None)
    return NOT_BUILT if page is None else Dashboard(page, beside, assets)


@endpoints.get(
    PAGE_PATH,
    parameters=OwnQuery,
    media_types=("text/html",),
    also={HTTPStatus.NOT_FOUND: "The page is not built; this one says how to."},
)
async def read_dashboard_page(
    request: web.Request, _parameters: OwnQuery
) -> web.StreamResponse:
    """What the period has used, for people."""
    page = request.app[DASHBOARD].page
    if page is None:
        return web.Response(
            status=HTTPStatus.NOT_FOUND,
            text=_MISSING,
            content_type="text/html",
            headers=_MISSING_HEADERS,
        )
    return _send(request, page, PAGE_HEADERS)


def file_routes() -> list[web.RouteDef]:
    """What only the page itself asks for, and so is no part of the API."""
    return [
        web.get(PATH, _redirect_to_page),
        web.get(f"{PATH}/{{name}}", _read_file),
        web.get(f"{PATH}/{ASSETS}/{{name}}", _read_asset),
    ]


async def _redirect_to_page(request: web.Request) -> web.StreamResponse:
    query = request.rel_url.raw_query_string
    target = f"{PAGE_PATH}?{query}" if query else PAGE_PATH
    # Browsers would keep it for ever, and another service may come to this address.
    headers = {hdrs.CACHE_CONTROL: ASK_FIRST}
    raise web.HTTPPermanentRedirect(target, headers=headers)


async def _read_file(request: web.Request) -> web.StreamResponse:
    return _send_named(request, request.app[DASHBOARD].beside, ASK_FIRST)


async def _read_asset(request: web.Request) -> web.StreamResponse:
    return _send_named(request, request.app[DASHBOARD].assets, KEEP)


def _send_named(
    request: web.Request, files: Mapping[str, PageFile], cache_control: str
) -> web.Response:
    file = files.get(request.match_info["name"])
    if file is None:
        raise web.HTTPNotFound
    headers = {
        hdrs.CACHE_CONTROL: cache_control,
        "X-Content-Type-Options": "nosniff",
    }
    return _send(request, file, headers)


def _send(
    request: web.Request, file: PageFile, headers: Mapping[str, str]
) -> web.Response:
    """Answer with the best variant for this caller, or 304 if they have it."""
    accepted = ",".join(request.headers.getall(hdrs.ACCEPT_ENCODING, ()))
    variant = file.best(accepted)
    answered = {**headers, hdrs.ETAG: variant.etag, hdrs.VARY: hdrs.ACCEPT_ENCODING}
    if is_known(request.headers.get(hdrs.IF_NONE_MATCH), variant):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=answered)
    answered[hdrs.CONTENT_TYPE] = file.content_type
    if variant.coding != IDENTITY:
        answered[hdrs.CONTENT_ENCODING] = variant.coding
    return web.Response(body=variant.body, headers=answered)


def _read_files(folder: Path) -> dict[str, PageFile]:
    """The files of a folder by name, what is only another's coding left out."""
    compressed = tuple(filter(None, SUFFIXES.values()))
    return {
        path.name: PageFile.read(path)
        for path in folder.iterdir()
        if path.is_file() and path.suffix not in compressed
    }


def _variant(coding: Coding, body: bytes) -> Variant:
    digest = hashlib.blake2b(body, digest_size=12).hexdigest()
    return Variant(coding, body, f'"{digest}"')
