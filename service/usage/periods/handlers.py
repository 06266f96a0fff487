"""The endpoints of kept periods: their list, and what changed in one of them."""

from typing import Annotated, Final, NamedTuple

from aiohttp import web
from msgspec import Meta, Struct

from service.instants import format_instant
from service.usage import problems as usage_problems
from service.usage.lanes import Lanes
from service.usage.periods import problems
from service.usage.periods.change_queries import ChangesPlace
from service.usage.periods.listing import Listing
from service.usage.periods.model import (
    ChangeItem,
    ChangesAnswer,
    PeriodsAnswer,
)
from service.usage.periods.reading.reader import KeptSnapshots
from service.usage.pricing.plans import HUNDREDTHS_PER_CREDIT
from service.web.links import next_link
from service.web.parameters import InvalidParameter, parse_cursor, parse_instant
from service.web.problems import INVALID_PARAMETER, STORAGE_UNAVAILABLE
from service.web.routes import NO_STORE, Endpoints, json_answer

DEFAULT_LIMIT: Final = 100
MAX_PERIODS: Final = 1_000
MAX_CHANGES: Final = 4_096
MAX_ID_CHARS: Final = 40

KEPT: Final = web.AppKey("kept_periods", KeptSnapshots)
LISTING: Final = web.AppKey("period_listing", Listing)
LANES: Final = web.AppKey("usage_lanes", Lanes)

PeriodName = Annotated[
    Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)] | None,
    Meta(description="A kept period, by its id; the current one without it."),
]

endpoints = Endpoints()


class PeriodsCursor(NamedTuple):
    """The place of a page: the number of the last period before it."""

    number: Annotated[int, Meta(ge=1, le=2**31)]


class PeriodsParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of the list of periods."""

    limit: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_PERIODS)],
        Meta(description="Maximum number of periods on a page."),
    ] = DEFAULT_LIMIT
    cursor: Annotated[
        str | None, Meta(description="The next page, from a Link header.")
    ] = None


class ChangesParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of the list of changes."""

    period: PeriodName = None
    since: Annotated[
        str | None,
        Meta(description="Only changes after this revision, or after this time."),
    ] = None
    limit: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_CHANGES)],
        Meta(description="Maximum number of changes on a page."),
    ] = DEFAULT_LIMIT
    cursor: Annotated[
        str | None, Meta(description="The next page, from a Link header.")
    ] = None


@endpoints.get(
    "/usage/periods",
    parameters=PeriodsParameters,
    scope="usage:read",
    answer=PeriodsAnswer,
    problems=(INVALID_PARAMETER, STORAGE_UNAVAILABLE),
    headers={"Link": "The next page, where there is one."},
)
async def list_periods(
    request: web.Request, parameters: PeriodsParameters
) -> web.StreamResponse:
    """List the kept periods, the newest first."""
    cursor = parse_cursor(parameters.cursor, PeriodsCursor)
    before = cursor.number if cursor else None
    page = await request.app[LISTING].page(before, parameters.limit)
    link = (
        next_link(request, PeriodsCursor(page.last))
        if page.has_more and page.last is not None
        else {}
    )
    answer = PeriodsAnswer(page.items)
    return json_answer(answer, {**NO_STORE, **link})


@endpoints.get(
    "/usage/changes",
    parameters=ChangesParameters,
    scope="usage:read",
    answer=ChangesAnswer,
    problems=(
        INVALID_PARAMETER,
        problems.PERIOD_NOT_KEPT,
        problems.PERIOD_DAMAGED,
        usage_problems.QUERIES_FULL,
        usage_problems.QUERY_TIMEOUT,
        STORAGE_UNAVAILABLE,
    ),
    headers={"Link": "The next page, where there is one."},
)
async def list_changes(
    request: web.Request, parameters: ChangesParameters
) -> web.StreamResponse:
    """List what changed in a period, message by message, with the reasons.

    Without `period`, the open one; without `since`, since nothing was used.
    """
    kept, place = request.app[KEPT], parse_cursor(parameters.cursor, ChangesPlace)
    since = _since(parameters.since)
    # A page of changes is decoded from thousands.
    async with request.app[LANES].queries.enter(request):
        period = await kept.find_or_open(parameters.period)
        finding = kept.store.changes(period, since, place, parameters.limit)
        found = await kept.chunks.checked(period, finding)
    answer = ChangesAnswer(
        period=period.period,
        changes=[
            ChangeItem(
                revision=revision,
                at=format_instant(at),
                kind=change.kind,
                message_id=change.message_id,
                credits_before=change.before / HUNDREDTHS_PER_CREDIT,
                credits_after=change.after / HUNDREDTHS_PER_CREDIT,
                reason=change.reason,
            )
            for revision, at, change in found.changes
        ],
        credits_before=found.before / HUNDREDTHS_PER_CREDIT,
        credits_after=found.after / HUNDREDTHS_PER_CREDIT,
        missed_snapshots=found.skipped,
    )
    link = next_link(request, found.next) if found.next else {}
    return json_answer(answer, {**NO_STORE, **link})


def _since(text: str | None) -> tuple[int | None, int | None]:
    """Return a revision, or an instant; raises `InvalidParameter`."""
    if text is None:
        return 0, None
    if text.isascii() and text.isdecimal() and len(text) < len("10000000"):
        return int(text), None
    try:
        return None, parse_instant("since", text)
    except InvalidParameter:
        expected = "expected a revision such as 17, or a time"
        raise InvalidParameter("since", expected) from None
