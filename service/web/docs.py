"""The documentation as two endpoints: the OpenAPI document, and it as a page.

The page is rendered when the service starts, from the document alone. It has no script
and loads nothing, so its Content-Security-Policy forbids all but its own style.
"""

import html
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import jinja2
from aiohttp import web
from markupsafe import Markup, escape

from service.web.docs_view import Json, Operation, View
from service.web.pages import page_headers, style_source
from service.web.routes import Endpoints, NoParameters

DOCUMENT: Final = web.AppKey("openapi_document", bytes)
PAGE: Final = web.AppKey("openapi_page", str)

HOST_MARK: Final = "host.invalid"
"""Stands in the page's examples for the host that the reader called."""

_FOLDER: Final = Path(__file__).parent
_STYLE: Final = (_FOLDER / "docs.css").read_text(encoding="utf-8")

PAGE_HEADERS: Final = page_headers("img-src data:", style_source(_STYLE))

endpoints = Endpoints()


@endpoints.get("/openapi.json", parameters=NoParameters, answer=dict[str, Any])
async def read_openapi(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """This description of the service, for programs."""
    return web.Response(body=request.app[DOCUMENT], content_type="application/json")


@endpoints.get("/docs", parameters=NoParameters, media_types=("text/html",))
async def read_docs(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """This description of the service, for people."""
    page = request.app[PAGE].replace(HOST_MARK, html.escape(request.host))
    return web.Response(text=page, content_type="text/html", headers=PAGE_HEADERS)


def render(document: Json) -> str:
    """The page of an OpenAPI document as `service.web.openapi` makes it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["prose"] = _prose
    view = View(document, HOST_MARK)
    return environment.get_template("docs.html").render(
        info=document["info"],
        # Escaped, it would no longer match its hash.
        style=Markup(_STYLE),  # noqa: S704
        chapters=_chapters(document["tags"], view.operations()),
        shared_parameters=view.shared_parameters(),
        shared_headers=view.shared_headers(),
        problems=document["components"]["examples"],
    )


def _chapters(
    tags: Iterable[Json], operations: Iterable[Operation]
) -> list[tuple[Json, list[Operation]]]:
    """The operations of each tag, in the tags' order."""
    return [
        (tag, [each for each in operations if each.tag == tag["name"]]) for tag in tags
    ]


def _prose(text: str) -> Markup:
    """Text with its `backticks` as code."""
    escaped = str(escape(text))
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", escaped))  # noqa: S704
