"""The front: the commonest request is answered before routing.

`GET /usage` of a fresh period is most of the traffic, and all that its answer takes is
known beforehand. Finding its route and wrapping its handler would cost more than the
rest together, so it is answered here, with the same bytes; whatever is not exactly that
request goes the ordinary way. `docs/decisions/held-answers.md` has the measurements.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from aiohttp import hdrs, web

from service.usage.formats import JSON
from service.usage.handlers import PERIOD, USAGE_PATHS
from service.web.block import BlockResponse
from service.web.context import ACCESS_LOG, Answered, note_answer, request_id_of
from service.web.held import as_block

PLAIN_ACCEPTS: Final = frozenset({None, "*/*", JSON})
"""What callers send who want JSON without further thought."""

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class FrontRunner(web.AppRunner):
    """An `AppRunner` whose server tries the front first."""

    async def _make_server(self) -> Any:
        server = await super()._make_server()
        server.request_handler = with_front(self.app, server.request_handler)
        return server


def with_front(app: web.Application, handle: Handle) -> Handle:
    """A handler that asks `handle` only what the front cannot answer."""
    period, access_log = app[PERIOD], app[ACCESS_LOG]

    def answer(request: web.BaseRequest) -> BlockResponse | None:
        started, headers = time.perf_counter(), request.headers
        if headers.get(hdrs.ACCEPT) not in PLAIN_ACCEPTS or "traceparent" in headers:
            return None
        held = period.fresh_answer(JSON)
        if held is None:
            return None
        request_id = request_id_of(request)
        response = as_block(request, *held, request_id)
        if response is not None and access_log:
            structlog.contextvars.bind_contextvars(request_id=request_id)
            note_answer(
                request,
                Answered(
                    USAGE_PATHS[0],
                    response.status,
                    response.body_length,
                    started,
                    held[1].result,
                ),
            )
        return response

    async def front(request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path in USAGE_PATHS and request.method == hdrs.METH_GET:
            response = answer(request)
            if response is not None:
                return response
        return await handle(request)

    return front
