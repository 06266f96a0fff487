"""Errors as answers: RFC 9457 problem documents, all of one shape.

The table below is the only place that knows which error becomes which status. An
error is looked up by its class, then by its ancestors; one that is found nowhere is
logged and answered without any of its insides. Codes are part of the contract.
"""

import math
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec
from aiohttp import web

from service.events import errors as events
from service.parameters import InvalidParameter
from service.storage import errors as storage
from service.usage import errors as usage
from service.usage.snapshots import errors as snapshots
from service.vehicles import errors as vehicles

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:copilot-usage:problem:"
DEFAULT_RETRY_AFTER_S: Final = 2.0
MAX_RETRY_AFTER_S: Final = 3_600.0
"""An hour: upstream may ask for any time, even an endless one."""

TEMPORARY: Final = {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}
"""Statuses that say in `Retry-After` when to come back."""

_encoder: Final = msgspec.json.Encoder()


class Problem(msgspec.Struct, frozen=True):
    """The body of every error."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str


class ProblemKind(NamedTuple):
    """One entry of the contract: a code, its status and its fixed title."""

    code: str
    status: HTTPStatus
    title: str


class RequestProblem(Exception):
    """A request that `web` itself refuses; `kind` says how it is answered."""

    def __init__(self, kind: ProblemKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


INVALID_PARAMETER: Final = ProblemKind(
    "invalid_parameter", HTTPStatus.BAD_REQUEST, "A parameter is not valid"
)
UNKNOWN_PLAN: Final = ProblemKind(
    "unknown_plan", HTTPStatus.BAD_REQUEST, "There is no such plan"
)
CURSOR_EXPIRED: Final = ProblemKind(
    "cursor_expired", HTTPStatus.GONE, "The page's start has left the period"
)
MESSAGE_NOT_FOUND: Final = ProblemKind(
    "message_not_found", HTTPStatus.NOT_FOUND, "The period has no such message"
)
NOT_FOUND: Final = ProblemKind(
    "not_found", HTTPStatus.NOT_FOUND, "There is nothing at this path"
)
METHOD_NOT_ALLOWED: Final = ProblemKind(
    "method_not_allowed", HTTPStatus.METHOD_NOT_ALLOWED, "The path has no such method"
)
NOT_ACCEPTABLE: Final = ProblemKind(
    "not_acceptable", HTTPStatus.NOT_ACCEPTABLE, "None of the accepted types is spoken"
)
REQUEST_REFUSED: Final = ProblemKind(
    "request_refused", HTTPStatus.BAD_REQUEST, "The request cannot be handled"
)
NOT_JSON: Final = ProblemKind(
    "not_json", HTTPStatus.BAD_REQUEST, "The body is not JSON"
)
BODY_INCOMPLETE: Final = ProblemKind(
    "body_incomplete", HTTPStatus.BAD_REQUEST, "The body has not come whole"
)
BODY_TOO_SLOW: Final = ProblemKind(
    "body_too_slow", HTTPStatus.REQUEST_TIMEOUT, "The body has not come in time"
)
BODY_TOO_LARGE: Final = ProblemKind(
    "body_too_large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large"
)
TOO_MANY_EVENTS: Final = ProblemKind(
    "too_many_events",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "The body has too many events",
)
INVALID_BODY: Final = ProblemKind(
    "invalid_body", HTTPStatus.UNPROCESSABLE_ENTITY, "The body is not as described"
)
UNSUPPORTED_MEDIA_TYPE: Final = ProblemKind(
    "unsupported_media_type",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "The body is of a type or coding that is not taken",
)
UNAUTHORIZED: Final = ProblemKind(
    "unauthorized", HTTPStatus.UNAUTHORIZED, "A key is needed"
)
FORBIDDEN: Final = ProblemKind(
    "forbidden", HTTPStatus.FORBIDDEN, "The key has no right to this"
)
SESSION_NOT_FOUND: Final = ProblemKind(
    "session_not_found", HTTPStatus.NOT_FOUND, "There are no events of this session"
)
FAILED_EVENT_NOT_FOUND: Final = ProblemKind(
    "failed_event_not_found", HTTPStatus.NOT_FOUND, "There is no such failed event"
)
REPLAY_REFUSED: Final = ProblemKind(
    "replay_refused", HTTPStatus.CONFLICT, "The event fails still"
)
BACKLOG_FULL: Final = ProblemKind(
    "backlog_full", HTTPStatus.SERVICE_UNAVAILABLE, "Too many events wait to be stored"
)
STORAGE_UNAVAILABLE: Final = ProblemKind(
    "storage_unavailable",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The database cannot be used now",
)
INVALID_VIN: Final = ProblemKind(
    "invalid_vin", HTTPStatus.UNPROCESSABLE_ENTITY, "It is no VIN"
)
TOO_MANY_VINS: Final = ProblemKind(
    "too_many_vins", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body has too many VINs"
)
VIN_NOT_DECODED: Final = ProblemKind(
    "vin_not_decoded", HTTPStatus.NOT_FOUND, "No vehicle is known of this VIN"
)
VEHICLE_UNAVAILABLE: Final = ProblemKind(
    "vehicle_unavailable",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The VIN cannot be decoded now",
)
TOO_MANY_EXPORTS: Final = ProblemKind(
    "too_many_exports",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Too many exports are under way",
)
EXPORT_FAILED: Final = ProblemKind(
    "export_failed", HTTPStatus.SERVICE_UNAVAILABLE, "The file cannot be made now"
)
MESSAGES_UNAVAILABLE: Final = ProblemKind(
    "messages_unavailable",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The period's messages cannot be had",
)
REPORT_UNAVAILABLE: Final = ProblemKind(
    "report_unavailable",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "A report that prices messages cannot be had",
)
DEADLINE_EXCEEDED: Final = ProblemKind(
    "deadline_exceeded",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The period could not be computed in time",
)
PERIOD_LOST: Final = ProblemKind(
    "period_lost", HTTPStatus.SERVICE_UNAVAILABLE, "The period has to be computed anew"
)
OVERLOADED: Final = ProblemKind(
    "overloaded", HTTPStatus.SERVICE_UNAVAILABLE, "Too many requests are in flight"
)
NOT_READY: Final = ProblemKind(
    "not_ready", HTTPStatus.SERVICE_UNAVAILABLE, "No new requests are to be sent here"
)
RATE_LIMITED: Final = ProblemKind(
    "rate_limited", HTTPStatus.TOO_MANY_REQUESTS, "The caller asks too often"
)
INTERNAL_ERROR: Final = ProblemKind(
    "internal_error", HTTPStatus.INTERNAL_SERVER_ERROR, "Something of ours went wrong"
)

KINDS: Final[dict[type[BaseException], ProblemKind]] = {
    InvalidParameter: INVALID_PARAMETER,
    usage.UnknownPlan: UNKNOWN_PLAN,
    snapshots.CursorExpired: CURSOR_EXPIRED,
    snapshots.MessageNotFound: MESSAGE_NOT_FOUND,
    snapshots.SnapshotError: PERIOD_LOST,
    usage.MessagesUnavailable: MESSAGES_UNAVAILABLE,
    usage.ReportUnavailable: REPORT_UNAVAILABLE,
    usage.DeadlineExceeded: DEADLINE_EXCEEDED,
    usage.WorkerLost: PERIOD_LOST,
    events.NotJson: NOT_JSON,
    events.TooManyEvents: TOO_MANY_EVENTS,
    events.BacklogFull: BACKLOG_FULL,
    events.SessionNotFound: SESSION_NOT_FOUND,
    events.FailedEventNotFound: FAILED_EVENT_NOT_FOUND,
    events.ReplayRefused: REPLAY_REFUSED,
    vehicles.InvalidVin: INVALID_VIN,
    vehicles.TooManyVins: TOO_MANY_VINS,
    vehicles.VinNotDecoded: VIN_NOT_DECODED,
    vehicles.VehicleUnavailable: VEHICLE_UNAVAILABLE,
    vehicles.TooManyExports: TOO_MANY_EXPORTS,
    vehicles.ExportFailed: EXPORT_FAILED,
    storage.StorageError: STORAGE_UNAVAILABLE,
    web.HTTPNotFound: NOT_FOUND,
    web.HTTPMethodNotAllowed: METHOD_NOT_ALLOWED,
    web.HTTPClientError: REQUEST_REFUSED,
}

UNHARMED: Final = {
    BACKLOG_FULL: "nothing was stored",
    # A connection that is lost while it commits leaves open whether it did.
    STORAGE_UNAVAILABLE: "nothing was lost, and what is sent again is stored once",
    VEHICLE_UNAVAILABLE: "it is not kept here, and vPIC does not tell",
    TOO_MANY_EXPORTS: "each takes a process of its own",
    EXPORT_FAILED: "nothing was changed",
}
"""What a temporary failure has left behind."""
TRY_AGAIN: Final = "; try again after the time in Retry-After"


def kind_of(error: BaseException) -> ProblemKind:
    """The contract's entry for an error; `INTERNAL_ERROR` for one it does not know."""
    if isinstance(error, RequestProblem):
        return error.kind
    known = (KINDS[kind] for kind in type(error).__mro__ if kind in KINDS)
    return next(known, INTERNAL_ERROR)


