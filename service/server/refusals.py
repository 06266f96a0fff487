"""Answers that close the connection, to requests that break HTTP."""

import structlog
from aiohttp import HttpVersion11, hdrs, web

from service.observability import http_metrics
from service.web.problems import answer_problem, kind_of
from service.web.request_context import REQUEST_ID_HEADER, request_id_of

log = structlog.get_logger()


def refuse(
    request: web.BaseRequest, error: BaseException, error_type: str
) -> web.Response:
    """Answer a request that breaks HTTP, and log it; the connection closes then."""
    # The status line has our version; for unparseable requests aiohttp takes 1.0.
    request._version = HttpVersion11
    request_id = request_id_of(request)
    response = closing_answer(error, request_id)
    http_metrics.request_refused(request.method, response.status, kind_of(error).code)
    log.info(
        "http.refused",
        request_id=request_id,
        **{"http.response.status_code": response.status, "error.type": error_type},
    )
    return response


def closing_answer(error: BaseException, request_id: str) -> web.Response:
    """Return a problem document that closes the connection."""
    response = answer_problem(error, request_id)
    response.headers[REQUEST_ID_HEADER] = request_id
    response.force_close()
    return response


def as_bytes(response: web.Response) -> bytes:
    """Return a response for a connection that has no complete request."""
    body = response.body if isinstance(response.body, bytes) else b""
    response.headers[hdrs.CONTENT_LENGTH] = str(len(body))
    response.headers[hdrs.CONNECTION] = "close"
    lines = [f"{name}: {value}" for name, value in response.headers.items()]
    head = "\r\n".join([f"HTTP/1.1 {response.status} {response.reason}", *lines])
    return head.encode() + b"\r\n\r\n" + body
