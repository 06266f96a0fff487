"""Health: whether the process answers at all, and whether to send it requests."""

from typing import Final, Literal

from aiohttp import web
from msgspec import Struct

from service.web.problems import NOT_READY, RequestProblem
from service.web.routes import Endpoints, NoParameters, json_answer

NO_STORE: Final = {"Cache-Control": "no-store"}

endpoints = Endpoints()


class Liveness(Struct, frozen=True):
    """The answer of a process that lives."""

    status: Literal["live"] = "live"


class Readiness(Struct, frozen=True):
    """The answer of a process that takes requests."""

    status: Literal["ready"] = "ready"


class Traffic:
    """Whether new requests are welcome: from the start until the process drains."""

    def __init__(self) -> None:
        self.is_draining = False


TRAFFIC: Final = web.AppKey("traffic", Traffic)


@endpoints.get("/health/live", parameters=NoParameters, answer=Liveness)
async def read_liveness(
    _request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Whether the process answers; says nothing of upstream."""
    return json_answer(Liveness(), NO_STORE)


@endpoints.get(
    "/health/ready", parameters=NoParameters, answer=Readiness, problems=(NOT_READY,)
)
async def read_readiness(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Whether to send requests here; not while draining, before the process stops.

    An upstream that fails changes nothing: what is held is served on.
    """
    if request.app[TRAFFIC].is_draining:
        raise RequestProblem(NOT_READY, "draining")
    return json_answer(Readiness(), NO_STORE)