def answer_problem(error: BaseException, request_id: str) -> web.Response:
    """The answer to an error, headers included."""
    kind = kind_of(error)
    problem = Problem(
        type=TYPE_PREFIX + kind.code,
        title=kind.title,
        status=_status(error, kind),
        detail=_detail(error, kind),
        code=kind.code,
        request_id=request_id,
    )
    return web.Response(
        status=problem.status,
        body=_encoder.encode(problem),
        content_type=MEDIA_TYPE,
        headers=_headers(error, kind),
    )


def _status(error: BaseException, kind: ProblemKind) -> int:
    if kind is REQUEST_REFUSED and isinstance(error, web.HTTPException):
        return error.status
    return kind.status


def _detail(error: BaseException, kind: ProblemKind) -> str:
    """What the caller may know. Upstream's words and our own insides stay here."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"allowed: {', '.join(sorted(error.allowed_methods))}"
    if isinstance(error, web.HTTPException):
        return error.reason
    if kind.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return str(error)
    if kind is INTERNAL_ERROR:
        return "the log tells more under this request id"
    return UNHARMED.get(kind, "nothing was charged or lost") + TRY_AGAIN


def _headers(error: BaseException, kind: ProblemKind) -> dict[str, str]:
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, web.HTTPMethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    if kind is UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if kind.status in TEMPORARY:
        asked_s = getattr(error, "retry_after_s", None)
        wait_s = DEFAULT_RETRY_AFTER_S if asked_s is None else asked_s
        headers["Retry-After"] = str(max(1, math.ceil(min(wait_s, MAX_RETRY_AFTER_S))))
    return headers
