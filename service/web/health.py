"""Health: whether the process answers at all."""

from typing import Literal

from aiohttp import web
from msgspec import Struct

from service.web.routes import Endpoints, NoParameters, json_answer

endpoints = Endpoints()


class Liveness(Struct, frozen=True):
    """The answer of a process that lives."""

    status: Literal["live"] = "live"


@endpoints.get("/health/live", parameters=NoParameters, answer=Liveness)
async def read_liveness(
    _request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Whether the process answers; says nothing of upstream."""
    return json_answer(Liveness(), **{"Cache-Control": "no-store"})
