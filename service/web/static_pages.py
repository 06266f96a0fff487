"""The dashboard: the built page and its files, or a page that says how to build it.

All files are read when the service starts: a request cannot name any other file, and
all files belong to one build. Names of assets contain a hash, so browsers may cache
them for ever; they revalidate the page itself.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

from aiohttp import hdrs, web

from service.web.page_files import (
    CACHE_FOR_EVER,
    REVALIDATE,
    SUFFIXES,
    PageFile,
    send_file,
)
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
    return send_file(request, page, request.app[PAGE_HEADERS])


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
    return send_file(request, file, headers)


def _read_files(folder: Path) -> dict[str, PageFile]:
    """Read the files of a folder, without their compressed variants."""
    compressed = tuple(filter(None, SUFFIXES.values()))
    return {
        path.name: PageFile.read(path)
        for path in folder.iterdir()
        if path.is_file() and path.suffix not in compressed
    }
