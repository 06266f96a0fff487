"""Connections that no caller can hold for ever, and that close in order.

aiohttp bounds how long a connection may be idle. Here are the rest: headers that never
end, answers that are never read, requests that are none (answered by a problem
document too), and the end, which waits until what was answered has also been sent.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import structlog
from aiohttp import hdrs, web
from aiohttp.http_exceptions import LineTooLong

from service.settings import Server
from service.web.context import REQUEST_ID_HEADER, request_id_of
from service.web.problems import INTERNAL_ERROR, answer_problem, kind_of

AT_ONCE_S: Final = 0.01
"""To aiohttp, a shutdown's time-out of 0 is none."""

LEAST_READ_BYTES: Final = 64 * 1024
"""What a caller has to read within each `write_timeout_s`: a few KB a second."""

log = structlog.get_logger()

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Bounds(NamedTuple):
    """What a connection is allowed, in seconds and bytes."""

    header_timeout_s: float
    write_timeout_s: float
    max_line_bytes: int

    @classmethod
    def of(cls, server: Server) -> "Bounds":
        """As the settings want it."""
        return cls(
            server.header_timeout_s, server.write_timeout_s, server.max_line_bytes
        )


class Connection(web.RequestHandler):
    """One connection. Timers run only while it waits: no answer pays for them."""

    __slots__ = ("_bounds", "_gone", "_has_begun", "_header_timer", "_write_timer")

    def __init__(self, manager: web.Server, bounds: Bounds, **options: Any) -> None:
        # Who reads a body undoes its coding: of one that is refused, nothing is undone.
        super().__init__(manager, auto_decompress=False, **options)
        self._bounds = bounds
        self._gone: asyncio.Future[None] | None = None
        self._has_begun = False
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    # --- headers --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Expect a first request."""
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Take what has arrived; the headers of a request have to be whole in time."""
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._stop_awaiting_headers()
        elif self._is_idle():
            self._has_begun = True
            if self._header_timer is None:
                self._await_headers()

    def _await_headers(self) -> None:
        wait_s = self._bounds.header_timeout_s
        self._header_timer = self._loop.call_later(wait_s, self._give_headers_up)

    def _stop_awaiting_headers(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
            self._has_begun = False

    def _is_idle(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def _give_headers_up(self) -> None:
        self._header_timer = None
        if self.transport is None or not self._is_idle():
            return
        if self._has_begun:
            answer = _answer(web.HTTPRequestTimeout(), secrets.token_hex(16))
            self.transport.write(_as_bytes(answer))
            log.info("http.timeout", reason="headers")
        self.force_close()

    # --- answers --------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The caller does not keep up: much of an answer is still unsent."""
        super().pause_writing()
        self._await_reader(self.transport)

    def resume_writing(self) -> None:
        """The caller has read on."""
        super().resume_writing()
        self._stop_awaiting_reader()

    async def start(self) -> None:
        """Serve one request after the other; then little may be left unsent."""
        transport = self.transport
        try:
            await super().start()
        finally:
            if transport is not None and transport.get_write_buffer_size():
                self._await_reader(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let everything go."""
        super().connection_lost(exc)
        self._stop_awaiting_headers()
        self._stop_awaiting_reader()
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    def _await_reader(self, transport: asyncio.Transport | None) -> None:
        if transport is None or self._write_timer is not None:
            return
        wait_s, unsent = self._bounds.write_timeout_s, transport.get_write_buffer_size()
        self._write_timer = self._loop.call_later(
            wait_s, self._cut_unless_read, transport, unsent - LEAST_READ_BYTES
        )

    def _stop_awaiting_reader(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _cut_unless_read(self, transport: asyncio.Transport, expected: int) -> None:
        """Drop what is unsent, if that is more than expected; closing would wait."""
        self._write_timer = None
        if transport.get_write_buffer_size() <= expected:
            self._await_reader(transport)
            return
        log.info("http.timeout", reason="write")
        transport.abort()

    # --- what is no request ---------------------------------------------------------

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what aiohttp could not read, or an error nobody has answered yet."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has been begun already")
        error = self._as_error(exc) if status == 400 else exc or RuntimeError(message)
        request_id = request_id_of(request)
        response = _answer(error, request_id)
        if kind_of(error) is INTERNAL_ERROR:
            log.error("http.error", exc_info=error, request_id=request_id)
        else:
            log.info(
                "http.refused",
                request_id=request_id,
                **{
                    "http.response.status_code": response.status,
                    "error.type": type(exc).__name__,
                },
            )
        return response

    def _as_error(self, exc: BaseException | None) -> web.HTTPException:
        if not isinstance(exc, LineTooLong):
            return web.HTTPBadRequest()
        _, limit, *_ = exc.args
        if limit == self._bounds.max_line_bytes:
            return web.HTTPRequestURITooLong()
        return web.HTTPRequestHeaderFieldsTooLarge()

    # --- the end --------------------------------------------------------------------

    def close_after_next(self, factory: Any) -> None:
        """Answer one more request at most; `factory` makes it one that closes."""
        self._request_factory = factory

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109
        """Finish the request in flight and send its answer, all within `timeout`."""
        transport = self.transport
        try:
            async with asyncio.timeout(timeout):
                await super().shutdown(None)
                await self._until_gone()
        except TimeoutError:
            await super().shutdown(AT_ONCE_S)
            if transport is not None:
                transport.abort()

    async def _until_gone(self) -> None:
        """Until the transport is closed, which first sends what is left."""
        if self._manager is not None:
            self._gone = self._loop.create_future()
            await self._gone


class ConnectionServer(web.Server):
    """A `web.Server` of such connections, which can be told to drain."""

    def __init__(self, handler: Handler, bounds: Bounds, **options: Any) -> None:
        super().__init__(handler, **options)
        self._bounds = bounds

    @classmethod
    def of(cls, server: web.Server, bounds: Bounds) -> "ConnectionServer":
        """The same server with such connections."""
        return cls(
            server.request_handler,
            bounds,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
            loop=server._loop,
            **server._kwargs,
        )

    def __call__(self) -> web.RequestHandler:
        """A connection that has just been accepted."""
        return Connection(self, self._bounds, loop=self._loop, **self._kwargs)

    def drain(self) -> None:
        """From now on every answer is the last of its connection, and says so."""
        make = self.request_factory

        def make_last(message: Any, *rest: Any) -> web.BaseRequest:
            return make(message._replace(should_close=True), *rest)

        self.request_factory = make_last
        for connection in self.connections:
            if isinstance(connection, Connection):
                connection.close_after_next(make_last)


def _answer(error: BaseException, request_id: str) -> web.Response:
    """A problem after which the connection is of no use."""
    response = answer_problem(error, request_id)
    response.headers[REQUEST_ID_HEADER] = request_id
    response.force_close()
    return response


def _as_bytes(response: web.Response) -> bytes:
    """A response to a request of which nothing is known, as it is sent."""
    body = response.body if isinstance(response.body, bytes) else b""
    response.headers[hdrs.CONTENT_LENGTH] = str(len(body))
    response.headers[hdrs.CONNECTION] = "close"
    lines = [f"{name}: {value}" for name, value in response.headers.items()]
    head = "\r\n".join([f"HTTP/1.1 {response.status} {response.reason}", *lines])
    return head.encode() + b"\r\n\r\n" + body
