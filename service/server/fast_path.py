"""The fast path: the most frequent requests are answered before routing.

`GET /usage` of a fresh period and `GET /vehicles/lookup` of a VIN in memory are most of
the traffic. Routing and middleware would take most of their time, so they are answered
here, with the same bytes. Every other request takes the ordinary path.
`docs/decisions/fast-path.md` has the measurements.
"""

import math
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

import structlog
from aiohttp import hdrs, web
from multidict import MultiMapping

from service.observability import tracing as telemetry
from service.server.connections import BaseHandler
from service.settings import Scope
from service.usage.cache import SnapshotCache
from service.usage.handlers import SNAPSHOTS, USAGE_PATHS
from service.usage.preparation import CachedSnapshot
from service.usage.snapshots.formats import JSON
from service.vehicles.handlers import LOOKUP_PATH, LOOKUPS, answer_cached
from service.vehicles.lookup import Lookups
from service.vehicles.metrics import vehicle_looked_up
from service.vehicles.model import Entry, Vin
from service.web.auth import AUTHENTICATOR, Authenticator
from service.web.header_values import joined
from service.web.http_cache.encodings import BodyBytes
from service.web.http_cache.responses import (
    BlockResponse,
    block_of,
    keeps_connection,
    prepare_block,
)
from service.web.limits import LIMITS, Limits
from service.web.request_context import (
    ACCESS_LOG,
    REQUEST_ID_HEADER,
    Answered,
    count_answer,
    log_answer,
    request_id_of,
)

PLAIN_ACCEPTS: Final = frozenset({None, "*/*", JSON})
"""Values of `Accept` that select JSON without negotiation."""

MAX_PREPARED: Final = 256
"""Prepared answers of one second, for kinds of requests and for VINs."""


class Route(NamedTuple):
    """The path of an endpoint, and the scope that it needs."""

    path: str
    scope: Scope


USAGE: Final = Route(USAGE_PATHS[0], "usage:read")
LOOKUP: Final = Route(LOOKUP_PATH, "vehicles:read")
LOOKUP_START: Final = LOOKUP_PATH + "?vin="
LOOKUP_CHARS: Final = len(LOOKUP_START) + 17


class FastPathRunner(web.AppRunner):
    """An `AppRunner` with the fast paths of the application, unless traces are on.

    A fast path creates no spans.
    """

    async def _make_server(self) -> Any:
        server = await super()._make_server()
        app = self.app
        if SNAPSHOTS in app and not telemetry.is_on():
            sender = Sender(app[LIMITS], app[AUTHENTICATOR], access_log=app[ACCESS_LOG])
            fast_paths: list[FastPath] = [UsageFastPath(app[SNAPSHOTS], sender)]
            if LOOKUPS in app:
                fast_paths.append(VehicleFastPath(app[LOOKUPS], sender))
            server.request_handler = with_fast_paths(server.request_handler, fast_paths)
        return server


class FastPath(Protocol):
    """Answers some requests without routing."""

    def answer(self, request: web.BaseRequest) -> BlockResponse | None:
        """Return the answer to a GET, or None for the ordinary path."""


