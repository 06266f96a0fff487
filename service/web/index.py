"""The front door: what this service is and where to go from here."""

from importlib.metadata import version
from typing import Final

from aiohttp import web
from msgspec import Struct

from service.web.negotiation import choose
from service.web.routes import Endpoints, NoParameters, json_answer

NAME: Final = "copilot-usage"
VERSION: Final = version(NAME)
PAGE: Final = "/dashboard/"
"""Where a browser is sent on to."""

endpoints = Endpoints()


class Index(Struct, frozen=True):
    """The service's name and version, and its pages by name."""

    name: str
    version: str
    links: dict[str, str]


LINKS: Final = {
    "dashboard": "/dashboard/",
    "usage": "/usage",
    "daily": "/usage/daily",
    "reports": "/usage/reports",
    "documentation": "/docs",
    "openapi": "/openapi.json",
    "health": "/health/live",
    "metrics": "/metrics",
}


@endpoints.get("/", parameters=NoParameters, answer=Index)
async def read_index(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Name, version and links; a browser is sent on to a page."""
    accept = ",".join(request.headers.getall("Accept", ()))
    if choose(accept, ("application/json", "text/html")) == "text/html":
        raise web.HTTPSeeOther(PAGE, headers={"Vary": "Accept"})
    return json_answer(Index(NAME, VERSION, LINKS), {"Vary": "Accept"})
