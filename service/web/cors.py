"""Cross-origin requests of pages: the headers by which browsers permit them.

Only endpoints that accept public keys have them. `docs/decisions/browsers.md` has the
reasons.
"""

from collections.abc import Collection, Iterable, Mapping
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web

from service.web.credentials import KEY_PARAMETER, PUBLIC_SCOPE
from service.web.cross_origin import is_permitted
from service.web.routes import Endpoint

MAX_AGE_S: Final = 7_200
"""Time for which a browser remembers a preflight; Chromium's maximum."""
EXPOSED: Final = "Retry-After, X-Request-ID, RateLimit, RateLimit-Policy"
"""Headers of an answer that scripts may read."""
VARY_BY_ORIGIN: Final[Mapping[str, str]] = {hdrs.VARY: hdrs.ORIGIN}
"""The header of an answer that may differ for pages."""
METHODS: Final = frozenset({hdrs.METH_POST, hdrs.METH_OPTIONS})


def add_cors(
    app: web.Application, endpoints: Iterable[Endpoint], origins: Collection[str]
) -> None:
    """Let pages of these origins use the endpoints that accept public keys."""
    paths = {
        path for each in endpoints if each.scope == PUBLIC_SCOPE for path in each.paths
    }
    for path in paths:
        app.router.add_options(path, answer_preflight)

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        resource = request.match_info.route.resource
        is_declared = resource is not None and resource.canonical in paths
        if is_declared and request.method in METHODS:
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)
            if is_permitted(request, origins):
                response.headers.update(_headers_for(request))

    app.on_response_prepare.append(add_headers)


async def answer_preflight(_request: web.Request) -> web.Response:
    """Answer a browser that asks whether a page may send a request."""
    return web.Response(status=HTTPStatus.NO_CONTENT)


def _headers_for(request: web.Request) -> dict[str, str]:
    permitted: dict[str, str] = {
        hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: request.headers[hdrs.ORIGIN]
    }
    if request.method != hdrs.METH_OPTIONS:
        return permitted | {hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: EXPOSED}
    permitted[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = hdrs.METH_POST
    permitted[hdrs.ACCESS_CONTROL_MAX_AGE] = str(MAX_AGE_S)
    # No header has a meaning that a page could misuse.
    if requested := request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS):
        permitted[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = requested
    # A beacon always permits cookies, and a browser drops one of JSON without this.
    # The service ignores cookies of such requests, and their answers lack the header.
    if KEY_PARAMETER in request.query:
        permitted[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
    return permitted
