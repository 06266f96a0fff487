"""Endpoints of failed events: list, replay and discard."""

from typing import Any, Final

import msgspec
from aiohttp import web

from service.events import problems
from service.events.failed_events import StepCursor
from service.events.failed_statements import FailedFilter
from service.events.handlers import (
    LINK_HEADER,
    QUERY_PROBLEMS,
    enter_queries,
    link_to,
    requested_by,
    uncached,
)
from service.events.model import (
    DiscardStep,
    EventResult,
    FailedGroups,
    FailedList,
    ReplayStep,
)
from service.events.query_parameters import (
    ApplicationParameters,
    FailedParameters,
    FailedSelection,
    GroupParameters,
)
from service.events.statements import FailedCursor
from service.web.auth import KEY, ApiKey
from service.web.bodies import JSON_PROBLEMS, JSON_TYPE, read_json
from service.web.http_cache.conditional import check_if_match
from service.web.parameters import InvalidParameter, parse_cursor, quoted
from service.web.problems import INVALID_BODY, RequestProblem
from service.web.routes import Endpoints, RequestBody

TAG: Final = "failed events"
MAX_BODY_BYTES: Final = 16 * 1024
BODY_TIMEOUT_S: Final = 5.0
FILTER_BODY: Final = RequestBody(
    {JSON_TYPE: FailedSelection},
    "The parameters, if the query has none.",
    example={"code": "schema", "limit": 1_000},
    is_required=False,
)

endpoints: Final = Endpoints()


@endpoints.get(
    "/events/failed",
    parameters=FailedParameters,
    answer=FailedList,
    headers=LINK_HEADER,
    scope="events:read",
    problems=QUERY_PROBLEMS,
)
async def list_failed_events(
    request: web.Request, parameters: FailedParameters
) -> web.StreamResponse:
    """List failed events, as they were sent, by arrival.

    An event whose id was accepted later is superseded, and not listed by default.
    """
    key, wanted = _authorized(request, parameters)
    cursor = parse_cursor(parameters.cursor, FailedCursor)
    async with enter_queries(request, key) as collector:
        page = await collector.queries.failed(wanted, parameters.limit, cursor)
    return uncached(FailedList(page.items), link_to(request, page.next))


@endpoints.get(
    "/events/failed/groups",
    parameters=GroupParameters,
    answer=FailedGroups,
    scope="events:read",
    problems=QUERY_PROBLEMS,
)
async def group_failed_events(
    request: web.Request, parameters: GroupParameters
) -> web.StreamResponse:
    """Group failed events by error and type, the largest groups first.

    An event with several errors is in a group of each. Superseded events are in none.
    """
    key = request[KEY]
    events = parameters.filter(requested_by(key, parameters.application))
    wanted = FailedFilter(**events._asdict())
    async with enter_queries(request, key) as collector:
        groups = await collector.queries.failed_groups(wanted, parameters.limit)
    return uncached(groups)


@endpoints.post(
    "/events/failed/replay",
    parameters=FailedParameters,
    body=FILTER_BODY,
    answer=ReplayStep,
    scope="events:manage",
    problems=(*QUERY_PROBLEMS, *JSON_PROBLEMS),
)
async def replay_failed_events(
    request: web.Request, parameters: FailedParameters
) -> web.StreamResponse:
    """Validate failed events again, and accept those that are valid now.

    A call takes about a second and replays up to `limit` events. Repeat it with `next`
    as the `cursor` until that is null. Calls at the same time share the work.
    """
    step = await _requested_step(request, parameters)
    async with enter_queries(request, request[KEY]) as collector:
        return uncached(await collector.failed.replay(*step))


@endpoints.post(
    "/events/failed/discard",
    parameters=FailedParameters,
    body=FILTER_BODY,
    answer=DiscardStep,
    scope="events:manage",
    problems=(*QUERY_PROBLEMS, *JSON_PROBLEMS),
)
async def discard_failed_events(
    request: web.Request, parameters: FailedParameters
) -> web.StreamResponse:
    """Delete failed events for ever, those that the parameters select.

    A call takes about a second and deletes up to `limit` events. Repeat it with `next`
    as the `cursor` until that is null.
    """
    step = await _requested_step(request, parameters)
    async with enter_queries(request, request[KEY]) as collector:
        return uncached(await collector.failed.discard(*step))


@endpoints.post(
    "/events/failed/{id}/replay",
    parameters=ApplicationParameters,
    answer=EventResult,
    scope="events:manage",
    problems=(
        *QUERY_PROBLEMS,
        problems.FAILED_EVENT_NOT_FOUND,
        problems.REPLAY_REFUSED,
    ),
)
async def replay_failed_event(
    request: web.Request, parameters: ApplicationParameters
) -> web.StreamResponse:
    """Validate a failed event again, and accept it if it is valid now."""
    key = request[KEY]
    application = requested_by(key, parameters.application)
    failed_id = request.match_info["id"]
    check_if_match(request, None)
    async with enter_queries(request, key) as collector:
        result = await collector.failed.replay_one(application, failed_id)
    return uncached(result)


def _authorized(
    request: web.Request, parameters: FailedParameters
) -> tuple[ApiKey, FailedFilter]:
    key = request[KEY]
    application = requested_by(key, parameters.application)
    return key, parameters.failed_filter(application)


async def _requested_step(
    request: web.Request, parameters: FailedParameters
) -> tuple[FailedFilter, int, StepCursor | None]:
    """Return the filter, the limit and the cursor of a step, from query or body."""
    parameters = await _from_body(request, parameters)
    _, wanted = _authorized(request, parameters)
    cursor = parse_cursor(parameters.cursor, StepCursor)
    check_if_match(request, None)
    return wanted, parameters.limit, cursor


async def _from_body(
    request: web.Request, parameters: FailedParameters
) -> FailedParameters:
    """Return the parameters of the query, or of a JSON body.

    Raises `InvalidParameter` for both, and `RequestProblem`. A body that is ignored
    could discard everything.
    """
    if not request.body_exists:
        return parameters
    if request.query_string:
        name = next(iter(request.query))
        raise InvalidParameter(name, "expected parameters in the body only")
    given = await read_json(
        request,
        dict[str, Any],
        max_bytes=MAX_BODY_BYTES,
        timeout_s=BODY_TIMEOUT_S,
    )
    for name, value in given.items():
        # The cursor of the first step may be null. Other values may be missing by
        # mistake, and would then select everything.
        if value is None and name != "cursor":
            raise RequestProblem(INVALID_BODY, f"{quoted(name)}: expected a value")
    try:
        return msgspec.convert(given, FailedSelection)
    except msgspec.ValidationError as error:
        raise RequestProblem(INVALID_BODY, str(error)) from None
