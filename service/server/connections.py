"""Client connections with time limits.

aiohttp limits how long a connection is idle. This module adds time limits for headers
and for reading answers, and problem documents for malformed requests.
"""

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from service.observability import http_metrics
from service.observability.metrics import OTHER
from service.server.fast_path import FastPath, Remembered
from service.server.load_shedding import LoopQueue, Shed
from service.server.post_path import PostPath, head_of
from service.server.refusals import as_bytes, closing_answer, refuse
from service.server.request_protocol import RequestProtocol
from service.settings import ServerSettings
from service.web.client_stream import (
    ClientDisconnected,
    ClientListener,
    WatchedConnection,
)
from service.web.page_headers import protect_answer
from service.web.problems import INTERNAL_ERROR, kind_of
from service.web.repeats import PostEndpoint, RepeatableAnswer, RepeatingConnection
from service.web.request_context import request_id_of
from service.web.unsent_bytes import UnsentBytes

MIN_READ_BYTES: Final = 64 * 1024
"""A client must read so much within each `write_timeout_s`: a few KB per second."""

MAX_BUFFER_BYTES: Final = 16 * 1024
"""Unsent bytes of a connection at which its answer waits for the client."""

HALF_CLOSE_S: Final = 0.25
"""Time after the last byte in which the end of the client's half belongs to it."""

log = structlog.get_logger()

BaseHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Bounds(NamedTuple):
    """Limits of a connection, in seconds and bytes."""

    header_timeout_s: float
    write_timeout_s: float
    max_line_bytes: int
    max_loop_wait_s: float
    max_connections: int

    @classmethod
    def of(cls, server: ServerSettings) -> "Bounds":
        """Return the limits of the settings."""
        return cls(
            server.header_timeout_s,
            server.write_timeout_s,
            server.max_line_bytes,
            server.max_loop_wait_s,
            server.max_connections,
        )


