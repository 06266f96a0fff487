"""Endpoints of stock clients: Segment's and RudderStack's, and OpenMeter's ingest.

Their answers are those that these clients take for success. Each problem has a
`message`, too: without it, RudderStack's client sends again what is refused for good.
So 408 has none: this client would drop a batch that was only too slow.
"""

from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Final

from aiohttp import web
from msgspec import Meta, Struct

from service.events import problems
from service.events.adapters import cloudevents, openmeter, segment
from service.events.collector import Adapted
from service.events.parsing import split_body
from service.events.receiving import COLLECTOR, Adapt, receive
from service.events.splitting import BYTE_ORDER_MARK
from service.settings import EventsSettings
from service.web.bodies import BODY_PROBLEMS, JSON_TYPE
from service.web.problems import NOT_JSON, STORAGE_UNAVAILABLE
from service.web.routes import (
    NO_STORE,
    Endpoints,
    PublicKeyParameters,
    RequestBody,
    json_block,
)

TAG: Final = "stock clients"
TEXT: Final = "text/plain"
"""Read as JSON: pages send it where they may send no other type."""
SEGMENT_TYPES: Final = (JSON_TYPE, TEXT)
PROBLEMS: Final = (
    STORAGE_UNAVAILABLE,
    NOT_JSON,
    *BODY_PROBLEMS,
    problems.TOO_MANY_EVENTS,
    problems.EVENT_TOO_LARGE,
    problems.BACKLOG_FULL,
    problems.QUEUE_UNAVAILABLE,
)
CALL: Final = {
    "messageId": "5c2a5f0e",
    "anonymousId": "e2085be5",
    "event": "Order Completed",
    "properties": {"total": 12.5},
    "timestamp": "2021-01-01T09:15:27.243Z",
    "sentAt": "2021-01-01T09:15:28.000Z",
}
METERED: Final = {
    "specversion": "1.0",
    "id": "5c2a5f0e",
    "source": "billing",
    "type": "prompt",
    "subject": "customer-1",
    "time": "2021-01-01T09:15:27.243Z",
    "data": {"tokens": 12},
}

endpoints = Endpoints()


class Success(Struct, frozen=True):
    """The events are stored, as valid or as failed ones."""

    success: Annotated[bool, Meta(description="True.")] = True


Call = Annotated[
    dict[str, Any], Meta(description="A call of Segment's HTTP API, or a batch.")
]


@endpoints.post(
    *(f"/v1/{kind}" for kind in (*segment.DATA, "batch")),
    parameters=PublicKeyParameters,
    body=RequestBody(
        {JSON_TYPE: Call, TEXT: None},
        "A call of Segment's HTTP API; for `/v1/batch`, an object with a list `batch` "
        "of calls that have a `type`. Gzip is accepted.",
        example=CALL,
    ),
    answer=Success,
    scope="events:write",
    problems=PROBLEMS,
    has_message=True,
)
async def send_segment_calls(
    request: web.Request, _parameters: PublicKeyParameters
) -> web.StreamResponse:
    """Send events by a client of Segment or RudderStack, with the key as write key.

    A call becomes an event whose id is its `messageId`. `sentAt` corrects its time.
    What is invalid becomes a failed event.
    """
    kind = request.path.rpartition("/")[2]
    settings = request.app[COLLECTOR].settings
    await receive(request, SEGMENT_TYPES, partial(_adapt_calls, kind, settings))
    return json_block(request, Success(), status=HTTPStatus.OK)


@endpoints.post(
    "/api/v1/events",
    parameters=PublicKeyParameters,
    body=RequestBody(
        dict.fromkeys(openmeter.MEDIA_TYPES, dict[str, Any] | list[dict[str, Any]]),
        "A CloudEvent, or a list of them; gzip is accepted.",
        example=METERED,
    ),
    media_types=(),
    status=HTTPStatus.NO_CONTENT,
    scope="events:write",
    problems=PROBLEMS,
    has_message=True,
)
async def send_openmeter_events(
    request: web.Request, _parameters: PublicKeyParameters
) -> web.StreamResponse:
    """Send events by a client of OpenMeter, as CloudEvents.

    They are stored as those of `POST /events`. What is invalid becomes a failed event.
    """
    await receive(request, openmeter.MEDIA_TYPES, adapter_of_cloudevents(request))
    return web.Response(status=HTTPStatus.NO_CONTENT, headers=NO_STORE)


def adapter_of_cloudevents(request: web.Request) -> Adapt:
    """Return the function that splits the body of a request with CloudEvents."""
    headers, settings = request.headers, request.app[COLLECTOR].settings

    def adapt(body: bytes) -> Adapted:
        if cloudevents.is_binary(headers):
            items = [cloudevents.from_binary(headers, body)]
        else:
            items = split_body(body, JSON_TYPE, settings.max_events)
        return Adapted(cloudevents.FORMAT, items)

    return adapt


def _adapt_calls(kind: str, settings: EventsSettings, body: bytes) -> Adapted:
    body = body.removeprefix(BYTE_ORDER_MARK)
    if kind == "batch":
        bounds = settings.max_events, settings.max_body_bytes
        calls = segment.split_batch(body, *bounds)
    else:
        calls = segment.split_call(body, kind)
    return Adapted(segment.FORMAT, *calls)
