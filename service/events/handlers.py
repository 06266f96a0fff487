"""Endpoints of events: send and query."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, NamedTuple

from aiohttp import web
from msgspec import Meta

from service.events import problems
from service.events.adapters import cloudevents
from service.events.client_handlers import TEXT, adapter_of_cloudevents
from service.events.clock_skew import SENT_AT
from service.events.collector import Collector, Watch
from service.events.failed_statements import FailedFilter
from service.events.feed_handlers import FOLLOWER, FORMATS, answer_feed, media_type_for
from service.events.feed_statements import START, Place
from service.events.follow import JSON
from service.events.follow import Request as FeedRequest
from service.events.model import (
    ApplicationList,
    Envelope,
    EventList,
    Receipt,
    Session,
    Stats,
)
from service.events.parsing import LINE_TYPES
from service.events.query_parameters import (
    ALL,
    ApplicationParameters,
    EventListParameters,
    StatsParameters,
)
from service.events.receiving import COLLECTOR, receive
from service.events.statements import (
    EventCursor,
    ListCursor,
)
from service.observability.stages import stage
from service.settings import Scope, Settings
from service.web.auth import KEY, ApiKey, application_for
from service.web.bodies import BODY_PROBLEMS
from service.web.client_stream import while_connected
from service.web.cors import VARY_BY_ORIGIN
from service.web.credentials import PUBLIC_SCOPE
from service.web.lanes import Lane, LaneKinds, LaneLimits
from service.web.limits import Limits
from service.web.links import next_link
from service.web.long_polls import parked
from service.web.parameters import InvalidParameter, parse_cursor
from service.web.problems import NOT_JSON, STORAGE_UNAVAILABLE
from service.web.repeats import RepeatedPost, offer_posts
from service.web.routes import (
    NO_STORE,
    Endpoints,
    NoParameters,
    PublicKeyParameters,
    RequestBody,
    json_answer,
    json_block,
)

QUERIES: Final = web.AppKey("event_queries", Lane)
FORM: Final = "application/x-www-form-urlencoded"
UNTYPED: Final = "application/octet-stream"
"""Read as JSON, too; without `Content-Type` this one counts, as for untyped Blobs."""
MEDIA_TYPES: Final = (
    *("application/json", *sorted(LINE_TYPES), TEXT, FORM, UNTYPED),
    *cloudevents.MEDIA_TYPES,
)

QUERY_PROBLEMS: Final = (
    STORAGE_UNAVAILABLE,
    problems.QUERIES_FULL,
    problems.QUERY_TIMEOUT,
)
LINK_HEADER: Final = {"Link": "The next page, if there is one."}

EXAMPLE: Final = {
    "session_id": "e2085be5-9137-4e4e-80b5-f1ffddc25423",
    "category": "page interaction",
    "name": "pageview",
    "data": {"host": "www.example.com", "path": "/"},
    "timestamp": "2021-01-01 09:15:27.243860",
}

endpoints = Endpoints()


class SendParameters(PublicKeyParameters, frozen=True, forbid_unknown_fields=True):
    """The parameters of `POST /events`."""

    wait: (
        Annotated[
            Literal["stored"],
            Meta(
                description="Wait until the events are stored, `events.stored_wait_s` "
                "at most. Without an event queue, they are stored in any case."
            ),
        ]
        | None
    ) = None


@endpoints.post(
    "/events",
    "/events/",
    parameters=SendParameters,
    body=RequestBody(
        {
            "application/json": Envelope | list[Envelope],
            **dict.fromkeys((*sorted(LINE_TYPES), TEXT, FORM, UNTYPED)),
            cloudevents.STRUCTURED: dict[str, Any],
            cloudevents.BATCHED: list[dict[str, Any]],
        },
        "One event, a list of events, or one event per line; gzip is accepted. "
        "CloudEvents have types of their own, or attributes in the headers `ce-…`. All "
        "other types are read as JSON.",
        example=EXAMPLE,
    ),
    answer=Receipt,
    status=HTTPStatus.ACCEPTED,
    scope="events:write",
    problems=(
        STORAGE_UNAVAILABLE,
        NOT_JSON,
        *BODY_PROBLEMS,
        problems.TOO_MANY_EVENTS,
        problems.EVENT_TOO_LARGE,
        problems.BACKLOG_FULL,
        problems.QUEUE_UNAVAILABLE,
        problems.WAITS_FULL,
    ),
)
async def send_events(
    request: web.Request, parameters: SendParameters
) -> web.StreamResponse:
    """Send events; they are on disk when the answer is sent, each of them once.

    With an event queue, they are replicated to a quorum of its servers instead, and
    duplicates and conflicts count as accepted, unless `?wait=stored` waits for them.

    An invalid event is stored as a failed event, with its errors. The same `id` with
    the same content is a duplicate, with other content a conflict. Without an `id`, the
    content identifies the event. `X-Sent-At`, the time of the sender's clock, corrects
    the timestamps if that clock is wrong. CloudEvents are accepted in every content
    mode.
    """
    if parameters.wait == "stored":
        receipt = await _store(request)
    else:
        receipt = await _receive(request)
    return json_block(request, receipt, status=HTTPStatus.ACCEPTED)


async def _store(request: web.Request) -> Receipt:
    """Accept the events of a request, and wait until they are stored."""
    collector = request.app[COLLECTOR]
    with collector.watch() as watch:
        if watch is None:
            return await _receive(request)
        # A request without a place to wait is refused before its events are accepted.
        with request.app[FOLLOWER].waits.enter(request[KEY].application):
            receipt = await _receive(request, watch)
            with parked(request):
                async with while_connected(request):
                    limit_s = collector.settings.stored_wait_s
                    return await watch.confirm(receipt, limit_s)


async def _receive(request: web.Request, watch: Watch | None = None) -> Receipt:
    """Accept the events of a request, whose format is that of its headers."""
    if cloudevents.is_structured(request.headers):
        adapt = adapter_of_cloudevents(request)
        return await receive(request, MEDIA_TYPES, adapt, watch)
    if cloudevents.is_binary(request.headers):
        adapt = adapter_of_cloudevents(request)
        return await receive(request, (request.content_type,), adapt, watch)
    receipt = await receive(request, MEDIA_TYPES, watch=watch)
    # The stated time differs in each request.
    if SENT_AT not in request.headers:
        offer_posts(request, SmallPosts(request.app[COLLECTOR]))
    return receipt


class SmallPosts(NamedTuple):
    """Requests of `send_events` that the server need not parse and route."""

    collector: Collector
    scope: Scope = PUBLIC_SCOPE
    route: str = "/events"
    status: HTTPStatus = HTTPStatus.ACCEPTED

    @property
    def problem_headers(self) -> Mapping[str, str]:
        """The headers that problems have besides."""
        # Successful answers have no `Vary`: no cache stores them.
        return VARY_BY_ORIGIN if self.collector.settings.cors_origins else {}

    @property
    def max_body_bytes(self) -> int:
        """The maximum size of a body."""
        return self.collector.settings.max_body_bytes

    def begin(self, post: RepeatedPost) -> None:
        """Begin to store the events of a request."""
        self.collector.begin(post)


@endpoints.get(
    "/events",
    "/events/",
    parameters=EventListParameters,
    answer=EventList,
    media_types=tuple(FORMATS),
    headers=LINK_HEADER,
    scope="events:read",
    problems=(*QUERY_PROBLEMS, problems.WAITS_FULL, problems.CURSOR_AHEAD),
)
async def list_events(
    request: web.Request, parameters: EventListParameters
) -> web.StreamResponse:
    """List the events of your application, by timestamp and then arrival.

    With `order=arrival`, follow the feed of events: its next page has those that arrive
    later. NDJSON and Parquet are for the feed only.
    """
    key = request[KEY]
    event_filter = parameters.filter(requested_by(key, parameters.application))
    if parameters.order == "arrival":
        media_type = FORMATS[media_type_for(request)]
        limit = parameters.page_limit(is_streamed=media_type != JSON)
        after = parse_cursor(parameters.cursor, Place) or START
        wanted = FeedRequest(after, event_filter, limit, media_type)
        lane = request.app[QUERIES].enter(request, key.application)
        return await answer_feed(request, wanted, parameters.wait_s, lane)
    if parameters.wait_s:
        raise InvalidParameter("wait_s", "expected order=arrival with it")
    cursor = parse_cursor(parameters.cursor, EventCursor)
    limit = parameters.page_limit(is_streamed=False)
    async with enter_queries(request, key) as collector:
        page = await collector.queries.events(event_filter, limit, cursor)
    return uncached(EventList(page.items), link_to(request, page.next))


@endpoints.get(
    "/applications",
    parameters=NoParameters,
    answer=ApplicationList,
    scope="events:read-all",
    problems=QUERY_PROBLEMS,
)
async def list_applications(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """List the applications that have events, failed ones too, by name."""
    async with enter_queries(request, request[KEY]) as collector:
        names = await collector.queries.applications()
    return uncached(ApplicationList(names))


@endpoints.get(
    "/events/stats",
    parameters=StatsParameters,
    answer=Stats,
    scope="events:read",
    problems=QUERY_PROBLEMS,
)
async def count_events(
    request: web.Request, parameters: StatsParameters
) -> web.StreamResponse:
    """Count events by category, name or hour; failed events by error.

    Categories and names are the most frequent ones; `other` has the rest. Hours may be
    those of 400 days. Failed events are selected by their arrival.
    """
    key = request[KEY]
    event_filter = parameters.filter(requested_by(key, parameters.application))
    async with enter_queries(request, key) as collector:
        match parameters.by:
            case "error":
                wanted = FailedFilter(**event_filter._asdict())
                stats = await collector.queries.count_codes(wanted, parameters.limit)
            case "hour":
                stats = await collector.queries.count_hours(
                    event_filter, zeros=parameters.zeros
                )
            case by:
                stats = await collector.queries.count(
                    by, event_filter, parameters.limit
                )
    return uncached(stats)


@endpoints.get(
    "/sessions/{session_id:[^/]+}",
    parameters=ApplicationParameters,
    answer=Session,
    scope="events:read",
    problems=(*QUERY_PROBLEMS, problems.SESSION_NOT_FOUND),
)
async def read_session(
    request: web.Request, parameters: ApplicationParameters
) -> web.StreamResponse:
    """Read a session: first and last time, number of events, and events in order.

    The answer lists at most the first 10,000 events; `GET /events` lists all.
    """
    key = request[KEY]
    application = application_for(key, parameters.application)
    session_id = request.match_info["session_id"]
    async with enter_queries(request, key) as collector:
        session = await collector.queries.session(application, session_id)
    return uncached(session)


def open_lane(limits: Limits, settings: Settings) -> Lane:
    """Return the lane of queries on events."""
    bounds = LaneLimits.of(
        settings.limits,
        concurrency=settings.events.max_queries,
        time_limit_s=settings.events.query_timeout_s,
    )
    kinds = LaneKinds(problems.QUERIES_FULL, problems.QUERY_TIMEOUT)
    return Lane("event_queries", kinds, bounds, limits.clients.group_of)


def requested_by(key: ApiKey, application: str | None) -> str | None:
    """Return the application whose events a request reads; None for all of them.

    Raises `RequestProblem` if the key does not permit them.
    """
    is_all = application == ALL and ALL != key.application
    permitted = application_for(key, application)
    return None if is_all else permitted


@asynccontextmanager
async def enter_queries(request: web.Request, key: ApiKey) -> AsyncIterator[Collector]:
    """Enter the lane of queries, in which the applications of keys take turns."""
    async with request.app[QUERIES].enter(request, key.application):
        with stage("storage"):
            yield request.app[COLLECTOR]


def link_to(request: web.Request, cursor: ListCursor | None) -> dict[str, str]:
    """Return the header that leads to the next page, if there is one."""
    return {} if cursor is None else next_link(request, cursor)


def uncached(
    value: object, headers: Mapping[str, str] = MappingProxyType({})
) -> web.Response:
    """Return a JSON answer that no cache may store."""
    # A shared cache does not know that `X-API-Key` is a credential.
    return json_answer(value, {**NO_STORE, **headers})
