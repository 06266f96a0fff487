"""Endpoints of the service itself: index and metrics."""

import asyncio
from importlib.metadata import version
from typing import Final

from aiohttp import hdrs, web
from msgspec import Struct

from service.observability import metrics
from service.web.negotiation import choose
from service.web.routes import Endpoints, NoParameters, json_answer

NAME: Final = "copilot-usage"
VERSION: Final = version(NAME)
PAGE: Final = "/dashboard/"
"""Browsers are redirected to this path."""

GATHER_S: Final = 0.01
"""Time for which scrapes wait for others."""

index_endpoints = Endpoints()
metrics_endpoints = Endpoints()
"""Those of every process."""


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
OPTIONAL_LINKS: Final = {
    "periods": "/usage/periods",
    "changes": "/usage/changes",
    "budgets": "/usage/budgets",
    "forecast": "/usage/forecast",
    "events": "/events",
    "vehicles": "/vehicles",
}
"""Links of paths that only exist if the settings enable them."""


@index_endpoints.get("/", parameters=NoParameters, answer=Index)
async def read_index(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Name, version and links. A browser is redirected to the dashboard."""
    accept = ",".join(request.headers.getall("Accept", ()))
    # JSON first: `*/*`, which curl sends, selects it.
    if choose(accept, ("application/json", "text/html")) == "text/html":
        raise web.HTTPSeeOther(PAGE, headers={"Vary": "Accept"})
    served = {each.canonical for each in request.app.router.resources()}
    enabled = {name: path for name, path in OPTIONAL_LINKS.items() if path in served}
    return json_answer(Index(NAME, VERSION, LINKS | enabled), {"Vary": "Accept"})


class Scrapes:
    """Scrapes that arrive together, and get the same metrics.

    They have no limit, and each would block the event loop for milliseconds.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[tuple[bytes, str]]] = {}

    async def expose(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics, as they are soon after this call."""
        # Of few forms, while clients may send any number of different fields.
        form = metrics.content_type_for(accept)
        scrape = self._waiting.get(form)
        if scrape is None:
            loop = asyncio.get_running_loop()
            scrape = self._waiting[form] = loop.create_future()
            loop.call_later(GATHER_S, self._finish, form, accept)
        # A scraper that disconnects must not cancel the others.
        return await asyncio.shield(scrape)

    def _finish(self, form: str, accept: str) -> None:
        scrape = self._waiting.pop(form)
        try:
            scrape.set_result(metrics.expose(accept))
        except Exception as error:  # noqa: BLE001 - the requests raise it
            scrape.set_exception(error)


_scrapes: Final = Scrapes()


@metrics_endpoints.get(
    "/metrics",
    parameters=NoParameters,
    scope="metrics:read",
    media_types=("text/plain", "application/openmetrics-text"),
)
async def read_metrics(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Every metric of the service, summed over all workers.

    The format is Prometheus' text format, or OpenMetrics if `Accept` names it.
    """
    accept = ",".join(request.headers.getall(hdrs.ACCEPT, ()))
    body, content_type = await _scrapes.expose(accept)
    return web.Response(
        body=body,
        headers={
            hdrs.CONTENT_TYPE: content_type,
            hdrs.CACHE_CONTROL: "no-store",
            hdrs.VARY: hdrs.ACCEPT,
        },
    )


endpoints: Final = Endpoints((*index_endpoints, *metrics_endpoints))
