"""The span of a request: OpenTelemetry's attributes of HTTP servers."""

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from service import telemetry
from service.metrics import METHODS, OTHER
from service.telemetry import Attributes


@web.middleware
async def trace_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outermost, and only where traces are on: a span around each request."""
    attributes = attributes_of(request)
    name = f"{attributes['http.request.method']} {attributes.get('http.route', '')}"
    with telemetry.span(name.rstrip(), "server", attributes, request.headers) as note:
        response = await handler(request)
        note({"http.response.status_code": response.status})
        if response.status >= web.HTTPInternalServerError.status_code:
            note({"error.type": str(response.status)})
        return response


def attributes_of(request: web.Request) -> Attributes:
    """What is known of a request before it is answered."""
    resource = request.match_info.route.resource
    told = {
        "http.request.method": request.method if request.method in METHODS else OTHER,
        "http.request.method_original": request.method,
        "http.route": resource.canonical if resource else "",
        "url.scheme": request.scheme,
        "url.path": request.rel_url.raw_path,
        "url.query": request.query_string,
        "network.protocol.version": f"{request.version.major}.{request.version.minor}",
        "user_agent.original": request.headers.get(hdrs.USER_AGENT, ""),
    }
    if told["http.request.method"] == told["http.request.method_original"]:
        del told["http.request.method_original"]
    return {name: value for name, value in told.items() if value}
