"""The server of client connections: it limits their number, drains and closes them.

A shutdown waits until the requests in flight are finished and their answers are sent.
"""

import asyncio
import heapq
import math
from collections.abc import Awaitable, Iterator
from typing import Any, Final

from aiohttp import hdrs, web

from service.server.connection_limit import AddressLimit, closed, find_limit
from service.server.connections import BaseHandler, Bounds, ClientConnection
from service.server.fast_path import FastPath
from service.server.http_rules import find_violation
from service.server.load_shedding import LoopQueue
from service.server.post_path import PostPath
from service.server.refusals import refuse
from service.web.bodies import postpone_continue
from service.web.page_headers import protect_answer
from service.web.problems import RequestProblem
from service.web.unsent_bytes import UnsentBytes

SHORTEST_SHUTDOWN_S: Final = 0.01
"""aiohttp takes a time limit of 0 for none."""
FIRST_REQUEST_S: Final = 2.0
"""Time for the first request of a connection that is new when the service stops."""
LOOK_AGAIN_S: Final = 0.01
SPARE_DIVISOR: Final = 200
"""Part of the limit that is freed at once, since a look at all connections takes long.

Of 10,000 it takes 10 ms. Without the spare, each new connection would cost one.
"""


class ConnectionServer(web.Server):
    """A `web.Server` of `ClientConnection` objects, which can drain them."""

    def __init__(
        self,
        handler: BaseHandler,
        bounds: Bounds,
        unsent: UnsentBytes,
        addresses: AddressLimit | None,
        **options: Any,
    ) -> None:
        super().__init__(handler, **options)
        self.fast_path: FastPath | None = None
        """Answers repeated requests of connections that are new from now on."""
        self.posts: PostPath | None = None
        """Passes repeated requests with a body to their endpoints, likewise."""
        self._addresses = addresses
        self._bounds = bounds
        self._unsent = unsent
        self._queue = LoopQueue(bounds.max_loop_wait_s)
        self._max_connections = find_limit(bounds.max_connections)
        # New connections beyond the limit, for which room is made soon.
        self._newest: list[ClientConnection] = []

    @classmethod
    def of(
        cls,
        server: web.Server,
        bounds: Bounds,
        unsent: UnsentBytes,
        addresses: AddressLimit | None = None,
    ) -> "ConnectionServer":
        """Return a server with the handler and the options of another one."""
        return cls(
            with_http_rules(server.request_handler),
            bounds,
            unsent,
            addresses,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
            loop=server._loop,
            **server._kwargs,
        )

    def connection_made(
        self, handler: web.RequestHandler, transport: asyncio.Transport
    ) -> None:
        """Keep a new connection, if necessary in place of one that is idle."""
        super().connection_made(handler, transport)
        if self._queue.is_draining and isinstance(handler, ClientConnection):
            # It was accepted before, in the same turn of the event loop.
            handler.close_after_next(self.request_factory)
        if self._addresses is not None and not self._addresses.admit(transport):
            closed("address", 1, len(self._connections))
            transport.abort()
            return
        if len(self._connections) <= self._max_connections:
            return
        if not self._newest:
            # Once for all connections that are accepted now: it looks at each.
            self._loop.call_soon(self._make_room)
        if isinstance(handler, ClientConnection):
            self._newest.append(handler)

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        """Forget a closed connection."""
        transport = self._connections.get(handler)
        if self._addresses is not None and transport is not None:
            self._addresses.forget(transport)
        super().connection_lost(handler, exc)

    def _make_room(self) -> None:
        """Close the connections that are idle for the longest time, or the newest."""
        newest, self._newest = self._newest, []
        kept = [each for each in self._client_connections() if not each.is_closed]
        excess = len(kept) - self._max_connections
        if excess <= 0:
            return
        new = set(newest)
        idle = (each for each in kept if each.is_idle and each not in new)
        wanted = excess + self._max_connections // SPARE_DIVISOR
        oldest = heapq.nsmallest(wanted, idle, key=lambda each: each.received_at)
        for each in oldest:
            each.force_close()
        refused = [each for each in newest if not each.is_closed]
        refused = refused[len(refused) - max(0, excess - len(oldest)) :]
        for each in refused:
            self._connections[each].abort()
        for state, number in (("idle", len(oldest)), ("new", len(refused))):
            if number:
                closed(state, number, len(kept))

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of an accepted connection."""
        shared = self._bounds, self._unsent, self._queue, self.fast_path
        connection = ClientConnection(self, *shared, loop=self._loop, **self._kwargs)
        connection.posts = self.posts
        return connection

    def drain(self) -> None:
        """Close each connection after its next answer, which announces that."""
        make = self.request_factory
        self.fast_path = self.posts = None
        self._queue.is_draining = True

        def make_last(message: Any, *rest: Any) -> web.BaseRequest:
            return make(message._replace(should_close=True), *rest)

        self.request_factory = make_last
        for each in self._client_connections():
            each.close_after_next(make_last)

    def pre_shutdown(self) -> None:
        """Leave the connections to `shutdown`: aiohttp would lose bodies in transit."""

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Finish the requests in flight, and send their answers, within `timeout`.

        New connections have `FIRST_REQUEST_S` for their request. Connections that are
        left in the end are aborted.
        """
        begun = self._loop.time()
        end = math.inf if timeout is None else begun + timeout
        while self._connections and (now := self._loop.time()) < end:
            is_early = now < begun + FIRST_REQUEST_S
            silent_since = now - FIRST_REQUEST_S if is_early else now
            for each in self._client_connections():
                each.close_if_idle(silent_since)
            await asyncio.sleep(LOOK_AGAIN_S)
        await self._abort_all()

    async def _abort_all(self) -> None:
        """Cancel the requests in flight, and drop the unsent parts of answers."""
        left, self._connections = self._connections, {}
        await asyncio.gather(*(each.shutdown(SHORTEST_SHUTDOWN_S) for each in left))
        for transport in left.values():
            transport.abort()

    def _client_connections(self) -> Iterator[ClientConnection]:
        for each in self.connections:
            if isinstance(each, ClientConnection):
                yield each


def with_http_rules(handle: BaseHandler) -> BaseHandler:
    """Return a handler that calls `handle` for requests that keep HTTP's rules."""

    def handle_valid(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        if isinstance(request.protocol, ClientConnection):
            request.protocol.start_request()
        protect_answer(request)
        violation = find_violation(request)
        if hdrs.EXPECT in request.headers:
            postpone_continue(request)
        # No coroutine of its own, which each request would pay for.
        return handle(request) if violation is None else _refuse(request, violation)

    return handle_valid


async def _refuse(
    request: web.BaseRequest, violation: RequestProblem
) -> web.StreamResponse:
    return refuse(request, violation, type(violation).__name__)
