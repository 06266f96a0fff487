"""Traces of requests: our own spans, or the trace context of a client."""

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from multidict import MultiMapping
from opentelemetry.trace import SpanKind

from service.observability import tracing as telemetry
from service.observability.metrics import METHODS, OTHER
from service.web.client_stream import DISCONNECTED_STATUS, ClientDisconnected
from service.web.credentials import redacted, redacted_query


@web.middleware
async def trace_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Run each request in a span; the outermost middleware where traces are on."""
    attributes = attributes_of(request)
    name = f"{attributes['http.request.method']} {attributes.get('http.route', '')}"
    with telemetry.span(
        name.rstrip(), SpanKind.SERVER, attributes, request.headers
    ) as span:
        try:
            response = await handler(request)
        except ClientDisconnected as error:
            # Raised again outside of the span, which this does not fail.
            telemetry.record(span, {"http.response.status_code": DISCONNECTED_STATUS})
            disconnected = error
        else:
            telemetry.record(span, {"http.response.status_code": response.status})
            if response.status >= web.HTTPInternalServerError.status_code:
                telemetry.record(span, {"error.type": str(response.status)})
            return response
    raise disconnected


def attributes_of(request: web.Request) -> dict[str, str]:
    """Return OpenTelemetry's attributes of HTTP servers, without empty ones."""
    method = request.method if request.method in METHODS else OTHER
    resource = request.match_info.route.resource
    attributes = {
        "http.request.method": method,
        "http.request.method_original": "" if method != OTHER else request.method,
        "http.route": resource.canonical if resource else "",
        "url.scheme": request.scheme,
        "url.path": _path_of(request),
        "url.query": redacted_query(request.query_string),
        "network.protocol.version": f"{request.version.major}.{request.version.minor}",
        "user_agent.original": redacted(request.headers.get(hdrs.USER_AGENT, "")),
    }
    return {name: value for name, value in attributes.items() if value}


def _path_of(request: web.Request) -> str:
    """Return the path as it was sent, but for one with a key in it."""
    # A key may be encoded with percent signs.
    path = redacted(request.path)
    return request.rel_url.raw_path if path == request.path else path


def client_trace_ids(headers: MultiMapping[str]) -> dict[str, str]:
    """Join the client's trace, and return its `trace_id` and `span_id` for the log.

    Empty where traces are on: our own span has bound its ids already.
    """
    if telemetry.TRACEPARENT not in headers or telemetry.is_on():
        return {}
    return telemetry.join_trace(headers)
