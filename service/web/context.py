"""The context of a request: its id and trace in every log line, and its own line.

One middleware does it all, outermost: it names the request, answers errors as
problems, and logs `http.request` when the handler is done.
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
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from structlog.typing import FilteringBoundLogger

from service import metrics, telemetry
from service.web.problems import INTERNAL_ERROR, answer_problem, kind_of

REQUEST_ID_HEADER: Final = "X-Request-ID"
TRACEPARENT: Final = "traceparent"
REQUEST_ID: Final = web.RequestKey("request_id", str)
ACCESS_LOG: Final = web.AppKey("access_log", bool)
"""Whether answered requests are logged."""
CACHE_RESULT: Final = web.RequestKey("cache_result", str)
"""Where a handler's answer came from, for the log."""
LOG_VALUES: Final = web.RequestKey("log_values", dict[str, str])
"""Further values that a handler adds to the request's line in the log."""

_SANE_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._~+/=:-]{1,128}")
_TRACEPARENT: Final = re.compile(
    r"(?!ff|00-.{53})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?"
)

log = structlog.get_logger()


class NewIds:
    """Ids of the process and a number: unique, and cheaper than random ones."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Be of another process: a fork has its parent's ids else."""
        self._process = secrets.token_hex(10)
        self._requests = itertools.count()

    def make(self) -> str:
        """An id that no other request has."""
        return f"{self._process}{next(self._requests):012x}"


_new_ids: Final = NewIds()
os.register_at_fork(after_in_child=_new_ids.renew)


class Answered(NamedTuple):
    """How a request was answered, for its line in the log."""

    route: str | None
    status: int
    body_size: int
    duration_s: float
    cache: str | None
    values: Mapping[str, str] = MappingProxyType({})
    """What else the log says of it."""


def request_context(*, access_log: bool) -> Middleware:
    """The outermost middleware; `access_log` says whether it writes `http.request`."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        request[REQUEST_ID] = request_id = request_id_of(request)
        # aiohttp serves each request in a task, so in a context, of its own.
        structlog.contextvars.bind_contextvars(
            request_id=request_id, **trace_context_of(request)
        )
        metrics.request_started(request.method)
        try:
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - answered, and logged if unexpected
            response = _answer_error(error, request_id)
            request[LOG_VALUES] = _refusal(error)
        finally:
            metrics.request_ended(request.method)
        if not response.prepared:
            response.headers[REQUEST_ID_HEADER] = request_id
        answered = _answered(request, response, started)
        count_answer(request, answered)
        if access_log:
            note_answer(log, request, answered)
        return response

    return middleware


def request_id_of(request: web.BaseRequest) -> str:
    """The caller's request id where it is sane, else a new one."""
    given = request.headers.get(REQUEST_ID_HEADER)
    if given is not None and _SANE_REQUEST_ID.fullmatch(given):
        return given
    return _new_ids.make()


def trace_context_of(request: web.Request) -> dict[str, str]:
    """`trace_id` and `span_id` of a valid W3C `traceparent`, else nothing.

    Nothing either where traces are on: there our own span has given its ids.
    """
    if telemetry.is_on():
        return {}
    match = _TRACEPARENT.fullmatch(request.headers.get(TRACEPARENT, ""))
    if match is None:
        return {}
    telemetry.carry(request.headers)
    return {"trace_id": match[1], "span_id": match[2]}


def count_answer(request: web.BaseRequest, answered: Answered) -> None:
    """Count an answered request in the metrics."""
    route, status, _, duration_s, cache, _ = answered
    metrics.request_answered(request.method, route, status, duration_s, cache)


def note_answer(
    log: FilteringBoundLogger,
    request: web.BaseRequest,
    answered: Answered,
    **context: str,
) -> None:
    """Write the line of an answered request, with what is not bound to the context."""
    log.info(
        "http.request",
        **{
            "http.request.method": request.method,
            "http.route": answered.route,
            "url.path": request.path,
            "http.response.status_code": answered.status,
            "http.response.body.size": answered.body_size,
            "duration_s": round(answered.duration_s, 6),
            "cache": answered.cache,
            **answered.values,
            **context,
        },
    )


def _answered(
    request: web.Request, response: web.StreamResponse, started: float
) -> Answered:
    resource = request.match_info.route.resource
    return Answered(
        route=resource.canonical if resource else None,
        status=response.status,
        body_size=response.body_length or response.content_length or 0,
        duration_s=time.perf_counter() - started,
        cache=request.get(CACHE_RESULT),
        values=request.get(LOG_VALUES, {}),
    )


def _refusal(error: Exception) -> dict[str, str]:
    """Return why a request was refused: its problem's code, and our own reason."""
    kind = kind_of(error)
    if isinstance(error, web.HTTPException) and error.status < HTTPStatus.BAD_REQUEST:
        return {}
    if kind.status != HTTPStatus.SERVICE_UNAVAILABLE:
        return {"code": kind.code}
    return {"code": kind.code, "reason": str(error)}


def _answer_error(error: Exception, request_id: str) -> web.StreamResponse:
    if isinstance(error, web.HTTPException) and error.status < 400:
        # A redirect: aiohttp raises those too, and wants none of them returned.
        return web.Response(status=error.status, headers=error.headers)
    if kind_of(error) is INTERNAL_ERROR:
        log.error("http.error", exc_info=error)
    return answer_problem(error, request_id)
