"""Streaming of answers, and the end of work whose client disconnects meanwhile."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, Protocol

from aiohttp import web

CLIENT_DISCONNECTED: Final = "client_disconnected"
DISCONNECTED_STATUS: Final = 499
"""The status that nginx logs for a client that has disconnected; it is never sent."""
DEADLINE: Final = web.RequestKey("deadline", asyncio.Timeout)
"""The deadline of the answer; a stream that has begun has other limits."""
READY_AT: Final = web.RequestKey("ready_at", float)
"""When the answer was ready to be sent, by `time.perf_counter`, in seconds."""
WAITED_S: Final = web.RequestKey("waited_s", float)
"""Time for which the client has asked to wait, which is no part of the duration."""
HALF_CLOSED_S: Final = 1.0
"""Time limit of running work after the client has ended its half of the connection.

TCP does not show whether such a client still reads. Nearly all of them have left.
"""


class ClientDisconnected(ConnectionError):
    """The client has disconnected before it received the whole answer."""

    # A ConnectionError, for which aiohttp closes the connection without an answer.


class TimeLimitPassed(Exception):
    """The work has not ended within its time limit."""


class ClientStream:
    """Sends a response in chunks, at the speed at which the client reads.

    Each method raises `ClientDisconnected`, also after our write time limit.
    """

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response

    async def start(self) -> None:
        """Send the head."""
        self._request[READY_AT] = time.perf_counter()
        deadline: asyncio.Timeout | None = self._request.get(DEADLINE)
        if deadline is not None and not deadline.expired():
            deadline.reschedule(None)
        try:
            await self._response.prepare(self._request)
        except ConnectionError as error:
            raise ClientDisconnected from error

    async def write(self, chunk: bytes | memoryview) -> None:
        """Send a part of the body."""
        try:
            await self._response.write(chunk)
            # aiohttp drains only every 64 KiB.
            await self._request.writer.drain()
        except ConnectionError as error:
            raise ClientDisconnected from error

    async def finish(self) -> None:
        """Send the end of the body."""
        try:
            await self._response.write_eof()
        except ConnectionError as error:
            raise ClientDisconnected from error


def has_disconnected(request: web.BaseRequest) -> bool:
    """Return whether no answer can reach the client any more."""
    return request.transport is None or request.transport.is_closing()


class ClientListener(Protocol):
    """Is called when the client's half of the connection, or all of it, has ended."""

    def __call__(self, *, is_lost: bool) -> None:
        """Handle the end; `is_lost` if no answer can reach the client any more."""


class WatchedConnection:
    """A connection that reports the end of its client to listeners."""

    __slots__ = ()

    client_listeners: set[ClientListener]
    has_client_ended: bool


@asynccontextmanager
async def while_connected(
    request: web.BaseRequest,
    *,
    half_closed_s: float | None = None,
    limit_s: float | None = None,
) -> AsyncIterator[None]:
    """Cancel the body when the client disconnects, or after `limit_s` if given.

    A body whose client has ended its half of the connection, now or before, may run for
    `half_closed_s`, by default `HALF_CLOSED_S`. Raises `ClientDisconnected` and
    `TimeLimitPassed`.
    """
    loop = asyncio.get_running_loop()
    left_s = HALF_CLOSED_S if half_closed_s is None else half_closed_s
    has_left = False

    def on_end(*, is_lost: bool) -> None:
        nonlocal has_left
        has_left = True
        end = loop.time() + (0.0 if is_lost else left_s)
        if not limit.expired():
            limit.reschedule(min(end, limit.when() or end))

    try:
        async with asyncio.timeout(limit_s) as limit:
            with _listening(request, on_end):
                if has_left and (limit.when() or 0.0) <= loop.time():
                    raise ClientDisconnected  # before the body begins
                yield
    except TimeoutError:
        if not limit.expired():
            raise  # of the body itself
        if has_left:
            raise ClientDisconnected from None
        raise TimeLimitPassed from None


@contextmanager
def _listening(request: web.BaseRequest, listener: ClientListener) -> Iterator[None]:
    """Call a listener at the end of the client, at once if that was before."""
    connection = request.protocol
    if not isinstance(connection, WatchedConnection):
        yield  # a request without our server, as in tests of a handler
        return
    if has_disconnected(request) or connection.has_client_ended:
        listener(is_lost=has_disconnected(request))
    connection.client_listeners.add(listener)
    try:
        yield
    finally:
        connection.client_listeners.discard(listener)
