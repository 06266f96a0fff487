"""The endpoints of usage: the period, single messages, sums, and plans."""

import re
from functools import lru_cache, partial
from typing import Annotated, Final

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta, Struct

from service.observability.stages import stage
from service.usage import problems
from service.usage.cache import SnapshotCache
from service.usage.forecast.forecasts import Forecasts
from service.usage.forecast.model import Forecast, NoForecast
from service.usage.model import PlanItem, PlansAnswer, PlanStepItem
from service.usage.parameters import parse_sort, parse_zone
from service.usage.periods import problems as period_problems
from service.usage.periods.errors import PeriodNotKept
from service.usage.periods.handlers import KEPT, LANES, PeriodName
from service.usage.periods.reading.reader import Slots, UsageView
from service.usage.pricing.plans import HUNDREDTHS_PER_CREDIT, PLANS, PlanStep
from service.usage.repeats import RepeatedUsage, RequestKind, UsageRepeats
from service.usage.snapshot import PERIOD_HEADER, REVISION_HEADER
from service.usage.snapshots.answers import (
    DailyUsage,
    Explanation,
    UsageAnswer,
    UsageByReport,
)
from service.usage.snapshots.cursors import MessageCursor, query_digest
from service.usage.snapshots.errors import MessageNotFound
from service.usage.snapshots.formats import FORMATS, JSON
from service.usage.snapshots.selection import (
    EVERYTHING,
    MAX_LIMIT,
    Selection,
)
from service.usage.view import SnapshotView
from service.web.header_values import joined
from service.web.http_cache.encodings import CONTENT_TYPES
from service.web.http_cache.responses import (
    BlockResponse,
    cache_headers,
    send_cached,
)
from service.web.large_answers import answer_buffer
from service.web.links import next_link
from service.web.negotiation import choose
from service.web.parameters import (
    InvalidParameter,
    parse_cursor,
    parse_exact_instant,
)
from service.web.problems import (
    INVALID_PARAMETER,
    NOT_ACCEPTABLE,
    STORAGE_UNAVAILABLE,
)
from service.web.repeats import offer
from service.web.request_context import CACHE_RESULT, LOG_VALUES
from service.web.routes import Endpoints, NoParameters, json_answer

_MESSAGE_ID: Final = re.compile(r"0|-?[1-9][0-9]{0,18}")

SNAPSHOTS: Final = web.AppKey("snapshots", SnapshotCache)
REPEATS: Final = web.AppKey("usage_repeats", UsageRepeats)
FORECASTS: Final = web.AppKey("usage_forecasts", Forecasts)

REFRESH_PROBLEMS: Final = (
    problems.MESSAGES_UNAVAILABLE,
    problems.REPORT_UNAVAILABLE,
    problems.DEADLINE_EXCEEDED,
    problems.PERIOD_LOST,
    problems.UNKNOWN_PLAN,
    period_problems.PERIOD_NOT_KEPT,
    period_problems.TEXTS_NOT_KEPT,
    period_problems.PERIOD_REPLACED,
    period_problems.PERIOD_DAMAGED,
    problems.QUERIES_FULL,
    problems.QUERY_TIMEOUT,
    INVALID_PARAMETER,
)
PAGE_PROBLEMS: Final = (
    NOT_ACCEPTABLE,
    problems.CURSOR_EXPIRED,
    problems.RANGE_NOT_COVERED,
)
ANY_TYPE: Final = frozenset({"", "*/*"})
USAGE_PATHS: Final = ("/usage", "/v1/usage")
PLAN_HEADERS: Final = {
    "Usage-Plan": "The plan, with its version, that priced the messages.",
    "Usage-Degraded": "Messages priced by text because their report was unavailable.",
    REVISION_HEADER: "The id of the snapshot; equal ids have equal figures.",
    PERIOD_HEADER: "The date of the first message in UTC, with an open end; absent "
    "while the period is empty.",
}

PlanName = Annotated[
    str | None,
    Meta(description="The plan to price by, with or without its version."),
]

endpoints = Endpoints()


class PlanParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of every query on a period."""

    plan: PlanName = None
    period: PeriodName = None


class UsageParameters(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of `GET /usage`; without any, the whole period is returned."""

    plan: PlanName = None
    period: PeriodName = None
    since: Annotated[
        str | None, Meta(description="Only messages at or after this time.")
    ] = msgspec.field(name="from", default=None)
    until: Annotated[
        str | None, Meta(description="Only messages before this time.")
    ] = msgspec.field(name="to", default=None)
    sort: Annotated[
        str | None,
        Meta(
            description="Columns to sort by, in order of priority: column:direction;…",
            examples=["credits_used:desc;report_name:asc"],
        ),
    ] = None
    limit: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_LIMIT)] | None,
        Meta(description="Maximum number of messages on a page."),
    ] = None
    cursor: Annotated[
        str | None, Meta(description="The start of the next page, from a Link header.")
    ] = None

    @lru_cache(maxsize=256)  # noqa: B019 - instances are frozen and small
    def selection(self) -> Selection:
        """Return the selected messages; raises `InvalidParameter`."""
        return Selection(
            since=parse_exact_instant("from", self.since),
            until=parse_exact_instant("to", self.until),
            sort=parse_sort(self.sort),
            limit=self.limit,
            cursor=parse_cursor(self.cursor, MessageCursor),
        )


class DailyParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of `GET /usage/daily`."""

    plan: PlanName = None
    period: PeriodName = None
    tz: Annotated[
        str | None, Meta(description="The IANA time zone of the days; UTC by default.")
    ] = None


@endpoints.get(
    *USAGE_PATHS,
    parameters=UsageParameters,
    scope="usage:read",
    answer=UsageAnswer,
    media_types=tuple(FORMATS),
    problems=(*REFRESH_PROBLEMS, *PAGE_PROBLEMS),
    headers={**PLAN_HEADERS, "Link": "The next page, where there is one."},
)
async def read_usage(
    request: web.Request, parameters: UsageParameters
) -> web.StreamResponse:
    """List the usage of the current period, message by message."""
    media_type = _media_type_for(request)
    is_everything = parameters == UsageParameters(
        plan=parameters.plan, period=parameters.period
    )
    selection = EVERYTHING if is_everything else parameters.selection()
    is_query = selection != EVERYTHING or media_type != JSON
    view = await find_view(request, parameters, is_query=is_query)
    request[LOG_VALUES] = view.log_values
    if selection == EVERYTHING:
        with stage("query"):
            answer = await view.answer(media_type)
        response = send_cached(request, answer, view.freshness)
        is_current = isinstance(view, SnapshotView) and answer is view.snapshot.answer
        if is_current and isinstance(response, BlockResponse):
            _offer(request)
        return response
    _check_cursor(view, selection)
    with stage("query"):
        extract = await view.extract(media_type, selection)
    headers = cache_headers(view.headers, view.freshness)
    if extract.next is not None:
        headers |= next_link(request, extract.next)
    request[CACHE_RESULT] = view.freshness.result
    headers["Content-Type"] = CONTENT_TYPES[media_type]
    return answer_buffer(extract.body, headers, owner=extract)


@endpoints.get(
    "/usage/daily",
    parameters=DailyParameters,
    scope="usage:read",
    answer=DailyUsage,
    problems=REFRESH_PROBLEMS,
    headers=PLAN_HEADERS,
)
async def read_daily_usage(
    request: web.Request, parameters: DailyParameters
) -> web.StreamResponse:
    """List the usage of each day from the first to the last."""
    # An invalid zone is refused before the request waits for a refresh.
    parse_zone(parameters.tz)
    view = await find_view(request, parameters)
    with stage("query"):
        body = await view.daily(parameters.tz)
    return _answer(request, view, body)


@endpoints.get(
    "/usage/reports",
    parameters=PlanParameters,
    scope="usage:read",
    answer=UsageByReport,
    problems=REFRESH_PROBLEMS,
    headers=PLAN_HEADERS,
)
async def read_usage_by_report(
    request: web.Request, parameters: PlanParameters
) -> web.StreamResponse:
    """List the usage of each report, and of the messages priced by text."""
    view = await find_view(request, parameters)
    with stage("query"):
        body = await view.by_report()
    return _answer(request, view, body)


# This one and the next are registered before `/usage/{message_id}`, which matches both.
@endpoints.get(
    "/usage/forecast",
    parameters=NoParameters,
    scope="usage:read",
    answer=Forecast | NoForecast,
    problems=(*REFRESH_PROBLEMS, STORAGE_UNAVAILABLE),
    headers=PLAN_HEADERS,
)
async def forecast_usage(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Forecast what the current period will have used at its end, with an 80 % band."""
    view = await _current_view(request, None)
    with stage("query"):
        body = await request.app[FORECASTS].body(view)
    return _answer(request, view, body)


