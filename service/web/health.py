"""Health endpoints: liveness, and readiness of the process or of one domain."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from service.web.problems import (
    DOMAIN_DISABLED,
    INVALID_PARAMETER,
    NOT_READY,
    RequestProblem,
)
from service.web.routes import NO_STORE, Endpoints, NoParameters, json_answer

Domain = Literal["usage", "events", "vehicles"]

endpoints = Endpoints()


class Unready(NamedTuple):
    """The reason why requests cannot be answered now; a fixed text of ours."""

    reason: str
    retry_after_s: float | None = None


Check = Callable[[], Awaitable[Unready | None]]
"""Return why requests cannot be answered, or None; waits half a second at most."""


class NotReady(RequestProblem):
    """The process, or one of its domains, cannot answer requests now."""

    def __init__(self, unready: Unready) -> None:
        kind = NOT_READY._replace(consequence=unready.reason)
        super().__init__(kind, unready.reason)
        self.retry_after_s = unready.retry_after_s


class Traffic:
    """The state of the process towards load balancers."""

    def __init__(self) -> None:
        self.is_draining = False
        self.checks: list[Check] = []
        """Checks of the process as a whole."""
        self.domains: dict[str, Check] = {}
        """A check for each domain that is enabled."""
        self.warm_up: Callable[[], asyncio.Task[None]] | None = None
        """Starts what a new process does before its first request, once."""
        self.count_connections: Callable[[], int] = int
        self.on_stop: list[Callable[[], None]] = []
        """Called when the process begins to end, before it drains."""

    async def check(self, domain: Domain | None) -> None:
        """Raise `NotReady`, and `RequestProblem` for a domain that is disabled."""
        if self.is_draining:
            raise NotReady(Unready("draining"))
        if domain is None:
            checks = self.checks
        elif domain in self.domains:
            checks = [self.domains[domain]]
        else:
            raise RequestProblem(DOMAIN_DISABLED, f"{domain}.enabled is false")
        for each in checks:
            if unready := await each():
                raise NotReady(unready)


TRAFFIC: Final = web.AppKey("traffic", Traffic)


class Liveness(Struct, frozen=True):
    """The answer of a running process."""

    status: Literal["live"] = "live"


class Readiness(Struct, frozen=True):
    """The answer of a process that accepts requests."""

    status: Literal["ready"] = "ready"


class ReadinessParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of `GET /health/ready`."""

    domain: Annotated[
        Domain | None,
        Meta(description="Check whether this domain can answer requests now."),
    ] = msgspec.field(name="for", default=None)


@endpoints.get("/health/live", parameters=NoParameters, answer=Liveness)
async def read_liveness(
    _request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Liveness of the process. The upstream does not change it."""
    return json_answer(Liveness(), NO_STORE)


@endpoints.get(
    "/health/ready",
    parameters=ReadinessParameters,
    answer=Readiness,
    problems=(NOT_READY, DOMAIN_DISABLED, INVALID_PARAMETER),
)
async def read_readiness(
    request: web.Request, parameters: ReadinessParameters
) -> web.StreamResponse:
    """Readiness for new requests, which ends when the process drains or is broken.

    It begins when the first fetch of the period has ended, even if that has failed:
    a failing upstream affects one domain only. `for` checks one domain.
    """
    await request.app[TRAFFIC].check(parameters.domain)
    return json_answer(Readiness(), NO_STORE)
