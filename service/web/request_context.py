"""Context of a request: its id and trace ids in every log line, and its access log.

The outermost middleware sets the request id, answers errors as problems, and logs
`http.request` when the handler has returned.
"""

import itertools
import os
import re
import secrets
import time
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, NamedTuple

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from structlog.typing import FilteringBoundLogger

from service.observability import http_metrics
from service.observability.stages import NO_STAGES, Stages, collect
from service.web.bodies import may_send_body
from service.web.client_stream import (
    CLIENT_DISCONNECTED,
    DISCONNECTED_STATUS,
    READY_AT,
    WAITED_S,
    ClientDisconnected,
    has_disconnected,
)
from service.web.credentials import KEY_PREFIX, redacted
from service.web.http_cache.conditional import handle_if_match
from service.web.large_answers import send_large
from service.web.problems import (
    HAS_MESSAGE,
    INTERNAL_ERROR,
    KINDS,
    Kinds,
    ProblemKind,
    answer_problem,
    kind_of,
)
from service.web.request_tracing import client_trace_ids
from service.web.slow_requests import SlowRequests

REQUEST_ID_HEADER: Final = "X-Request-ID"
REQUEST_ID: Final = web.RequestKey("request_id", str)
CACHE_RESULT: Final = web.RequestKey("cache_result", str)
"""Cache result of the answer, for log and metrics."""
LOG_VALUES: Final = web.RequestKey("log_values", dict[str, str])
"""Further values of the request's log line, set by its handler."""

VALID_REQUEST_ID: Final = rf"(?!.*{KEY_PREFIX})[A-Za-z0-9._~+/=:-]{{1,128}}"
"""A pattern; an id with a key in it would bring the key into the log."""
_VALID_REQUEST_ID: Final = re.compile(VALID_REQUEST_ID)

log = structlog.get_logger()


class RequestIds:
    """Generates request ids: a random part of the process, and a counter."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again with another random part, which a forked process needs."""
        self._process = secrets.token_hex(10)
        self._requests = itertools.count()

    def make(self) -> str:
        """Return a unique id; 32 hexadecimal digits."""
        # Half the time of a format specification.
        return self._process + next(self._requests).to_bytes(6).hex()


# A random id for each request would cost more than the counter.
_new_ids: Final = RequestIds()
os.register_at_fork(after_in_child=_new_ids.reset)
new_request_id: Final = _new_ids.make
"""Return a unique id of a request."""


class Answered(NamedTuple):
    """An answered request, for log and metrics."""

    route: str | None
    status: int
    body_size: int
    duration_s: float
    cache: str | None
    values: Mapping[str, str] = MappingProxyType({})
    """Further values of its log line."""


class Reports:
    """Counts and logs answered requests, whose errors are answered by their `kinds`.

    With `access_log` it logs `http.request` for each request, and with
    `slow_request_s` it logs `http.slow_request` for those that take longer.
    """

    def __init__(
        self, *, access_log: bool, kinds: Kinds = KINDS, slow_request_s: float = 0.0
    ) -> None:
        self.kinds = kinds
        self.has_access_log = access_log
        self._slow = SlowRequests(slow_request_s) if slow_request_s else None

    def collect(self) -> Stages:
        """Collect the stages of the request in this context, if they may be logged."""
        return NO_STAGES if self._slow is None else collect()

    def finish(
        self,
        method: str,
        path: str,
        answered: Answered,
        stages: Stages,
        **context: str,
    ) -> None:
        """Count and log an answered request.

        `context` has values of its log lines that are not bound.
        """
        count_answer(method, answered)
        if self.has_access_log:
            log_answer(log, method, path, answered, **context)
        if self._slow is not None and answered.status != DISCONNECTED_STATUS:
            described = _described(method, answered)
            self._slow.log(answered.duration_s, stages, **described, **context)


REPORTS: Final = web.AppKey("reports", Reports)


