"""The port of operators: what it answers, and what the usual port does not then."""

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from service.web.limits import is_exempt

PREFIX: Final = "/admin/"
IS_OPERATORS: Final = web.RequestKey("is_operators", bool)
"""Whether a request has arrived at the port of operators."""

BaseHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def for_operators(handle: BaseHandler) -> BaseHandler:
    """Return a handler of the requests at the port of operators."""

    def handle_marked(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        request[IS_OPERATORS] = True
        return handle(request)

    return handle_marked


@web.middleware
async def separate_ports(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer `/admin` at the port of operators only, and 404 to others there.

    Monitoring gets its answers at both ports.
    """
    is_for_operators = request.path.startswith(PREFIX)
    is_misplaced = is_for_operators != request.get(IS_OPERATORS, False)
    if is_misplaced and not is_exempt(request.path):
        raise web.HTTPNotFound
    return await handler(request)
