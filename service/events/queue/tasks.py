"""Tasks that use the client library, which may swallow their cancellation.

The library does so while it waits for a socket, and `asyncio.wait_for` of Python 3.11
when its result comes at the same moment. Such a task goes on as if nothing had been.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

CANCEL_AGAIN_S: Final = 0.5
"""Time in which a cancelled task ends, unless its cancellation was swallowed."""


@asynccontextmanager
async def until_cancelled(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run work in a task that is cancelled, as often as it takes, at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=CANCEL_AGAIN_S)