@endpoints.get(
    "/usage/plans",
    parameters=NoParameters,
    scope="usage:read",
    answer=PlansAnswer,
)
async def read_plans(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """List the plans that `plan` may name, the default one first."""
    default = request.app[SNAPSHOTS].default_plan
    others = (plan for plan in PLANS.values() if plan is not default)
    offered = [
        PlanItem(each.id, each is default, [_plan_step(step) for step in each.steps])
        for each in (default, *others)
    ]
    return json_answer(PlansAnswer(offered))


def _plan_step(step: PlanStep) -> PlanStepItem:
    if step.rate is None or step.unit is None:
        return PlanStepItem(step.name)
    return PlanStepItem(step.name, step.rate / HUNDREDTHS_PER_CREDIT, step.unit)


@endpoints.get(
    "/usage/{message_id}",
    parameters=PlanParameters,
    scope="usage:read",
    answer=Explanation,
    problems=(*REFRESH_PROBLEMS, problems.MESSAGE_NOT_FOUND),
    headers=PLAN_HEADERS,
)
async def explain_message(
    request: web.Request, parameters: PlanParameters
) -> web.StreamResponse:
    """Explain the price of one message, step by step."""
    message_id = _message_id(request.match_info["message_id"])
    view = await find_view(request, parameters)
    with stage("query"):
        explained = await view.explain(message_id)
    response = _answer(request, view, explained.body)
    # The refresh that priced the message, and logged its steps, may be an earlier one.
    priced_by = {"refresh_id": explained.refresh_id}
    request[LOG_VALUES] = view.log_values | priced_by
    return response


def answer_from(app: web.Application, snapshots: SnapshotCache) -> None:
    """Have the endpoints answer from this cache."""
    app[SNAPSHOTS] = snapshots
    app[REPEATS] = UsageRepeats(snapshots)


async def find_view(
    request: web.Request,
    parameters: UsageParameters | PlanParameters | DailyParameters,
    *,
    is_query: bool = True,
) -> UsageView:
    """Return what the request answers from; `is_query` if it computes something."""
    app, plan = request.app, parameters.plan
    if parameters.period is None:
        return await _current_view(request, plan, is_query=is_query)
    if KEPT not in app:
        raise PeriodNotKept(parameters.period, ())
    lanes = app[LANES].queries, app[LANES].period_loads
    slots = Slots(*(partial(lane.enter, request) for lane in lanes))
    return await app[KEPT].view(parameters.period, plan, slots)


async def _current_view(
    request: web.Request, plan: str | None, *, is_query: bool = True
) -> SnapshotView:
    slot = partial(request.app[LANES].queries.enter, request)
    return await request.app[SNAPSHOTS].view(plan, slot, is_query=is_query)


def _offer(request: web.Request) -> None:
    """Let the connection repeat the answer to a request for the whole period."""
    headers, resource = request.headers, request.match_info.route.resource
    kind = RequestKind(
        resource.canonical if resource else USAGE_PATHS[0],
        joined(headers, hdrs.ACCEPT_ENCODING),
        joined(headers, hdrs.IF_NONE_MATCH),
    )
    offer(request, RepeatedUsage(request.app[REPEATS], kind))


def _media_type_for(request: web.Request) -> str:
    accept = ",".join(request.headers.getall("Accept", ()))
    return JSON if accept in ANY_TYPE else choose(accept, tuple(FORMATS))


def _answer(request: web.Request, view: UsageView, body: bytes) -> web.Response:
    request[CACHE_RESULT] = view.freshness.result
    request[LOG_VALUES] = view.log_values
    headers = cache_headers(view.headers, view.freshness)
    return web.Response(body=body, content_type=JSON, headers=headers)


def _check_cursor(view: UsageView, selection: Selection) -> None:
    """Raise `InvalidParameter` for a cursor of another plan, order or range."""
    if selection.cursor is None:
        return
    query = query_digest(view.plan.id, selection.sort, selection.since, selection.until)
    if selection.cursor.query != query:
        expected = "expected the plan, sort, from and to of the page before"
        raise InvalidParameter("cursor", expected)


def _message_id(text: str) -> int:
    """Return the id in a path; `MessageNotFound` for any other text."""
    # `007` and `+7` are no ids: JSON writes an integer in one way only.
    if not _MESSAGE_ID.fullmatch(text):
        raise MessageNotFound(text)
    return int(text)
