"""Problem documents (RFC 9457), which answer every error.

Each domain maps its errors to kinds of problems in a module `problems`; the shared
kinds are in this one. An error is looked up by its class, then by its base classes.
Codes are part of the contract.
"""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Final, NamedTuple

import msgspec
from aiohttp import web

from service.storage import errors as storage
from service.web.credentials import redacted
from service.web.page_headers import NO_SNIFFING
from service.web.parameters import InvalidParameter

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:copilot-usage:problem:"
DEFAULT_RETRY_AFTER_S: Final = 2.0
MAX_RETRY_AFTER_S: Final = 3_600.0
"""An hour; the upstream may request any time, even an infinite one."""

TEMPORARY: Final = {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}
"""Statuses whose answers have `Retry-After`."""

HAS_MESSAGE: Final = web.RequestKey("has_message", bool)
"""Key of a request whose problems have a `message`, but for 408."""

_encoder: Final = msgspec.json.Encoder()


class Problem(msgspec.Struct, frozen=True):
    """The body of every error."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    message: (
        Annotated[
            str,
            msgspec.Meta(description="`detail` again, for stock clients of events."),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class ProblemKind(NamedTuple):
    """One entry of the contract: a code, its status and its fixed title."""

    code: str
    status: HTTPStatus
    title: str
    consequence: str = "nothing was charged or lost"
    """The effect of a temporary failure, for its detail."""


Kinds = Mapping[type[BaseException], ProblemKind]
"""The kind of problem of an error, by its class."""


class RequestProblem(Exception):
    """A request is refused; `kind` selects the answer."""

    def __init__(self, kind: ProblemKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


INVALID_PARAMETER: Final = ProblemKind(
    "invalid_parameter", HTTPStatus.BAD_REQUEST, "A parameter is not valid"
)
NOT_FOUND: Final = ProblemKind(
    "not_found", HTTPStatus.NOT_FOUND, "The path does not exist"
)
METHOD_NOT_ALLOWED: Final = ProblemKind(
    "method_not_allowed",
    HTTPStatus.METHOD_NOT_ALLOWED,
    "The path does not support this method",
)
NOT_ACCEPTABLE: Final = ProblemKind(
    "not_acceptable",
    HTTPStatus.NOT_ACCEPTABLE,
    "No accepted type is available",
)
PRECONDITION_FAILED: Final = ProblemKind(
    "precondition_failed",
    HTTPStatus.PRECONDITION_FAILED,
    "The representation is another one",
)
EXPECTATION_FAILED: Final = ProblemKind(
    "expectation_failed",
    HTTPStatus.EXPECTATION_FAILED,
    "The expectation is not supported",
)
HTTP_VERSION_NOT_SUPPORTED: Final = ProblemKind(
    "http_version_not_supported",
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
    "The version of HTTP is not supported",
)
REQUEST_REFUSED: Final = ProblemKind(
    "request_refused", HTTPStatus.BAD_REQUEST, "The request cannot be handled"
)
NOT_JSON: Final = ProblemKind(
    "not_json", HTTPStatus.BAD_REQUEST, "The body is not JSON"
)
BODY_INCOMPLETE: Final = ProblemKind(
    "body_incomplete", HTTPStatus.BAD_REQUEST, "The body is incomplete"
)
BODY_TOO_SLOW: Final = ProblemKind(
    "body_too_slow", HTTPStatus.REQUEST_TIMEOUT, "The body did not arrive in time"
)
BODY_TOO_LARGE: Final = ProblemKind(
    "body_too_large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large"
)
BODIES_FULL: Final = ProblemKind(
    "bodies_full",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Too many bodies are being received",
)
INVALID_BODY: Final = ProblemKind(
    "invalid_body",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "The form of the body is invalid",
)
UNSUPPORTED_MEDIA_TYPE: Final = ProblemKind(
    "unsupported_media_type",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "The type or coding of the body is not supported",
)
UNAUTHORIZED: Final = ProblemKind(
    "unauthorized", HTTPStatus.UNAUTHORIZED, "An API key is required"
)
FORBIDDEN: Final = ProblemKind(
    "forbidden", HTTPStatus.FORBIDDEN, "The API key does not permit this"
)
CROSS_ORIGIN: Final = ProblemKind(
    "cross_origin", HTTPStatus.FORBIDDEN, "A page of another origin sent the request"
)
CSRF_TOKEN_MISSING: Final = ProblemKind(
    "csrf_token_missing",
    HTTPStatus.FORBIDDEN,
    "The request lacks the token of its session",
)
# If the connection is lost during a commit, the events may be stored nevertheless.
STORAGE_UNAVAILABLE: Final = ProblemKind(
    "storage_unavailable",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The database is unavailable",
    consequence="nothing was lost; an event that is sent again is stored once",
)
OVERLOADED: Final = ProblemKind(
    "overloaded", HTTPStatus.SERVICE_UNAVAILABLE, "Too many requests are in flight"
)
REQUEST_TIMEOUT: Final = ProblemKind(
    "request_timeout",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The request was not answered in time",
)
NOT_READY: Final = ProblemKind(
    "not_ready",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The process or the domain is not ready",
)
DOMAIN_DISABLED: Final = ProblemKind(
    "domain_disabled", HTTPStatus.NOT_FOUND, "The domain is not enabled"
)
RATE_LIMITED: Final = ProblemKind(
    "rate_limited", HTTPStatus.TOO_MANY_REQUESTS, "The client exceeds its request rate"
)
INTERNAL_ERROR: Final = ProblemKind(
    "internal_error", HTTPStatus.INTERNAL_SERVER_ERROR, "The service failed"
)

KINDS: Final[Kinds] = {
    InvalidParameter: INVALID_PARAMETER,
    storage.StorageError: STORAGE_UNAVAILABLE,
    web.HTTPNotFound: NOT_FOUND,
    web.HTTPMethodNotAllowed: METHOD_NOT_ALLOWED,
    web.HTTPClientError: REQUEST_REFUSED,
}
"""The kinds that all endpoints share."""

TRY_AGAIN: Final = "; try again after the time in Retry-After"


def kind_of(error: BaseException, kinds: Kinds = KINDS) -> ProblemKind:
    """Return the kind of an error; `INTERNAL_ERROR` if none is declared for it."""
    if isinstance(error, RequestProblem):
        return error.kind
    known = (kinds[each] for each in type(error).__mro__ if each in kinds)
    return next(known, INTERNAL_ERROR)


def answer_problem(
    error: BaseException,
    request_id: str,
    kinds: Kinds = KINDS,
    *,
    has_message: bool = False,
) -> web.Response:
    """Return the answer to an error, with its headers."""
    kind = kind_of(error, kinds)
    detail = _detail(error, kind)
    problem = Problem(
        type=TYPE_PREFIX + kind.code,
        title=kind.title,
        status=_status(error, kind),
        detail=detail,
        code=kind.code,
        request_id=request_id,
        message=detail if has_message and not _is_slow(kind) else msgspec.UNSET,
    )
    return web.Response(
        status=problem.status,
        body=_encoder.encode(_with_members(problem, error)),
        content_type=MEDIA_TYPE,
        headers=_headers(error, kind),
    )


def _with_members(problem: Problem, error: BaseException) -> object:
    """Return the document with further members, which some errors have."""
    members = getattr(error, "members", None)
    return msgspec.to_builtins(problem) | members if members else problem


def _is_slow(kind: ProblemKind) -> bool:
    """Return whether a request was only too slow, and so has to be sent again."""
    return kind.status == HTTPStatus.REQUEST_TIMEOUT


def _status(error: BaseException, kind: ProblemKind) -> int:
    # One kind covers all other statuses of aiohttp, such as 413, 414 and 431.
    if kind is REQUEST_REFUSED and isinstance(error, web.HTTPException):
        return error.status
    return kind.status


def _detail(error: BaseException, kind: ProblemKind) -> str:
    # Texts of the upstream and of internal errors are never sent to clients.
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"allowed: {', '.join(sorted(error.allowed_methods))}"
    if isinstance(error, web.HTTPNotFound):
        return "/docs lists all paths"
    # The text of such an error may have internals, while its reason is standard.
    if isinstance(error, web.HTTPException):
        return error.reason
    if kind is INTERNAL_ERROR:
        return "the log has the error under this request id"
    if kind.status == HTTPStatus.SERVICE_UNAVAILABLE:
        return kind.consequence + TRY_AGAIN
    # A parameter may be a key that was put into a wrong place.
    return redacted(str(error))


def _headers(error: BaseException, kind: ProblemKind) -> dict[str, str]:
    headers = {"Cache-Control": "no-store", **NO_SNIFFING}
    if isinstance(error, web.HTTPMethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    if kind is UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if kind.status in TEMPORARY:
        retry_after_s = getattr(error, "retry_after_s", None)
        wait_s = DEFAULT_RETRY_AFTER_S if retry_after_s is None else retry_after_s
        headers["Retry-After"] = str(max(1, math.ceil(min(wait_s, MAX_RETRY_AFTER_S))))
    return headers
