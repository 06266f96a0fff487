"""The endpoints of events: sending them, asking for them, and mending failed ones."""

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Annotated, Final

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from service.events.collector import Collector
from service.events.model import (
    MAX_NAME_CHARS,
    Envelope,
    EventList,
    FailedList,
    Receipt,
    Result,
    Session,
    Stats,
)
from service.events.questions import (
    Cursor,
    EventCursor,
    FailedCursor,
    Filter,
    StatsBy,
    Storable,
)
from service.events.reading import NDJSON
from service.parameters import encode_cursor, parse_cursor, parse_instant
from service.web import problems
from service.web.bodies import read_body
from service.web.keys import GATE, application_for
from service.web.routes import Body, Endpoints, NoParameters, json_answer

COLLECTOR: Final = web.AppKey("collector", Collector)
FORMS: Final = ("application/json", NDJSON)
DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1_000

KEY_PROBLEMS: Final = (
    problems.UNAUTHORIZED,
    problems.RATE_LIMITED,
    problems.STORAGE_UNAVAILABLE,
)
QUESTION_PROBLEMS: Final = (*KEY_PROBLEMS, problems.FORBIDDEN)
BODY_PROBLEMS: Final = (
    problems.NOT_JSON,
    problems.BODY_INCOMPLETE,
    problems.BODY_TOO_SLOW,
    problems.BODY_TOO_LARGE,
    problems.UNSUPPORTED_MEDIA_TYPE,
)
NEXT: Final = {"Link": "The next page, where there is one."}

EXAMPLE: Final = {
    "session_id": "e2085be5-9137-4e4e-80b5-f1ffddc25423",
    "category": "page interaction",
    "name": "pageview",
    "data": {"host": "www.example.com", "path": "/"},
    "timestamp": "2021-01-01 09:15:27.243860",
}

