"""Metrics, as Prometheus scrapes them."""

from aiohttp import hdrs, web

from service import metrics
from service.web.routes import Endpoints, NoParameters

endpoints = Endpoints()


@endpoints.get(
    "/metrics",
    parameters=NoParameters,
    media_types=("text/plain", "application/openmetrics-text"),
)
async def read_metrics(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Every metric of the service, of all its workers together.

    Prometheus' text form, or OpenMetrics where `Accept` names it.
    """
    accept = ",".join(request.headers.getall(hdrs.ACCEPT, ()))
    body, content_type = metrics.expose(accept)
    return web.Response(
        body=body,
        headers={
            hdrs.CONTENT_TYPE: content_type,
            hdrs.CACHE_CONTROL: "no-store",
            hdrs.VARY: hdrs.ACCEPT,
        },
    )