class ClientConnection(RequestProtocol, WatchedConnection, RepeatingConnection):
    """One connection. A timer runs only while the connection waits for the client."""

    __slots__ = (
        "_bounds",
        "_fast_path",
        "_has_begun",
        "_head",
        "_header_timer",
        "_next_head",
        "_queue",
        "_unsent",
        "_waits_for_loop",
        "_write_timer",
        "client_head",
        "client_id",
        "client_listeners",
        "has_client_ended",
        "posts",
    )

    def __init__(
        self,
        manager: web.Server,
        bounds: Bounds,
        unsent: UnsentBytes,
        queue: LoopQueue,
        fast_path: FastPath | None = None,
        **options: Any,
    ) -> None:
        # `read_body` decompresses, so that the body of a refused request is not.
        super().__init__(manager, auto_decompress=False, **options)
        self.client_listeners: set[ClientListener] = set()
        self.has_client_ended = False
        self._bounds = bounds
        self._unsent = unsent
        self._queue = queue
        self._fast_path = fast_path
        self.posts: PostPath | None = None
        """Passes repeated requests with a body to their endpoints."""
        self._next_head: bytes | None = None
        self._head: bytes | None = None
        """The bytes of the request in progress, if it may be remembered."""
        self.client_head: Remembered | None = None
        self.client_id: str | bytes = ""
        self._waits_for_loop = False
        self._has_begun = False
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    # --- headers --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the timer of the first request's headers."""
        super().connection_made(transport)
        self.received_at = self._loop.time()
        cast("asyncio.Transport", transport).set_write_buffer_limits(MAX_BUFFER_BYTES)
        self._start_header_timer()

    def answer_at_once(self, data: bytes) -> Sequence[bytes] | None:
        """Return the answer to a head that is remembered; None for any other."""
        if self._fast_path is None or self._has_begun:
            return None
        parts = self._fast_path.answer(data, self)
        if parts is not None and self._header_timer is not None:
            self._stop_header_timer()
        return parts

    def receive(self, data: bytes) -> None:
        """Parse received bytes; stop the header timer when a request is complete."""
        was_idle = self.is_idle
        if was_idle and self._shed(data):
            return
        requests_before = self.parsed_requests
        self._parse(data)
        self.received_at = self._loop.time()
        if self.parsed_requests != requests_before:
            self._stop_header_timer()
            if was_idle and not self._waits_for_loop:
                self._waits_for_loop = True
                self._queue.add()
        # Bytes without a complete request: its headers are incomplete. The first ones
        # may come before `start` waits for them.
        elif self.is_idle or not self.parsed_requests:
            self._has_begun = True
            self._start_header_timer()

    def answer_later(self, data: bytes) -> bool:
        """Begin to answer a request whose head is remembered."""
        posts = self.posts
        if posts is None or self._has_begun or not posts.accept(data, self):
            return False
        if self._header_timer is not None:
            self._stop_header_timer()
        return True

    def identify(self, head: Remembered) -> str | bytes:
        """Return the id of the client that has sent a head on this connection."""
        self.client_head = head
        self.client_id = client_id = head.caller.identify(self.remote)
        return client_id

    def remember(self, request: web.BaseRequest, answer: RepeatableAnswer) -> None:
        """Remember the answer to the request in progress, if its bytes are known."""
        if self._fast_path is not None and self._head is not None:
            self._fast_path.remember(self._head, request, answer)

    def remember_post(self, request: web.BaseRequest, endpoint: PostEndpoint) -> None:
        """Remember the head of the request in progress, if its bytes are known."""
        if self.posts is not None and self._head is not None:
            self.posts.remember(self._head, request, endpoint)

    def _parse(self, data: bytes) -> None:
        was_idle, begins = self.is_idle, not self.has_partial_head
        before = self.parsed_requests
        self.parse(data)
        if was_idle:
            is_single = begins and self.parsed_requests == before + 1
            self._next_head = head_of(data) if is_single else None

    def _shed(self, data: bytes) -> bool:
        """Refuse a request that would wait too long; return False for all others."""
        if self._has_begun or self.has_partial_head:
            return False
        shed = self._queue.shed(data)
        if shed is None:
            return False
        self._refuse(shed)
        return True

    def _refuse(self, shed: Shed) -> None:
        assert self.transport is not None  # noqa: S101 - it has just received data
        self.received_at = self.answered_at = self._loop.time()
        self._stop_header_timer()
        self.transport.write(shed.answer)
        if shed.closes:
            self.force_close()

    def start_request(self) -> None:
        """Stop counting the request as waiting: its handler starts."""
        # Requests that were pipelined behind it have no bytes of their own.
        self._head, self._next_head = self._next_head, None
        if self._waits_for_loop:
            self._waits_for_loop = False
            self._queue.start()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the transport open until the received requests are answered.

        A client may end its half of the connection after its last byte. A client that
        ends it later has disconnected: TCP shows no difference.
        """
        self.has_client_ended = True
        self._notify_listeners(is_lost=False)
        if self._loop.time() - self.received_at > HALF_CLOSE_S:
            return False
        # Without its whole body a request cannot be answered: let aiohttp close.
        is_whole = self.last_body is not None and self.last_body.is_eof()
        if self.is_idle or not (is_whole or self.is_answering):
            return False
        self.close_after_received()
        return True

    def _notify_listeners(self, *, is_lost: bool) -> None:
        for listener in tuple(self.client_listeners):
            listener(is_lost=is_lost)

    def _start_header_timer(self) -> None:
        if self._header_timer is not None:
            return
        wait_s = self._bounds.header_timeout_s
        self._header_timer = self._loop.call_later(wait_s, self._time_headers_out)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
            self._has_begun = False

    @property
    def is_closed(self) -> bool:
        """True if the descriptor is free now, or in the next turn of the event loop."""
        transport = self.transport
        if transport is None:
            return True
        # A transport that closes keeps the descriptor until its client has read.
        return transport.is_closing() and not transport.get_write_buffer_size()

    def _time_headers_out(self) -> None:
        self._header_timer = None
        if self.transport is None or not self.is_idle:
            return
        # An idle connection is closed without an answer, which no request awaits.
        if self._has_begun:
            answer = closing_answer(web.HTTPRequestTimeout(), secrets.token_hex(16))
            self.transport.write(as_bytes(answer))
            log.info("http.timeout", reason="headers")
            http_metrics.request_answered(OTHER, None, answer.status, 0.0)
        self.force_close()

    # --- answers --------------------------------------------------------------------

    def pause_writing(self) -> None:
        """Start the write timer: the transport's buffer is full."""
        super().pause_writing()
        if self.transport is not None:
            self._start_write_timer(self.transport)
            self._unsent.pause(self.transport)

    def resume_writing(self) -> None:
        """Stop the write timer: the client has read enough."""
        super().resume_writing()
        self._stop_write_timer()
        if self.transport is not None:
            self._unsent.resume(self.transport)

    async def start(self) -> None:
        """Serve requests; at the end, limit the time for reading what is unsent."""
        transport = self.transport
        try:
            await super().start()
        finally:
            if transport is not None and transport.get_write_buffer_size():
                self._start_write_timer(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop all timers, and aiohttp's wait for a body whose answer is sent."""
        if self.transport is not None:
            self._unsent.resume(self.transport)
        super().connection_lost(exc)
        if self.last_body is not None and not self.last_body.is_eof():
            self.last_body.feed_eof()
        self._notify_listeners(is_lost=True)
        if self._waits_for_loop:
            self._waits_for_loop = False
            self._queue.discard()
        self._stop_header_timer()
        self._stop_write_timer()

    def _start_write_timer(self, transport: asyncio.Transport | None) -> None:
        if transport is None or self._write_timer is not None:
            return
        wait_s, unsent = self._bounds.write_timeout_s, transport.get_write_buffer_size()
        self._write_timer = self._loop.call_later(
            wait_s, self._abort_unless_read, transport, unsent - MIN_READ_BYTES
        )

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _abort_unless_read(
        self, transport: asyncio.Transport, max_unsent_bytes: int
    ) -> None:
        self._write_timer = None
        if transport.get_write_buffer_size() <= max_unsent_bytes:
            self._start_write_timer(transport)
            return
        log.info("http.timeout", reason="write")
        # `close` would wait until the client has read all of it.
        transport.abort()

    # --- malformed requests ---------------------------------------------------------

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that aiohttp could not parse, or an unhandled error."""
        protect_answer(request)
        # aiohttp closes the connection for a ConnectionError, and logs nothing.
        if isinstance(exc, ClientDisconnected) or request.writer.output_size > 0:
            raise ConnectionError("no answer can be sent any more")
        error = self._as_error(exc) if status == 400 else exc or RuntimeError(message)
        if kind_of(error) is not INTERNAL_ERROR:
            return refuse(request, error, type(exc).__name__)
        request_id = request_id_of(request)
        log.error("http.error", exc_info=error, request_id=request_id)
        http_metrics.request_refused(request.method, status, INTERNAL_ERROR.code)
        return closing_answer(error, request_id)

    def _as_error(self, exc: BaseException | None) -> web.HTTPException:
        if not isinstance(exc, LineTooLong):
            return web.HTTPBadRequest()
        # aiohttp raises the same error for both; its second argument is the limit.
        _, limit, *_ = exc.args
        if limit == self._bounds.max_line_bytes:
            return web.HTTPRequestURITooLong()
        return web.HTTPRequestHeaderFieldsTooLarge()

    # --- shutdown -------------------------------------------------------------------

    def close_after_next(self, factory: Any) -> None:
        """Answer at most one more request, made by `factory` so that it closes."""
        self._fast_path = self.posts = None
        self.make_requests_by(factory)

    def close_if_idle(self, silent_since: float) -> None:
        """Close the connection, unless a request is in flight.

        A connection whose first request or its headers are incomplete is closed only
        if nothing has arrived since that time of the event loop.
        """
        if self.is_idle and self._heard_at() <= silent_since:
            self.force_close()

    def _heard_at(self) -> float:
        """Return when the client has sent a part of the next request, or connected."""
        if self._header_timer is None:
            return -math.inf
        connected_at = self._header_timer.when() - self._bounds.header_timeout_s
        return max(connected_at, self.received_at)