def request_context(reports: Reports) -> Middleware:
    """Return the outermost middleware, which answers errors and reports all answers."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        request[REQUEST_ID] = request_id = request_id_of(request)
        stages = reports.collect()
        # aiohttp serves each request in a task, so in a context, of its own.
        structlog.contextvars.bind_contextvars(
            request_id=request_id, **client_trace_ids(request.headers)
        )
        http_metrics.request_started(request.method)
        try:
            response = await _answer(request, handler, reports.kinds)
        except ClientDisconnected:
            finish(request, _disconnected(request, started), stages)
            raise
        finally:
            http_metrics.request_ended(request.method)
        finish(request, _outcome(request, response, started), stages)
        return response

    def finish(request: web.Request, answered: Answered, stages: Stages) -> None:
        reports.finish(request.method, request.path, answered, stages)

    return middleware


def _outcome(
    request: web.Request, response: web.StreamResponse, started: float
) -> Answered:
    # A stream has sent its head already.
    if not response.prepared and has_disconnected(request):
        return _disconnected(request, started)
    return _answered(request, response, started)


async def _answer(
    request: web.Request, handler: Handler, kinds: Kinds
) -> web.StreamResponse:
    """Return the answer; a large one is sent before. Raises `ClientDisconnected`."""
    response = await _handle(request, handler, kinds)
    if response.prepared:
        return response  # a stream, which has sent its head
    response.headers[REQUEST_ID_HEADER] = request[REQUEST_ID]
    if may_send_body(request):
        response.force_close()
    return await send_large(request, response)


async def _handle(
    request: web.Request, handler: Handler, kinds: Kinds
) -> web.StreamResponse:
    """Return the handler's answer, or a problem; raises `ClientDisconnected`."""
    try:
        if hdrs.IF_MATCH in request.headers:
            return await handle_if_match(request, handler)
        return await handler(request)
    except ClientDisconnected:
        raise
    except Exception as error:  # noqa: BLE001 - answered, and logged if unexpected
        request[LOG_VALUES] = refusal_of(error, kind_of(error, kinds))
        has_message = request.get(HAS_MESSAGE, False)
        return answer_error(error, request[REQUEST_ID], kinds, has_message=has_message)


def request_id_of(request: web.BaseRequest) -> str:
    """Return the client's request id, or a new one if it is missing or invalid."""
    requested = request.headers.get(REQUEST_ID_HEADER)
    if requested is not None and _VALID_REQUEST_ID.fullmatch(requested):
        return requested
    return new_request_id()


def count_answer(method: str, answered: Answered) -> None:
    """Count an answered request in the metrics."""
    route, status, _, duration_s, cache, values = answered
    is_failure = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if is_failure and (code := values.get("code")):
        http_metrics.request_failed(method, route, status, duration_s, code)
    else:
        http_metrics.request_answered(method, route, status, duration_s, cache)


def log_answer(
    log: FilteringBoundLogger,
    method: str,
    path: str,
    answered: Answered,
    **context: str,
) -> None:
    """Log an answered request; `context` has values that are not bound."""
    log.info(
        "http.request",
        **{
            "http.request.method": method,
            "http.route": answered.route,
            "url.path": redacted(path),
            "http.response.status_code": answered.status,
            "http.response.body.size": answered.body_size,
            "duration_s": round(answered.duration_s, 6),
            "cache": answered.cache,
            **answered.values,
            **context,
        },
    )


def _described(method: str, answered: Answered) -> dict[str, object]:
    return {
        "http.request.method": method,
        "http.route": answered.route,
        "http.response.status_code": answered.status,
    }


def _answered(
    request: web.Request, response: web.StreamResponse, started: float
) -> Answered:
    return Answered(
        route=_route_of(request),
        status=response.status,
        body_size=response.body_length or response.content_length or 0,
        duration_s=_duration_s(request, started),
        cache=request.get(CACHE_RESULT),
        values=request.get(LOG_VALUES, {}),
    )


def _disconnected(request: web.Request, started: float) -> Answered:
    """Return the outcome of a request whose client has not waited for the answer."""
    return Answered(
        route=_route_of(request),
        status=DISCONNECTED_STATUS,
        body_size=0,
        duration_s=_duration_s(request, started),
        cache=request.get(CACHE_RESULT),
        values=request.get(LOG_VALUES, {}) | {"outcome": CLIENT_DISCONNECTED},
    )


def _route_of(request: web.Request) -> str | None:
    resource = request.match_info.route.resource
    return resource.canonical if resource else None


def _duration_s(request: web.Request, started: float) -> float:
    """Return the time until the answer was ready, without waits that were asked for.

    The time of sending it is not included.
    """
    ready_at: float = request.get(READY_AT, time.perf_counter())
    waited_s: float = request.get(WAITED_S, 0.0)
    return ready_at - started - waited_s


def refusal_of(error: Exception, kind: ProblemKind) -> dict[str, str]:
    """Return the code of a problem, and the reason of a 503, for the log."""
    if isinstance(error, web.HTTPException) and error.status < HTTPStatus.BAD_REQUEST:
        return {}
    if kind.status != HTTPStatus.SERVICE_UNAVAILABLE:
        return {"code": kind.code}
    return {"code": kind.code, "reason": redacted(str(error))}


def answer_error(
    error: Exception,
    request_id: str,
    kinds: Kinds,
    context: Mapping[str, str] = MappingProxyType({}),
    *,
    has_message: bool = False,
) -> web.Response:
    """Return the answer to an error, and log one that is unexpected.

    `context` has values of the log line that are not bound.
    """
    if isinstance(error, web.HTTPException) and error.status < 400:
        # aiohttp raises redirects as exceptions, which must not be returned.
        return web.Response(status=error.status, headers=error.headers)
    if kind_of(error, kinds) is INTERNAL_ERROR:
        log.error("http.error", exc_info=error, **context)
    return answer_problem(error, request_id, kinds, has_message=has_message)
