"""Reading of request bodies, bounded in size and time."""

import asyncio
import zlib
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http_exceptions import BadHttpMessage
from multidict import CIMultiDict, CIMultiDictProxy

from service.observability.stages import stage
from service.settings import Settings
from service.web.auth import authorize_again
from service.web.header_values import joined
from service.web.lanes import Lane, LaneKinds, LaneLimits
from service.web.limits import Limits
from service.web.problems import (
    BODIES_FULL,
    BODY_INCOMPLETE,
    BODY_TOO_LARGE,
    BODY_TOO_SLOW,
    INVALID_BODY,
    NOT_JSON,
    UNSUPPORTED_MEDIA_TYPE,
    RequestProblem,
)

CODINGS: Final = frozenset({"", "identity", "gzip", "deflate"})
GZIP_BITS: Final = 16 + zlib.MAX_WBITS
ZLIB_METHOD: Final = 8
"""Compression method in the first byte of a zlib header (RFC 1950)."""
CHARSETS: Final = frozenset({"", "utf-8", "utf8", "us-ascii"})
"""JSON is UTF-8 (RFC 8259), so a body of another charset would be misread."""

JSON_TYPE: Final = "application/json"

BODY_PROBLEMS: Final = (
    BODY_INCOMPLETE,
    BODY_TOO_SLOW,
    BODY_TOO_LARGE,
    UNSUPPORTED_MEDIA_TYPE,
)
"""Problems of every endpoint that reads a body."""
JSON_PROBLEMS: Final = (NOT_JSON, INVALID_BODY, *BODY_PROBLEMS)
"""Problems of every endpoint that uses `read_json`."""

T = TypeVar("T")

EXPECTS_CONTINUE: Final = web.RequestKey("expects_continue", bool)
"""Whether the client waits for `100 Continue` before it sends the body."""
BODIES: Final = web.AppKey("bodies", Lane)
"""The lane of bodies that have not arrived as a whole."""


