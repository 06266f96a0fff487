"""Long polls: requests that wait on behalf of their client, within no other bound."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from service.web.client_stream import DEADLINE, WAITED_S
from service.web.limits import LIMITS, domain_of


@contextmanager
def parked(request: web.Request) -> Iterator[None]:
    """Let a request wait: it is not in flight, and its time limit stands still.

    The wait is no part of the duration in logs and metrics.
    """
    limits, domain = request.app[LIMITS], domain_of(request)
    loop = asyncio.get_running_loop()
    deadline: asyncio.Timeout | None = request.get(DEADLINE)
    began = loop.time()
    ends_at = None if deadline is None else deadline.when()
    limits.in_flight[domain] -= 1
    if deadline is not None:
        deadline.reschedule(None)
    try:
        yield
    finally:
        waited_s = loop.time() - began
        limits.in_flight[domain] += 1
        request[WAITED_S] = request.get(WAITED_S, 0.0) + waited_s
        if deadline is not None and ends_at is not None and not deadline.expired():
            deadline.reschedule(ends_at + waited_s)
