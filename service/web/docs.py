"""Endpoints of the documentation: the OpenAPI document, and Swagger UI to try it out.

The files of Swagger UI come from the package `flask-swagger-ui`, of which nothing is
imported: only the script and the style are read, for the first request for the page.
Their names contain a hash, so browsers may cache them for ever.
"""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import hdrs, web

from service.web.http_cache.encodings import digest_of
from service.web.openapi_schemas import JsonObject
from service.web.page_files import CACHE_FOR_EVER, REVALIDATE, PageFile, send_file
from service.web.page_headers import NO_SNIFFING, page_headers
from service.web.routes import Endpoints, NoParameters
from service.web.system import NAME

PACKAGE: Final = "flask_swagger_ui"
FILES_PATH: Final = "/docs/files"

PAGE_HEADERS: Final = {
    hdrs.CACHE_CONTROL: REVALIDATE,
    **page_headers(
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
    ),
}
_DOCUMENT_HEADERS: Final = {hdrs.CACHE_CONTROL: REVALIDATE, **NO_SNIFFING}
_FILE_HEADERS: Final = {hdrs.CACHE_CONTROL: CACHE_FOR_EVER, **NO_SNIFFING}
_FOLDER: Final = Path(__file__).parent


class Pages(NamedTuple):
    """The page, and the files that it loads by their names."""

    page: PageFile
    files: Mapping[str, PageFile]


class Documentation:
    """The documentation of the endpoints; each part is made by its first request."""

    def __init__(self, describe: Callable[[], JsonObject]) -> None:
        self._describe = describe
        self._alone = asyncio.Lock()
        self._document: PageFile | None = None
        self._pages: Pages | None = None

    def encode(self) -> bytes:
        """Return the OpenAPI document in JSON, made now."""
        return msgspec.json.encode(self._describe())

    async def document(self) -> PageFile:
        """Return the OpenAPI document in JSON, with its codings."""
        async with self._alone:
            if self._document is None:
                # It takes a tenth of a second.
                self._document = await asyncio.to_thread(self._compress)
        return self._document

    async def pages(self) -> Pages:
        """Return the page and its files."""
        async with self._alone:
            if self._pages is None:
                # To compress the script takes a fifth of a second.
                self._pages = await asyncio.to_thread(_read_pages)
        return self._pages

    def _compress(self) -> PageFile:
        return PageFile.compressed(".json", self.encode())


def _read_pages() -> Pages:
    files, names = {}, {}
    for path in _sources():
        body = path.read_bytes()
        name = f"{path.stem}.{digest_of(body)}{path.suffix}"
        files[name] = PageFile.compressed(path.suffix, body)
        names[re.sub(r"\W", "_", path.name)] = name
    template = Template((_FOLDER / "docs.html").read_text(encoding="utf-8"))
    title = NAME.replace("-", " ").capitalize()
    page = template.substitute(names, title=title).encode()
    return Pages(PageFile.compressed(".html", page), files)


DOCUMENTATION: Final = web.AppKey("documentation", Documentation)

endpoints = Endpoints()


@endpoints.get("/openapi.json", parameters=NoParameters, answer=dict[str, Any])
async def read_openapi(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """The OpenAPI document of the service."""
    document = await request.app[DOCUMENTATION].document()
    return send_file(request, document, _DOCUMENT_HEADERS)


@endpoints.get("/docs", parameters=NoParameters, media_types=("text/html",))
async def read_docs(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """This documentation of the API."""
    page = (await request.app[DOCUMENTATION].pages()).page
    return send_file(request, page, PAGE_HEADERS)


def file_routes() -> list[web.RouteDef]:
    """Return the routes of the page's files, which are no part of the API."""
    return [web.get(f"{FILES_PATH}/{{name}}", _read_file)]


async def _read_file(request: web.Request) -> web.StreamResponse:
    files = (await request.app[DOCUMENTATION].pages()).files
    file = files.get(request.match_info["name"])
    if file is None:
        raise web.HTTPNotFound
    return send_file(request, file, _FILE_HEADERS)


def _sources() -> Iterator[Path]:
    """Yield the files that the page loads."""
    # An import of the package would load Flask.
    found = find_spec(PACKAGE)
    if found is None or found.submodule_search_locations is None:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed")
    (folder,) = found.submodule_search_locations
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"):
        yield Path(folder, "dist", name)
    for name in ("docs.js", "docs.css"):
        yield _FOLDER / name
