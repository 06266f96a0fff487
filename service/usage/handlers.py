"""The endpoints of usage: the period, its messages one by one, its sums, the plans."""

import re
from functools import lru_cache
from typing import Annotated, Final

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from service.parameters import encode_cursor, parse_cursor, parse_instant
from service.usage.cache import SnapshotCache
from service.usage.encodings import CONTENT_TYPES, REVISION_HEADER
from service.usage.model import PlanItem, PlansAnswer
from service.usage.parameters import parse_sort, parse_zone
from service.usage.pricing.plans import PLANS
from service.usage.snapshots.answers import (
    DailyUsage,
    Explanation,
    UsageAnswer,
    UsageByReport,
)
from service.usage.snapshots.errors import MessageNotFound
from service.usage.snapshots.formats import FORMATS, JSON
from service.usage.snapshots.selection import (
    EVERYTHING,
    MAX_LIMIT,
    Cursor,
    Selection,
)
from service.usage.view import View
from service.web import problems
from service.web.context import CACHE_RESULT, LOG_VALUES
from service.web.held import held_headers, send_held
from service.web.negotiation import choose
from service.web.routes import Endpoints, NoParameters, json_answer

_MESSAGE_ID: Final = re.compile(r"0|-?[1-9][0-9]{0,18}")

SNAPSHOTS: Final = web.AppKey("snapshots", SnapshotCache)

REFRESH_PROBLEMS: Final = (
    problems.MESSAGES_UNAVAILABLE,
    problems.REPORT_UNAVAILABLE,
    problems.DEADLINE_EXCEEDED,
    problems.PERIOD_LOST,
    problems.UNKNOWN_PLAN,
    problems.INVALID_PARAMETER,
)
ANY_TYPE: Final = frozenset({"", "*/*"})
USAGE_PATHS: Final = ("/usage", "/v1/usage")
PLAN_HEADERS: Final = {
    "Usage-Plan": "The plan, with its version, that priced the messages.",
    "Usage-Degraded": "Messages priced by text because their report was unavailable.",
    REVISION_HEADER: "The snapshot that the answer is of; equal ids, equal figures.",
}

PlanName = Annotated[
    str | None,
    Meta(description="The plan to price by, with or without its version."),
]

endpoints = Endpoints()


class PlanParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of every question about the period."""

    plan: PlanName = None


class UsageParameters(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of `GET /usage`; without any, it answers the whole period."""

    plan: PlanName = None
    since: Annotated[
        str | None, Meta(description="Only messages at or after this moment.")
    ] = msgspec.field(name="from", default=None)
    until: Annotated[
        str | None, Meta(description="Only messages before this moment.")
    ] = msgspec.field(name="to", default=None)
    sort: Annotated[
        str | None,
        Meta(
            description="Columns by importance, stable: column:direction;…",
            examples=["credits_used:desc;report_name:asc"],
        ),
    ] = None
    limit: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_LIMIT)] | None,
        Meta(description="Messages on a page at most."),
    ] = None
    cursor: Annotated[
        str | None, Meta(description="The next page, from a Link header.")
    ] = None

    @lru_cache(maxsize=256)  # noqa: B019 - of values that are frozen and small
    def selection(self) -> Selection:
        """Return the selection that they name; raises `InvalidParameter`."""
        return Selection(
            since=parse_instant("from", self.since),
            until=parse_instant("to", self.until),
            sort=parse_sort(self.sort),
            limit=self.limit,
            cursor=parse_cursor(self.cursor, Cursor),
        )


class DailyParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of `GET /usage/daily`."""

    plan: PlanName = None
    tz: Annotated[
        str | None, Meta(description="The IANA time zone of the days; UTC by default.")
    ] = None


@endpoints.get(
    *USAGE_PATHS,
    parameters=UsageParameters,
    answer=UsageAnswer,
    media_types=tuple(FORMATS),
    problems=(*REFRESH_PROBLEMS, problems.NOT_ACCEPTABLE, problems.CURSOR_EXPIRED),
    headers={**PLAN_HEADERS, "Link": "The next page, where there is one."},
)
async def read_usage(
    request: web.Request, parameters: UsageParameters
) -> web.StreamResponse:
    """What the current period has used, message by message."""
    media_type = _media_type_for(request)
    is_everything = parameters == UsageParameters(plan=parameters.plan)
    selection = EVERYTHING if is_everything else parameters.selection()
    is_query = selection != EVERYTHING or media_type != JSON
    view = await request.app[SNAPSHOTS].view(parameters.plan, is_query=is_query)
    request[LOG_VALUES] = view.snapshot.log_values
    if selection == EVERYTHING:
        return await send_held(request, await view.answer(media_type), view.freshness)
    extract = await view.extract(media_type, selection)
    headers = held_headers(view.headers, view.freshness)
    if extract.next is not None:
        headers["Link"] = _link_to_next(request, extract.next)
    request[CACHE_RESULT] = view.freshness.result
    headers["Content-Type"] = CONTENT_TYPES[media_type]
    return web.Response(body=extract.body, headers=headers)


@endpoints.get(
    "/usage/daily",
    parameters=DailyParameters,
    answer=DailyUsage,
    problems=REFRESH_PROBLEMS,
    headers=PLAN_HEADERS,
)
async def read_daily_usage(
    request: web.Request, parameters: DailyParameters
) -> web.StreamResponse:
    """What each day has used, from the first to the last, days without messages too."""
    parse_zone(parameters.tz)  # refuse it now, and not after a refresh
    view = await request.app[SNAPSHOTS].view(parameters.plan)
    return _answer(request, view, await view.daily(parameters.tz))


@endpoints.get(
    "/usage/reports",
    parameters=PlanParameters,
    answer=UsageByReport,
    problems=REFRESH_PROBLEMS,
    headers=PLAN_HEADERS,
)
async def read_usage_by_report(
    request: web.Request, parameters: PlanParameters
) -> web.StreamResponse:
    """What each report has used, and the messages that were priced by their text."""
    view = await request.app[SNAPSHOTS].view(parameters.plan)
    return _answer(request, view, await view.by_report())


# Before the messages, or it would be one of them.
@endpoints.get("/usage/plans", parameters=NoParameters, answer=PlansAnswer)
async def read_plans(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """The plans that `plan` may name, the default one first."""
    default = request.app[SNAPSHOTS].default_plan
    others = (plan for plan in PLANS.values() if plan is not default)
    offered = [PlanItem(each.id, each is default) for each in (default, *others)]
    return json_answer(PlansAnswer(offered))


@endpoints.get(
    "/usage/{message_id}",
    parameters=PlanParameters,
    answer=Explanation,
    problems=(*REFRESH_PROBLEMS, problems.MESSAGE_NOT_FOUND),
    headers=PLAN_HEADERS,
)
async def explain_message(
    request: web.Request, parameters: PlanParameters
) -> web.StreamResponse:
    """Why one message costs what it costs, step by step."""
    message_id = _message_id(request.match_info["message_id"])
    view = await request.app[SNAPSHOTS].view(parameters.plan)
    explained = await view.explain(message_id)
    response = _answer(request, view, explained.body)
    own = {"refresh_id": explained.refresh_id}
    request[LOG_VALUES] = view.snapshot.log_values | own
    return response


def _media_type_for(request: web.Request) -> str:
    accept = ",".join(request.headers.getall("Accept", ()))
    return JSON if accept in ANY_TYPE else choose(accept, tuple(FORMATS))


def _answer(request: web.Request, view: View, body: bytes) -> web.Response:
    request[CACHE_RESULT] = view.freshness.result
    request[LOG_VALUES] = view.snapshot.log_values
    headers = held_headers(view.headers, view.freshness)
    return web.Response(body=body, content_type=JSON, headers=headers)


def _link_to_next(request: web.Request, cursor: Cursor) -> str:
    target = request.rel_url.update_query(cursor=encode_cursor(cursor))
    return f'<{target}>; rel="next"'


def _message_id(text: str) -> int:
    """The id in a path; what JSON would not write so is an id that no message has."""
    if not _MESSAGE_ID.fullmatch(text):
        raise MessageNotFound(text)
    return int(text)
