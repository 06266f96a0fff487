"""The way of a request's body to its receipt, for our format and those of others."""

from collections.abc import Callable
from typing import Final

from aiohttp import web

from service.events.clock_skew import Clocks
from service.events.collector import Adapted, Collector, Watch
from service.events.model import Receipt
from service.observability.stages import stage
from service.observability.tracing import current_traceparent
from service.web.auth import KEY
from service.web.bodies import max_size, read_body
from service.web.http_cache.conditional import check_if_match
from service.web.request_context import REQUEST_ID

COLLECTOR: Final = web.AppKey("collector", Collector)

Adapt = Callable[[bytes], Adapted]
"""Splits a body into the items of a stock client; raises `BadBody`."""


async def receive(
    request: web.Request,
    media_types: tuple[str, ...],
    adapt: Adapt | None = None,
    watch: Watch | None = None,
) -> Receipt:
    """Store the events of a request; they are on disk when this returns.

    With a queue, they are in its stream instead. Without `adapt`, the body has our
    format. Raises what the answers of `POST /events` are made from.
    """
    clocks = Clocks.of(request.headers)
    collector = request.app[COLLECTOR]
    settings = collector.settings
    application, max_bytes = request[KEY].application, settings.max_body_bytes
    with collector.reserve(application, max_size(request, max_bytes)) as reserved:
        body = await read_body(
            request,
            media_types,
            max_bytes=max_bytes,
            timeout_s=settings.body_timeout_s,
        )
        check_if_match(request, None)
        reserved.resize(len(body))
        reserved.request_id = request[REQUEST_ID]
        reserved.traceparent = current_traceparent()
        with stage("storage"):
            if adapt is not None:
                adapted = adapt(body)
                # Calls of a batch may have copies of what they share.
                reserved.resize(max(len(body), sum(map(len, adapted.items))))
                return await collector.collect_adapted(adapted, reserved, clocks, watch)
            content_type = request.content_type
            return await collector.collect(body, content_type, reserved, clocks, watch)