def with_fast_paths(handle: BaseHandler, fast_paths: Sequence[FastPath]) -> BaseHandler:
    """Return a handler that calls `handle` if no fast path answers."""

    async def handle_fast(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == hdrs.METH_GET:
            for each in fast_paths:
                response = each.answer(request)
                if response is not None:
                    return response
        return await handle(request)

    return handle_fast


class PreparedAnswer(NamedTuple):
    """The answer to all requests with equal headers within one second."""

    status: int
    head: bytes
    body: BodyBytes
    log_values: Mapping[str, str] = MappingProxyType({})


class Sender:
    """Sends prepared answers like the ordinary path: charged, counted and logged."""

    def __init__(
        self, limits: Limits, auth: Authenticator, *, access_log: bool
    ) -> None:
        self._limits = limits
        self._auth = auth
        self._log = structlog.get_logger().bind() if access_log else None

    def send(
        self,
        request: web.BaseRequest,
        prepared: PreparedAnswer,
        route: Route,
        started: float,
    ) -> BlockResponse | None:
        """Return the response, or None for the ordinary path.

        That path answers clients over their rate, and connections that close
        afterwards. It also answers requests with `If-Match` or a trace context. It
        judges keys that are missing, must be looked for, or have a rate of their own.
        """
        headers = request.headers
        if telemetry.TRACEPARENT in headers or hdrs.IF_MATCH in headers:
            return None
        if not keeps_connection(request):
            return None
        if not self._auth.permits_at_once(request, route.scope):
            return None
        rate_lines = self._limits.charge(request)
        if rate_lines is None:
            return None
        status, head, body, values = prepared
        request_id = request_id_of(request)
        taken_s = time.perf_counter() - started
        answered = Answered(route.path, status, len(body), taken_s, "hit", values)
        count_answer(request, answered)
        if self._log is not None:
            # Binding the id to the context would cost more than passing it.
            log_answer(self._log, request, answered, request_id=request_id)
        lines = f"{REQUEST_ID_HEADER}: {request_id}\r\n{rate_lines}\r\n".encode()
        return BlockResponse(status, head, lines, body, body_size=len(body))


class UsageFastPath:
    """Prepares an answer to `GET /usage` once for all equal requests of one second."""

    # Ages and dates have whole seconds. Until the second is over, or the snapshot is
    # replaced or stale, answers differ only in the request id.

    def __init__(self, snapshots: SnapshotCache, sender: Sender) -> None:
        self._snapshots = snapshots
        self._sender = sender
        self._prepared: dict[tuple[str | None, str | None], PreparedAnswer] = {}
        self._prepared_of: CachedSnapshot | None = None
        self._prepared_until = -math.inf

    def answer(self, request: web.BaseRequest) -> BlockResponse | None:
        """Return the answer to `GET /usage` while the snapshot is fresh."""
        if request.raw_path not in USAGE_PATHS:
            return None
        started, headers = time.perf_counter(), request.headers
        if joined(headers, hdrs.ACCEPT) not in PLAIN_ACCEPTS:
            return None
        prepared = self._find(headers)
        if prepared is None:
            return None
        return self._sender.send(request, prepared, USAGE, started)

    def _find(self, headers: MultiMapping[str]) -> PreparedAnswer | None:
        snapshots = self._snapshots
        if (
            # Prepared answers belong to one snapshot.
            snapshots.current is not self._prepared_of
            or snapshots.clock() >= self._prepared_until
        ):
            self._prepared.clear()
        key = (
            joined(headers, hdrs.ACCEPT_ENCODING),
            joined(headers, hdrs.IF_NONE_MATCH),
        )
        return self._prepared.get(key) or self._prepare(key)

    def _prepare(self, key: tuple[str | None, str | None]) -> PreparedAnswer | None:
        """Prepare the answer for these headers; None without a fresh answer."""
        cached, fresh = self._snapshots.current, self._snapshots.fresh_answer()
        if cached is None or fresh is None or len(self._prepared) >= MAX_PREPARED:
            return None
        answer, freshness, fresh_until = fresh
        block = prepare_block(answer, freshness, *key)
        if block is None:
            return None
        # Once a second, as answers are prepared, so that each answer costs nothing.
        self._snapshots.note_answer(cached)
        # The cache has a monotonic clock, while `Date` follows the wall clock.
        end_of_second = self._snapshots.clock() + 1 - time.time() % 1
        self._prepared_until = min(end_of_second, fresh_until)
        self._prepared_of = cached
        self._prepared[key] = prepared = PreparedAnswer(
            *block, cached.snapshot.log_values
        )
        return prepared


class VehicleFastPath:
    """Prepares the answer for each VIN in memory once a second."""

    def __init__(self, lookups: Lookups, sender: Sender) -> None:
        self._lookups = lookups
        self._sender = sender
        self._prepared: dict[Vin, tuple[Entry, PreparedAnswer]] = {}
        self._second = 0

    def answer(self, request: web.BaseRequest) -> BlockResponse | None:
        """Return the answer to `GET /vehicles/lookup` for a VIN in memory."""
        path = request.raw_path
        if not path.startswith(LOOKUP_START) or len(path) != LOOKUP_CHARS:
            return None
        started, vin = time.perf_counter(), Vin(path[len(LOOKUP_START) :])
        entry = self._lookups.find_cached(vin)
        if entry is None:
            return None
        response = self._sender.send(request, self._find(vin, entry), LOOKUP, started)
        if response is not None:
            vehicle_looked_up("hit")
        return response

    def _find(self, vin: Vin, entry: Entry) -> PreparedAnswer:
        second = int(time.time())
        # Dropping all entries at once bounds the memory.
        if second != self._second or len(self._prepared) >= MAX_PREPARED:
            self._prepared.clear()
            self._second = second
        known = self._prepared.get(vin)
        if known is not None and known[0] is entry:
            return known[1]
        prepared = PreparedAnswer(*block_of(answer_cached(vin, entry)))
        self._prepared[vin] = entry, prepared
        return prepared
