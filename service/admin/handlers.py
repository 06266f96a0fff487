"""Operation by hand of all workers: state, refresh, log level, circuits, schemas."""

import time
from http import HTTPStatus
from typing import Final, TypeVar

import msgspec
import structlog
from aiohttp import web

from service.admin.model import (
    CircuitOrder,
    Circuits,
    CircuitSet,
    LevelOrder,
    Levels,
    LevelSet,
    NamedCircuitOrder,
    Refreshed,
    Refreshes,
    RefreshOrder,
    Schemas,
    SchemasOrder,
    SchemasRead,
    State,
    StateOrder,
    WorkerState,
)
from service.admin.problems import (
    CIRCUIT_NOT_FOUND,
    REFRESH_FAILED,
    SCHEMAS_REFUSED,
)
from service.admin.siblings import SIBLINGS, Siblings
from service.web.auth import KEY
from service.web.bodies import JSON_PROBLEMS, JSON_TYPE, read_json
from service.web.problems import DOMAIN_DISABLED, RequestProblem
from service.web.routes import (
    NO_STORE,
    Endpoints,
    NoParameters,
    RequestBody,
    json_answer,
)

MAX_BODY_BYTES: Final = 1_024
BODY_TIMEOUT_S: Final = 5.0
ANSWER_S: Final = 1.0
"""Time limit of another worker's answer."""
REFRESH_WAIT_S: Final = 25.0
"""Maximum wait for a refresh: less than the usual `server.request_timeout_s`."""
SCHEMAS_S: Final = 10.0
"""Time limit of reading schemas in another worker: thousands take some seconds."""
ALIASES: Final = {"upstream": "copilot"}
"""Other names of circuits than those of the metrics."""

T = TypeVar("T", bound=msgspec.Struct)

log = structlog.get_logger()
endpoints = Endpoints()