def open_lane(limits: Limits, settings: Settings) -> Lane:
    """Return the lane of bodies; half of the requests in flight may be in it."""
    bounds = LaneLimits.of(
        settings.limits,
        concurrency=max(1, settings.server.max_in_flight // 2),
        time_limit_s=settings.server.request_timeout_s,
    )
    kinds = LaneKinds(BODIES_FULL, BODY_TOO_SLOW)
    return Lane("bodies", kinds, bounds, limits.clients.group_of)


async def read_body(
    request: web.Request,
    media_types: tuple[str, ...],
    *,
    max_bytes: int,
    timeout_s: float,
    is_urgent: bool = False,
) -> bytes:
    """Return the whole body, decompressed.

    `max_bytes` bounds the decompressed size: reading stops as soon as it is exceeded.
    An urgent body does not enter the lane of bodies. Raises `RequestProblem` for
    another type or coding, for a body that is too large, too slow or incomplete, and
    for a key that was revoked meanwhile.
    """
    coding = _check_form(request, media_types)
    # Refuse a declared length before reading anything.
    if (request.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)
    body = _BodyBuffer(coding, max_bytes)
    try:
        # Most bodies arrive with their headers, and wait for nobody.
        if request.content.is_eof():
            body.feed(request.content.read_nowait())
        else:
            await _receive(request, body, timeout_s, is_urgent=is_urgent)
            await authorize_again(request)
        return body.finish()
    except TimeoutError:
        detail = f"the body did not arrive within {timeout_s:g} s"
        raise RequestProblem(BODY_TOO_SLOW, detail) from None
    except (
        *(web.HTTPException, web.RequestPayloadError, BadHttpMessage),
        *(zlib.error, EOFError, OSError),
    ):
        detail = "the body is cut off, or not compressed as its headers say"
        raise RequestProblem(BODY_INCOMPLETE, detail) from None


async def _receive(
    request: web.Request, body: "_BodyBuffer", timeout_s: float, *, is_urgent: bool
) -> None:
    """Add the rest of the body to the buffer, as it arrives; raises `TimeoutError`."""
    lane = nullcontext() if is_urgent else _lane_of(request)
    with stage("read_body"):
        async with lane, asyncio.timeout(timeout_s):
            await _ask_for_body(request)
            async for chunk in request.content.iter_any():
                body.feed(chunk)


async def read_json(
    request: web.Request,
    kind: type[T],
    *,
    max_bytes: int,
    timeout_s: float,
    is_urgent: bool = False,
) -> T:
    """Return the JSON body as a value of this type; raises `RequestProblem`.

    The arguments are those of `read_body`.
    """
    if not request.body_exists:
        raise _empty()
    body = await read_body(
        request,
        (JSON_TYPE,),
        max_bytes=max_bytes,
        timeout_s=timeout_s,
        is_urgent=is_urgent,
    )
    if not body.strip():
        raise _empty()
    try:
        return msgspec.json.decode(body, type=kind)
    # These texts name fields and positions. They quote no value, which could be a key.
    except msgspec.ValidationError as error:
        raise RequestProblem(INVALID_BODY, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestProblem(NOT_JSON, str(error)) from None


def postpone_continue(request: web.BaseRequest) -> None:
    """Leave `Expect: 100-continue` to `read_body`.

    So a client that is refused sends no body. aiohttp would send 100 before it calls
    any handler, also that of a path that does not exist.
    """
    request[EXPECTS_CONTINUE] = True
    headers = CIMultiDict(request.headers)
    headers.popall(hdrs.EXPECT)
    request._headers = CIMultiDictProxy(headers)
    request._cache.pop("headers", None)  # a copy of what was just replaced


def may_send_body(request: web.BaseRequest) -> bool:
    """Return whether a refused client may still send its body.

    It may also send the next request instead, so its connection has to close.
    """
    return EXPECTS_CONTINUE in request and not request.content.is_eof()


async def _ask_for_body(request: web.Request) -> None:
    """Send `100 Continue` to a client that waits for it (RFC 9110 §10.1.1)."""
    if EXPECTS_CONTINUE not in request:
        return
    if request.version == HttpVersion11:
        writer = request.writer
        await writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        writer.output_size = 0  # aiohttp counts the bytes of the final answer


def _lane_of(request: web.Request) -> AbstractAsyncContextManager[object]:
    lane = request.app.get(BODIES)
    return nullcontext() if lane is None else lane.enter(request)


def max_size(request: web.Request, max_bytes: int) -> int:
    """Return the maximum size of a request's body, before anything of it is read.

    It is the declared length, or `max_bytes` if the body is chunked or compressed.
    """
    length = request.content_length
    if length is None or request.headers.get(hdrs.CONTENT_ENCODING):
        return max_bytes if request.body_exists else 0
    return min(length, max_bytes)


class _BodyBuffer:
    """The received part of a body, decompressed up to its maximum size."""

    # aiohttp's own decompression accepts a gzip body that is cut off, and goes on in
    # bodies that are refused already; `service.server.connections` turns it off.

    def __init__(self, coding: str, max_bytes: int) -> None:
        self._coding = coding
        self._max_bytes = max_bytes
        self._received = bytearray()
        self._decompressor: Any = None

    def feed(self, chunk: bytes) -> None:
        """Add a received chunk; raises `RequestProblem` beyond the maximum."""
        while chunk:
            chunk = self._decompress(chunk) if self._coding else self._append(chunk)
            if len(self._received) > self._max_bytes:
                raise _too_large(self._max_bytes)

    def finish(self) -> bytes:
        """Return the whole body; raises `EOFError` if its end is missing."""
        if self._coding and not (self._decompressor and self._decompressor.eof):
            raise EOFError
        return bytes(self._received)

    def _append(self, chunk: bytes) -> bytes:
        self._received += chunk
        return b""

    def _decompress(self, chunk: bytes) -> bytes:
        """Decompress up to one byte beyond the maximum, and return the unused input."""
        # A gzip body may have several members.
        if self._decompressor is None or self._decompressor.eof:
            self._decompressor = zlib.decompressobj(_bits(self._coding, chunk[0]))
        # One byte beyond the maximum is enough to detect a larger body.
        room = self._max_bytes + 1 - len(self._received)
        self._received += self._decompressor.decompress(chunk, room)
        unused: bytes = (
            self._decompressor.unconsumed_tail or self._decompressor.unused_data
        )
        return unused


def _bits(coding: str, first_byte: int) -> int:
    """Return zlib's window bits for a coding, which also select the header's form."""
    if coding == "gzip":
        return GZIP_BITS
    # Some clients send deflate without the zlib header that RFC 9110 requires.
    has_header = first_byte & 0xF == ZLIB_METHOD
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS


def _check_form(request: web.Request, media_types: tuple[str, ...]) -> str:
    """Return the coding to decompress, empty for none; raises `RequestProblem`."""
    if request.content_type not in media_types:
        detail = f"accepted: {', '.join(media_types)}"
        raise RequestProblem(UNSUPPORTED_MEDIA_TYPE, detail)
    if (request.charset or "").lower() not in CHARSETS:
        raise RequestProblem(UNSUPPORTED_MEDIA_TYPE, "accepted charset: utf-8")
    coding = (joined(request.headers, hdrs.CONTENT_ENCODING) or "").strip().lower()
    if coding not in CODINGS:
        raise RequestProblem(UNSUPPORTED_MEDIA_TYPE, "accepted codings: gzip, deflate")
    # Servers without `ClientConnection`, such as aiohttp's for tests, decompress first.
    is_decompressed = request.body_exists and (
        getattr(request.content, "total_compressed_bytes", None) is not None
    )
    return "" if is_decompressed or coding == "identity" else coding


def _empty() -> RequestProblem:
    return RequestProblem(NOT_JSON, "the body is empty; send a JSON object")


def _too_large(max_bytes: int) -> RequestProblem:
    detail = f"the maximum is {max_bytes} bytes, after decompression"
    return RequestProblem(BODY_TOO_LARGE, detail)