Text = Annotated[Storable, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
"""What is asked for is within the bounds of what is kept."""
Application = Annotated[
    Text | None,
    Meta(description="Another application's events, for a key that may read all."),
]

endpoints = Endpoints()


class FilterParameters(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of every list of events."""

    session_id: Annotated[Text | None, Meta(description="One session's.")] = None
    category: Annotated[Text | None, Meta(description="Of one category.")] = None
    name: Annotated[Text | None, Meta(description="Of one name.")] = None
    since: Annotated[
        str | None, Meta(description="Only events at or after this moment.")
    ] = msgspec.field(name="from", default=None)
    until: Annotated[
        str | None, Meta(description="Only events before this moment.")
    ] = msgspec.field(name="to", default=None)
    application: Application = None

    def filter(self, application: str) -> Filter:
        """The same, understood; raises `InvalidParameter`."""
        return Filter(
            application=application,
            session_id=self.session_id,
            category=self.category,
            name=self.name,
            since=parse_instant("from", self.since),
            until=parse_instant("to", self.until),
        )


class ListParameters(FilterParameters, frozen=True, kw_only=True):
    """The parameters of lists that come in pages."""

    limit: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_LIMIT)],
        Meta(description="Events on a page at most."),
    ] = DEFAULT_LIMIT
    cursor: Annotated[
        str | None, Meta(description="The next page, from a Link header.")
    ] = None


class StatsParameters(FilterParameters, frozen=True, kw_only=True):
    """The parameters of counts."""

    by: Annotated[StatsBy, Meta(description="What to count by.")] = "category"


class ApplicationParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of what belongs to one application."""

    application: Application = None


@endpoints.post(
    "/events",
    parameters=NoParameters,
    body=Body(
        {"application/json": Envelope | list[Envelope], NDJSON: None},
        "One event, a list of them, or one a line; gzip is taken.",
        example=EXAMPLE,
    ),
    answer=Receipt,
    status=HTTPStatus.ACCEPTED,
    needs_key=True,
    problems=(
        *KEY_PROBLEMS,
        *BODY_PROBLEMS,
        problems.TOO_MANY_EVENTS,
        problems.BACKLOG_FULL,
    ),
)
async def send_events(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Send events; each is on disk when this is answered, once however often sent.

    An event that breaks its contract is kept as a failed event, with what is wrong
    with it. The same `id` with the same content is a duplicate, with another content a
    conflict; without an `id`, the content decides.
    """
    key = await request.app[GATE].admit(request)
    collector = request.app[COLLECTOR]
    settings = collector.settings
    body = await read_body(
        request,
        FORMS,
        most=settings.max_body_bytes,
        within_s=settings.body_timeout_s,
    )
    receipt = await collector.collect(body, request.content_type, key.application)
    return _answer(receipt, status=HTTPStatus.ACCEPTED)


@endpoints.get(
    "/events",
    parameters=ListParameters,
    answer=EventList,
    headers=NEXT,
    needs_key=True,
    problems=QUESTION_PROBLEMS,
)
async def list_events(
    request: web.Request, parameters: ListParameters
) -> web.StreamResponse:
    """Events of your application, by timestamp and then arrival."""
    wanted = await _question(request, parameters)
    cursor = parse_cursor(parameters.cursor, EventCursor)
    questions = request.app[COLLECTOR].questions
    page = await questions.events(wanted, parameters.limit, cursor)
    return _answer(EventList(page.items), _link(request, page.next))


@endpoints.get(
    "/events/failed",
    parameters=ListParameters,
    answer=FailedList,
    headers=NEXT,
    needs_key=True,
    problems=QUESTION_PROBLEMS,
)
async def list_failed_events(
    request: web.Request, parameters: ListParameters
) -> web.StreamResponse:
    """Events that broke their contract, as they were sent, by arrival."""
    wanted = await _question(request, parameters)
    cursor = parse_cursor(parameters.cursor, FailedCursor)
    questions = request.app[COLLECTOR].questions
    page = await questions.failed(wanted, parameters.limit, cursor)
    return _answer(FailedList(page.items), _link(request, page.next))


@endpoints.post(
    "/events/failed/{id}/replay",
    parameters=ApplicationParameters,
    answer=Result,
    needs_key=True,
    problems=(
        *QUESTION_PROBLEMS,
        problems.FAILED_EVENT_NOT_FOUND,
        problems.REPLAY_REFUSED,
    ),
)
async def replay_failed_event(
    request: web.Request, parameters: ApplicationParameters
) -> web.StreamResponse:
    """Check a failed event again, and accept it if it keeps its contract by now."""
    key = await request.app[GATE].admit(request)
    application = application_for(key, parameters.application)
    collector = request.app[COLLECTOR]
    return _answer(await collector.replay(application, request.match_info["id"]))


@endpoints.get(
    "/events/stats",
    parameters=StatsParameters,
    answer=Stats,
    needs_key=True,
    problems=QUESTION_PROBLEMS,
)
async def count_events(
    request: web.Request, parameters: StatsParameters
) -> web.StreamResponse:
    """How many events there are by category, name or hour; of failed ones, by error."""
    wanted = await _question(request, parameters)
    counts = await request.app[COLLECTOR].questions.count(parameters.by, wanted)
    return _answer(Stats(parameters.by, counts))


@endpoints.get(
    "/sessions/{session_id}",
    parameters=ApplicationParameters,
    answer=Session,
    needs_key=True,
    problems=(*QUESTION_PROBLEMS, problems.SESSION_NOT_FOUND),
)
async def read_session(
    request: web.Request, parameters: ApplicationParameters
) -> web.StreamResponse:
    """A session's first and last time, its number of events, and its events in order.

    Of a session with more than 10,000 events it lists the first of them; `GET /events`
    has them all.
    """
    key = await request.app[GATE].admit(request)
    application = application_for(key, parameters.application)
    session_id = request.match_info["session_id"]
    questions = request.app[COLLECTOR].questions
    return _answer(await questions.session(application, session_id))


async def _question(request: web.Request, parameters: FilterParameters) -> Filter:
    key = await request.app[GATE].admit(request)
    return parameters.filter(application_for(key, parameters.application))


def _link(request: web.Request, cursor: Cursor | None) -> dict[str, str]:
    if cursor is None:
        return {}
    target = request.rel_url.update_query(cursor=encode_cursor(cursor))
    return {"Link": f'<{target}>; rel="next"'}


def _answer(
    value: object,
    headers: Mapping[str, str] = MappingProxyType({}),
    *,
    status: HTTPStatus = HTTPStatus.OK,
) -> web.Response:
    """An answer for those alone who have the key: no cache may keep it for others."""
    return json_answer(value, {"Cache-Control": "no-store", **headers}, status=status)