@endpoints.get(
    "/admin/state",
    parameters=NoParameters,
    answer=State,
    scope="admin",
)
async def read_state(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Read the state of all workers: period, circuits, lanes, connections, memory.

    A worker that does not answer within a second is listed as unreachable.
    """
    answered = await _siblings(request).order_all(
        StateOrder(), WorkerState, limit_s=ANSWER_S
    )
    return json_answer(State(*answered), NO_STORE)


@endpoints.post(
    "/admin/refresh",
    parameters=NoParameters,
    answer=Refreshes,
    scope="admin",
    other_statuses={
        HTTPStatus.ACCEPTED: "A refresh runs for longer than the request may take."
    },
    problems=(REFRESH_FAILED,),
)
async def refresh_period(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Fetch the period now, in all workers, or once for all that share it by Redis.

    A refresh that runs is joined. A worker whose refresh has failed keeps its period.
    """
    started = time.monotonic()
    answered = await _refresh(_siblings(request))
    outcomes = [each.outcome for each in answered.workers]
    log.info(
        "admin.refresh",
        key_id=request[KEY].id,
        workers=len(outcomes),
        failed=outcomes.count("failed"),
        duration_s=round(time.monotonic() - started, 6),
    )
    if set(outcomes) == {"failed"}:
        errors = {each.error for each in answered.workers}
        reason = (
            f"{', '.join(map(str, sorted(errors, key=str)))}; the log has the cause"
        )
        raise RequestProblem(REFRESH_FAILED._replace(consequence=reason), reason)
    is_running = "running" in outcomes
    status = HTTPStatus.ACCEPTED if is_running else HTTPStatus.OK
    return json_answer(answered, NO_STORE, status=status)


@endpoints.post(
    "/admin/log-level",
    parameters=NoParameters,
    body=RequestBody(
        {JSON_TYPE: LevelOrder},
        "The level, and the seconds after which that of the settings returns.",
        example={"level": "debug", "for_s": 300},
    ),
    answer=Levels,
    scope="admin",
    problems=JSON_PROBLEMS,
)
async def set_log_level(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Change the lowest level that is logged, in all workers.

    Workers that start later have the level of the settings.
    """
    order = await _read(request, LevelOrder)
    answered = await _siblings(request).order_all(order, LevelSet, limit_s=ANSWER_S)
    log.warning(
        "admin.log_level",
        key_id=request[KEY].id,
        new_level=order.level,
        for_s=order.for_s,
    )
    return json_answer(Levels(*answered), NO_STORE)


@endpoints.post(
    "/admin/circuit/{name}",
    parameters=NoParameters,
    body=RequestBody(
        {JSON_TYPE: CircuitOrder},
        "The state to keep; `auto` gives the circuit back to its own judgement.",
        example={"state": "open"},
    ),
    answer=Circuits,
    scope="admin",
    problems=(*JSON_PROBLEMS, CIRCUIT_NOT_FOUND),
)
async def set_circuit(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Keep a circuit open or closed, in all workers: copilot, vpic or database.

    An open one refuses at once, a closed one permits every call. Workers that start
    later judge by themselves.
    """
    given = request.match_info["name"]
    name = ALIASES.get(given, given)
    siblings = _siblings(request)
    siblings.worker.find_circuit(name)  # before the body is judged
    order = await _read(request, CircuitOrder)
    answered = await siblings.order_all(
        NamedCircuitOrder(name, order), CircuitSet, limit_s=ANSWER_S
    )
    log.warning(
        "admin.circuit", key_id=request[KEY].id, circuit=name, state=order.state
    )
    return json_answer(Circuits(*answered), NO_STORE)


@endpoints.post(
    "/admin/schemas/reload",
    parameters=NoParameters,
    answer=Schemas,
    scope="admin",
    problems=(DOMAIN_DISABLED, SCHEMAS_REFUSED),
)
async def reload_schemas(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Read the schemas of event types again, in all workers.

    They are used only if each worker has found all of them valid.
    """
    siblings = _siblings(request)
    checked = await siblings.order_all(SchemasOrder(), SchemasRead, limit_s=SCHEMAS_S)
    revision = _common_revision(checked.answers)
    order = SchemasOrder(use=revision)
    used = await siblings.order_all(order, SchemasRead, limit_s=SCHEMAS_S)
    log.warning(
        "admin.schemas_reload",
        key_id=request[KEY].id,
        workers=len(used.answers),
        types=used.answers[0].types,
        schemas_revision=revision,
    )
    return json_answer(Schemas(*used), NO_STORE)


def _common_revision(checked: list[SchemasRead]) -> str:
    """Return the revision that all workers have checked; raises `RequestProblem`."""
    reasons = {each.error for each in checked if each.error is not None}
    if reasons:
        raise RequestProblem(SCHEMAS_REFUSED, "; ".join(sorted(reasons)))
    revisions = {each.revision for each in checked if each.revision is not None}
    if len(revisions) != 1:
        raise RequestProblem(SCHEMAS_REFUSED, "the files have changed meanwhile")
    return revisions.pop()


async def _refresh(siblings: Siblings) -> Refreshes:
    order = RefreshOrder(REFRESH_WAIT_S)
    limit_s = REFRESH_WAIT_S + ANSWER_S
    if not siblings.worker.shares_snapshots:
        return Refreshes(*await siblings.order_all(order, Refreshed, limit_s=limit_s))
    own = await siblings.worker.refresh(order)
    if own.error is not None:
        return Refreshes([own], [])
    # The others adopt what this process has shared.
    adopting = RefreshOrder(REFRESH_WAIT_S - own.duration_s, is_alone=False)
    others = await siblings.order_others(adopting, Refreshed, limit_s=limit_s)
    return Refreshes([own, *others.answers], others.unreachable)


def _siblings(request: web.Request) -> Siblings:
    return request.app[SIBLINGS]


async def _read(request: web.Request, order: type[T]) -> T:
    """Return the order in the body of a request; raises `RequestProblem`."""
    return await read_json(
        request,
        order,
        max_bytes=MAX_BODY_BYTES,
        timeout_s=BODY_TIMEOUT_S,
        is_urgent=True,
    )
