"""Endpoints of the documentation: the OpenAPI document, and a page made from it.

Both are made for the first request for one of them. The page has no script and loads
nothing, so its Content-Security-Policy permits its own style only.
"""

import asyncio
import html
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import web
from markupsafe import Markup, escape

from service.web.docs_page import JsonObject, Operation, PageView
from service.web.page_headers import page_headers, style_source
from service.web.routes import Endpoints, NoParameters

HOST_PLACEHOLDER: Final = "host.invalid"
"""Replaced by the requested host, in the examples of the page."""

_FOLDER: Final = Path(__file__).parent
_STYLE: Final = (_FOLDER / "docs.css").read_text(encoding="utf-8")

PAGE_HEADERS: Final = page_headers("img-src data:", style_source(_STYLE))


class Rendered(NamedTuple):
    """The OpenAPI document in JSON, and the page made from it."""

    document: bytes
    page: str


class Documentation:
    """The documentation of the endpoints, made once, by the first request for it."""

    def __init__(self, describe: Callable[[], JsonObject]) -> None:
        self._describe = describe
        self._alone = asyncio.Lock()
        self._rendered: Rendered | None = None

    async def rendered(self) -> Rendered:
        """Return the documentation, which one request at a time makes in a thread."""
        async with self._alone:
            if self._rendered is None:
                # It takes a tenth of a second, and loads a template engine.
                self._rendered = await asyncio.to_thread(self.render)
        return self._rendered

    def render(self) -> Rendered:
        """Make the document and its page now."""
        document = self._describe()
        return Rendered(msgspec.json.encode(document), render(document))


DOCUMENTATION: Final = web.AppKey("documentation", Documentation)

endpoints = Endpoints()


@endpoints.get("/openapi.json", parameters=NoParameters, answer=dict[str, Any])
async def read_openapi(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """The OpenAPI document of the service."""
    document = (await request.app[DOCUMENTATION].rendered()).document
    return web.Response(body=document, content_type="application/json")


@endpoints.get("/docs", parameters=NoParameters, media_types=("text/html",))
async def read_docs(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """This documentation of the API."""
    page = (await request.app[DOCUMENTATION].rendered()).page
    text = page.replace(HOST_PLACEHOLDER, html.escape(request.host))
    return web.Response(text=text, content_type="text/html", headers=PAGE_HEADERS)


def render(document: JsonObject) -> str:
    """Return the page of an OpenAPI document."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["prose"] = _prose
    view = PageView(document, HOST_PLACEHOLDER)
    return environment.get_template("docs.html").render(
        info=document["info"],
        # If it were escaped, its hash would no longer match.
        style=Markup(_STYLE),  # noqa: S704
        chapters=_chapters(document["tags"], view.operations()),
        shared_parameters=view.shared_parameters(),
        shared_headers=view.shared_headers(),
        problems=document["components"]["examples"],
    )


def _chapters(
    tags: Iterable[JsonObject], operations: Iterable[Operation]
) -> list[tuple[JsonObject, list[Operation]]]:
    """Return the operations of each tag, in the order of the tags."""
    return [
        (tag, [each for each in operations if each.tag == tag["name"]]) for tag in tags
    ]


def _prose(text: str) -> Markup:
    """Return text with `backticks` as code elements."""
    escaped = str(escape(text))
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", escaped))  # noqa: S704
