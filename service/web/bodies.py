"""Reading a request's body: no larger, no slower and no other than is agreed."""

import asyncio
import zlib
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.http_exceptions import BadHttpMessage

from service.web.problems import (
    BODY_INCOMPLETE,
    BODY_TOO_LARGE,
    BODY_TOO_SLOW,
    UNSUPPORTED_MEDIA_TYPE,
    RequestProblem,
)

CODINGS: Final = frozenset({"", "identity", "gzip", "deflate"})
GZIP_BITS: Final = 16 + zlib.MAX_WBITS
ZLIB_METHOD: Final = 8
"""What zlib's head begins with; some call deflate what has none."""
CHARSETS: Final = frozenset({"", "utf-8", "utf8", "us-ascii"})
"""JSON is UTF-8 (RFC 8259), whoever says otherwise would be misread."""


async def read_body(
    request: web.Request, media_types: tuple[str, ...], *, most: int, within_s: float
) -> bytes:
    """The whole body, decompressed: at most `most` bytes, in at most `within_s`.

    Raises `RequestProblem` where it is of another type or coding, too large, too slow
    or cut off. A compressed body is given up as soon as it has grown too large.
    """
    coding = _check_form(request, media_types)
    if (request.content_length or 0) > most:
        raise _too_large(most)
    body = _Body(coding, most)
    try:
        async with asyncio.timeout(within_s):
            async for chunk in request.content.iter_any():
                body.feed(chunk)
        return body.whole()
    except TimeoutError:
        detail = f"the body has not come within {within_s:g} s"
        raise RequestProblem(BODY_TOO_SLOW, detail) from None
    except (
        *(web.HTTPException, web.RequestPayloadError, BadHttpMessage),
        *(zlib.error, EOFError, OSError),
    ):
        detail = "the body is cut off, or not compressed as it says"
        raise RequestProblem(BODY_INCOMPLETE, detail) from None


class _Body:
    """A body as it grows, decompressed no further than it may grow.

    aiohttp's own decompressing takes a gzip that is cut off for a whole one, and goes
    on in bodies that are refused already; `service.web.connections` turns it off.
    """

    def __init__(self, coding: str, most: int) -> None:
        self._coding = coding
        self._most = most
        self._whole = bytearray()
        self._unpacker: Any = None

    def feed(self, chunk: bytes) -> None:
        """Take what has come; raises `RequestProblem` beyond the bound."""
        while chunk:
            chunk = self._unpack(chunk) if self._coding else self._take(chunk)
            if len(self._whole) > self._most:
                raise _too_large(self._most)

    def whole(self) -> bytes:
        """All of it; `EOFError` where something is missing."""
        if self._coding and not (self._unpacker and self._unpacker.eof):
            raise EOFError
        return bytes(self._whole)

    def _take(self, chunk: bytes) -> bytes:
        self._whole += chunk
        return b""

    def _unpack(self, chunk: bytes) -> bytes:
        """Decompress up to a byte beyond the bound; gives what is left to do."""
        if self._unpacker is None or self._unpacker.eof:  # gzip may have many members
            self._unpacker = zlib.decompressobj(_bits(self._coding, chunk[0]))
        room = self._most + 1 - len(self._whole)
        self._whole += self._unpacker.decompress(chunk, room)
        left: bytes = self._unpacker.unconsumed_tail or self._unpacker.unused_data
        return left


def _bits(coding: str, first: int) -> int:
    """How zlib is told what it has to undo."""
    if coding == "gzip":
        return GZIP_BITS
    has_head = first & 0xF == ZLIB_METHOD
    return zlib.MAX_WBITS if has_head else -zlib.MAX_WBITS


def _check_form(request: web.Request, media_types: tuple[str, ...]) -> str:
    """The coding that is to be undone; raises `RequestProblem`."""
    if request.content_type not in media_types:
        detail = f"taken: {', '.join(media_types)}"
        raise RequestProblem(UNSUPPORTED_MEDIA_TYPE, detail)
    if (request.charset or "").lower() not in CHARSETS:
        raise RequestProblem(UNSUPPORTED_MEDIA_TYPE, "charset taken: utf-8")
    coding = request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
    if coding not in CODINGS:
        raise RequestProblem(UNSUPPORTED_MEDIA_TYPE, "codings taken: gzip, deflate")
    # A server without our connections, such as aiohttp's own for tests, has undone it.
    is_undone = request.body_exists and (
        getattr(request.content, "total_compressed_bytes", None) is not None
    )
    return "" if is_undone or coding == "identity" else coding


def _too_large(most: int) -> RequestProblem:
    return RequestProblem(BODY_TOO_LARGE, f"at most {most} bytes, once decompressed")
