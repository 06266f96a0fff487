"""The front: the commonest request is answered before routing.

`GET /usage` of a fresh period is most of the traffic, and all that its answer takes is
known beforehand. Finding its route and wrapping its handler would cost more than the
rest together, so it is answered here, with the same bytes; whatever is not exactly that
request goes the ordinary way. `docs/decisions/held-answers.md` has the measurements.
"""

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

import structlog
from aiohttp import hdrs, web

from service import telemetry
from service.usage.encodings import Buffer
from service.usage.formats import JSON
from service.usage.handlers import PERIOD, USAGE_PATHS
from service.usage.held import HeldPeriod
from service.usage.period import CurrentPeriod
from service.web.block import BlockResponse
from service.web.context import (
    ACCESS_LOG,
    REQUEST_ID_HEADER,
    TRACEPARENT,
    Answered,
    count_answer,
    note_answer,
    request_id_of,
)
from service.web.held import keeps_connection, prepare_block
from service.web.limits import LIMITS, Limits

ROUTE: Final = USAGE_PATHS[0]
PLAIN_ACCEPTS: Final = frozenset({None, "*/*", JSON})
"""What callers send who want JSON without further thought."""

MOST_PREPARED: Final = 256
"""Kinds of callers remembered within a second."""

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class FrontRunner(web.AppRunner):
    """An `AppRunner` whose server tries the front first, if the app holds a period.

    The front makes no spans: where traces are on, it steps aside.
    """

    async def _make_server(self) -> Any:
        server = await super()._make_server()
        if PERIOD in self.app and not telemetry.is_on():
            app = self.app
            front = Front(app[PERIOD], app[LIMITS], access_log=app[ACCESS_LOG])
            server.request_handler = front.before(server.request_handler)
        return server


class Prepared(NamedTuple):
    """What callers who accept and know the same are sent within one second."""

    status: int
    head: bytes
    body: Buffer


class Front:
    """Answers from what it has prepared for like requests within the same second.

    Ages and dates are told in seconds: until the second is over, or the period is
    replaced or stale, only the request's id differs.
    """

    def __init__(
        self, period: CurrentPeriod, limits: Limits, *, access_log: bool
    ) -> None:
        self._period = period
        self._limits = limits
        self._log = structlog.get_logger().bind() if access_log else None
        self._prepared: dict[tuple[str | None, str | None], Prepared] = {}
        self._prepared_of: HeldPeriod | None = None
        self._prepared_until = -math.inf

    def before(self, handle: Handle) -> Handle:
        """A handler that asks `handle` only what the front cannot answer."""

        async def front(request: web.BaseRequest) -> web.StreamResponse:
            if request.raw_path in USAGE_PATHS and request.method == hdrs.METH_GET:
                response = self.answer(request)
                if response is not None:
                    return response
            return await handle(request)

        return front

    def answer(self, request: web.BaseRequest) -> BlockResponse | None:
        """The answer, or None where the request has to go the ordinary way."""
        started, headers = time.perf_counter(), request.headers
        if headers.get(hdrs.ACCEPT) not in PLAIN_ACCEPTS or TRACEPARENT in headers:
            return None
        prepared = self._find(headers)
        if prepared is None or not keeps_connection(request):
            return None
        rate_lines = self._limits.charge(request)
        if rate_lines is None:
            return None
        status, head, body = prepared
        request_id = request_id_of(request)
        taken_s = time.perf_counter() - started
        answered = Answered(ROUTE, status, len(body), taken_s, "hit")
        count_answer(request, answered)
        if self._log is not None:
            # Given, not bound: binding is for those who log more than this line.
            note_answer(self._log, request, answered, request_id=request_id)
        own = f"{REQUEST_ID_HEADER}: {request_id}\r\n{rate_lines}\r\n".encode()
        return BlockResponse(status, head, own, body, body_size=len(body))

    def _find(self, headers: Mapping[str, str]) -> Prepared | None:
        period = self._period
        if (
            period.held is not self._prepared_of
            or period.clock() >= self._prepared_until
        ):
            self._prepared.clear()
        key = headers.get(hdrs.ACCEPT_ENCODING), headers.get(hdrs.IF_NONE_MATCH)
        return self._prepared.get(key) or self._prepare(key)

    def _prepare(self, key: tuple[str | None, str | None]) -> Prepared | None:
        """Prepare for one kind of caller; None where nothing fresh is ready."""
        fresh = self._period.fresh_answer(JSON)
        if fresh is None or len(self._prepared) >= MOST_PREPARED:
            return None
        answer, freshness, fresh_until = fresh
        block = prepare_block(answer, freshness, *key)
        if block is None:
            return None
        end_of_second = self._period.clock() + 1 - time.time() % 1
        self._prepared_until = min(end_of_second, fresh_until)
        self._prepared_of = self._period.held
        self._prepared[key] = prepared = Prepared(*block)
        return prepared
