"""The front: the commonest requests are answered before routing.

`GET /usage` of a fresh period and `GET /vehicles/lookup` of a VIN in memory are most of
the traffic, and all that their answers take is known beforehand. Finding their route
and wrapping their handler would cost more than the rest together, so they are answered
here, with the same bytes; whatever is not exactly such a request goes the ordinary way.
`docs/decisions/fast-path.md` has the measurements.
"""

import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

import structlog
from aiohttp import hdrs, web

from service import metrics, telemetry
from service.usage.cache import Cached, SnapshotCache
from service.usage.handlers import SNAPSHOTS, USAGE_PATHS
from service.usage.snapshots.columns import Buffer
from service.usage.snapshots.formats import JSON
from service.vehicles.handlers import LOOKUP_PATH, LOOKUPS, answer_kept
from service.vehicles.lookup import Lookups
from service.vehicles.model import Entry, Vin
from service.web.context import (
    ACCESS_LOG,
    REQUEST_ID_HEADER,
    TRACEPARENT,
    Answered,
    count_answer,
    note_answer,
    request_id_of,
)
from service.web.held import (
    BlockResponse,
    block_of,
    keeps_connection,
    prepare_block,
)
from service.web.limits import LIMITS, Limits

ROUTE: Final = USAGE_PATHS[0]
PLAIN_ACCEPTS: Final = frozenset({None, "*/*", JSON})
"""What callers send who want JSON without further thought."""

MOST_PREPARED: Final = 256
"""Kinds of callers, and VINs, remembered within a second."""

LOOKUP_START: Final = LOOKUP_PATH + "?vin="
LOOKUP_CHARS: Final = len(LOOKUP_START) + 17

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class FrontRunner(web.AppRunner):
    """An `AppRunner` whose server tries the fronts first, of what the app holds.

    A front makes no spans: where traces are on, it steps aside.
    """

    async def _make_server(self) -> Any:
        server = await super()._make_server()
        app = self.app
        if SNAPSHOTS in app and not telemetry.is_on():
            sender = Sender(app[LIMITS], access_log=app[ACCESS_LOG])
            fronts: list[Front] = [UsageFront(app[SNAPSHOTS], sender)]
            if LOOKUPS in app:
                fronts.append(VehicleFront(app[LOOKUPS], sender))
            server.request_handler = before(server.request_handler, fronts)
        return server


class Front(Protocol):
    """Answers some requests at once."""

    def answer(self, request: web.BaseRequest) -> BlockResponse | None:
        """The answer to a GET, or None where it has to go the ordinary way."""


def before(handle: Handle, fronts: Sequence[Front]) -> Handle:
    """A handler that asks `handle` only what no front can answer."""

    async def front(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == hdrs.METH_GET:
            for each in fronts:
                response = each.answer(request)
                if response is not None:
                    return response
        return await handle(request)

    return front


class Prepared(NamedTuple):
    """What callers who accept and know the same are sent within one second."""

    status: int
    head: bytes
    body: Buffer
    log_values: Mapping[str, str] = MappingProxyType({})


class Sender:
    """Sends what is prepared as the ordinary way would: charged, counted, logged."""

    def __init__(self, limits: Limits, *, access_log: bool) -> None:
        self._limits = limits
        self._log = structlog.get_logger().bind() if access_log else None

    def send(
        self, request: web.BaseRequest, prepared: Prepared, route: str, started: float
    ) -> BlockResponse | None:
        """The response; None for a caller who is to be refused, or about to leave."""
        if TRACEPARENT in request.headers or not keeps_connection(request):
            return None
        rate_lines = self._limits.charge(request)
        if rate_lines is None:
            return None
        status, head, body, values = prepared
        request_id = request_id_of(request)
        taken_s = time.perf_counter() - started
        answered = Answered(route, status, len(body), taken_s, "hit", values)
        count_answer(request, answered)
        if self._log is not None:
            # Given, not bound: binding is for those who log more than this line.
            note_answer(self._log, request, answered, request_id=request_id)
        own = f"{REQUEST_ID_HEADER}: {request_id}\r\n{rate_lines}\r\n".encode()
        return BlockResponse(status, head, own, body, body_size=len(body))


class UsageFront:
    """Answers from what it has prepared for like requests within the same second.

    Ages and dates are told in seconds: until the second is over, or the period is
    replaced or stale, only the request's id differs.
    """

    def __init__(self, snapshots: SnapshotCache, sender: Sender) -> None:
        self._snapshots = snapshots
        self._sender = sender
        self._prepared: dict[tuple[str | None, str | None], Prepared] = {}
        self._prepared_of: Cached | None = None
        self._prepared_until = -math.inf

    def answer(self, request: web.BaseRequest) -> BlockResponse | None:
        """The answer to `GET /usage`, where the period is fresh."""
        if request.raw_path not in USAGE_PATHS:
            return None
        started, headers = time.perf_counter(), request.headers
        if headers.get(hdrs.ACCEPT) not in PLAIN_ACCEPTS:
            return None
        prepared = self._find(headers)
        if prepared is None:
            return None
        return self._sender.send(request, prepared, ROUTE, started)

    def _find(self, headers: Mapping[str, str]) -> Prepared | None:
        snapshots = self._snapshots
        if (
            snapshots.current is not self._prepared_of
            or snapshots.clock() >= self._prepared_until
        ):
            self._prepared.clear()
        key = headers.get(hdrs.ACCEPT_ENCODING), headers.get(hdrs.IF_NONE_MATCH)
        return self._prepared.get(key) or self._prepare(key)

    def _prepare(self, key: tuple[str | None, str | None]) -> Prepared | None:
        """Prepare for one kind of caller; None where nothing fresh is ready."""
        cached, fresh = self._snapshots.current, self._snapshots.fresh_answer()
        if cached is None or fresh is None or len(self._prepared) >= MOST_PREPARED:
            return None
        answer, freshness, fresh_until = fresh
        block = prepare_block(answer, freshness, *key)
        if block is None:
            return None
        end_of_second = self._snapshots.clock() + 1 - time.time() % 1
        self._prepared_until = min(end_of_second, fresh_until)
        self._prepared_of = cached
        self._prepared[key] = prepared = Prepared(*block, cached.snapshot.log_values)
        return prepared


class VehicleFront:
    """Answers VINs that are in memory, from what it has prepared within the second."""

    def __init__(self, lookups: Lookups, sender: Sender) -> None:
        self._lookups = lookups
        self._sender = sender
        self._prepared: dict[Vin, tuple[Entry, Prepared]] = {}
        self._second = 0

    def answer(self, request: web.BaseRequest) -> BlockResponse | None:
        """The answer to `GET /vehicles/lookup`, where the VIN is in memory."""
        path = request.raw_path
        if not path.startswith(LOOKUP_START) or len(path) != LOOKUP_CHARS:
            return None
        started, vin = time.perf_counter(), Vin(path[len(LOOKUP_START) :])
        entry = self._lookups.recall(vin)
        if entry is None:
            return None
        response = self._sender.send(
            request, self._find(vin, entry), LOOKUP_PATH, started
        )
        if response is not None:
            metrics.vehicle_looked_up("hit")
        return response

    def _find(self, vin: Vin, entry: Entry) -> Prepared:
        second = int(time.time())
        if second != self._second or len(self._prepared) >= MOST_PREPARED:
            self._prepared.clear()
            self._second = second
        known = self._prepared.get(vin)
        if known is not None and known[0] is entry:
            return known[1]
        prepared = Prepared(*block_of(answer_kept(vin, entry)))
        self._prepared[vin] = entry, prepared
        return prepared
