"""Backpressure on clients that do not wait after a refusal.

A client that sends its next request at once costs the event loop as much as an answer,
again and again. So its connection is not read for a while.
"""

import asyncio
import random
from typing import Final

from aiohttp import web

PAUSE_S: Final = (1.0, 3.0)
"""Around the usual `Retry-After`, for which a client should wait anyway."""


def pause_client(request: web.BaseRequest) -> None:
    """Read the next request of a connection after a pause; the answer is sent."""
    transport = request.transport
    if transport is None or transport.is_closing():
        return
    transport.pause_reading()

    def resume() -> None:
        if not transport.is_closing():
            transport.resume_reading()

    # At random, so that connections that were refused together do not return together.
    pause_s = random.uniform(*PAUSE_S)  # noqa: S311
    asyncio.get_running_loop().call_later(pause_s, resume)
