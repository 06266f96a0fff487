"""Sending a held answer: its headers, conditional requests, and one block of bytes.

A held answer leaves as one block, head and body in one write. What cannot go that way
(a large body, HTTP/1.0, a connection about to close) goes aiohttp's.
"""

from typing import Final

from aiohttp import ClientConnectionResetError, HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE

from service.usage.encodings import IDENTITY, Answer, Variant
from service.usage.freshness import Freshness
from service.usage.snapshots.columns import Buffer
from service.web.context import CACHE_RESULT, REQUEST_ID, REQUEST_ID_HEADER
from service.web.limits import rate_lines
from service.web.negotiation import codings_for

LARGEST_BLOCK_BYTES: Final = 64 * 1024
SLICE_BYTES: Final = 256 * 1024
MAX_BUFFERED_BYTES: Final = 256 * 1024
"""Unsent bytes of one connection from which on a caller has to read first."""
_OK: Final = 200
_NOT_MODIFIED: Final = 304
_STATUS_LINES: Final = {
    _OK: "HTTP/1.1 200 OK",
    _NOT_MODIFIED: "HTTP/1.1 304 Not Modified",
}


class BlockResponse(web.StreamResponse):
    """A response of which every byte is known: it is written at once, as it stands."""

    def __init__(self, status: int, *parts: Buffer, body_size: int) -> None:
        super().__init__(status=status)
        self._parts = parts
        self._body_length = body_size

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write everything; aiohttp calls this when the handler has returned."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ClientConnectionResetError("the caller has left")
        self._keep_alive = True  # aiohttp closes the connection where this is unset
        transport.write(b"".join(self._parts))
        if transport.get_write_buffer_size() > MAX_BUFFERED_BYTES:
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Note that nothing is left to write."""
        self._eof_sent = True


async def send_held(
    request: web.Request, answer: Answer, freshness: Freshness
) -> web.StreamResponse:
    """Answer with the best variant for this caller, or 304 if they have it."""
    request[CACHE_RESULT] = freshness.result
    block = as_block(request, answer, freshness)
    if block is not None:
        return block
    return await _send_in_slices(request, answer, freshness)


def as_block(
    request: web.Request, answer: Answer, freshness: Freshness
) -> BlockResponse | None:
    """The same as one block, or None where it has to go aiohttp's way."""
    headers = request.headers
    accepted = headers.get(hdrs.ACCEPT_ENCODING)
    known = headers.get(hdrs.IF_NONE_MATCH)
    prepared = prepare_block(answer, freshness, accepted, known)
    if prepared is None or not keeps_connection(request):
        return None
    status, head, body = prepared
    if request.method == hdrs.METH_HEAD:
        body = b""
    own = f"{REQUEST_ID_HEADER}: {request[REQUEST_ID]}\r\n{rate_lines(request)}\r\n"
    return BlockResponse(status, head, own.encode(), body, body_size=len(body))


def prepare_block(
    answer: Answer, freshness: Freshness, accepted: str | None, known: str | None
) -> tuple[int, bytes, Buffer] | None:
    """Status, head and body for callers who accept and know this; None if too large.

    The head lacks the lines that are the request's own, and the empty line.
    """
    variant, status = choose_variant(answer, accepted, known)
    body = variant.body if status == _OK else b""
    if len(body) > LARGEST_BLOCK_BYTES:
        return None
    headers = _headers(answer, variant, freshness, status)
    return status, _head(status, headers), body


def block_of(response: web.Response) -> tuple[int, bytes, Buffer]:
    """Status, head and body of an answer that aiohttp would send, as of now."""
    body = response.body
    assert isinstance(body, bytes)  # noqa: S101 - ours are
    headers = {**response.headers, hdrs.CONTENT_LENGTH: str(len(body))}
    return response.status, _head(response.status, headers), body


def _head(status: int, headers: dict[str, str]) -> bytes:
    """The head of a block: without the lines that are the request's own."""
    headers[hdrs.DATE] = rfc822_formatted_time()
    headers[hdrs.SERVER] = SERVER_SOFTWARE
    lines = [_STATUS_LINES[status], *(f"{name}: {headers[name]}" for name in headers)]
    return ("\r\n".join(lines) + "\r\n").encode("latin-1")


def held_headers(
    answer_headers: dict[str, str], freshness: Freshness
) -> dict[str, str]:
    """The headers that say where an answer comes from and how long it holds."""
    return {
        **answer_headers,
        hdrs.CACHE_CONTROL: freshness.cache_control,
        hdrs.AGE: str(freshness.age_s),
        "Cache-Status": freshness.cache_status,
        hdrs.VARY: "Accept, Accept-Encoding",
    }


def choose_variant(
    answer: Answer, accepted: str | None, known: str | None
) -> tuple[Variant, int]:
    """The best variant by `Accept-Encoding`; 304 if `If-None-Match` names it."""
    variant = answer.best(codings_for(accepted or ""))
    return variant, _NOT_MODIFIED if is_known(known, variant) else _OK


def is_known(known: str | None, variant: Variant) -> bool:
    """Whether `If-None-Match` names this variant (RFC 9110 §13.1.2)."""
    if known is None:
        return False
    tags = (tag.strip().removeprefix("W/") for tag in known.split(","))
    return known.strip() == "*" or variant.etag in tags


def keeps_connection(request: web.BaseRequest) -> bool:
    """Whether the connection stays open, by the rules of HTTP/1.1."""
    return request.keep_alive and request.version == HttpVersion11


def _headers(
    answer: Answer, variant: Variant, freshness: Freshness, status: int
) -> dict[str, str]:
    headers = held_headers(answer.headers, freshness)
    headers[hdrs.ETAG] = variant.etag
    if status == _OK:
        headers[hdrs.CONTENT_TYPE] = answer.content_type
        headers[hdrs.CONTENT_LENGTH] = str(len(variant.body))
        if variant.coding != IDENTITY:
            headers[hdrs.CONTENT_ENCODING] = variant.coding
    return headers


async def _send_in_slices(
    request: web.Request, answer: Answer, freshness: Freshness
) -> web.StreamResponse:
    """Send through aiohttp, no faster than the caller reads."""
    accepted = request.headers.get(hdrs.ACCEPT_ENCODING)
    known = request.headers.get(hdrs.IF_NONE_MATCH)
    variant, status = choose_variant(answer, accepted, known)
    headers = _headers(answer, variant, freshness, status)
    headers[REQUEST_ID_HEADER] = request[REQUEST_ID]
    response = web.StreamResponse(status=status, headers=headers)
    await response.prepare(request)
    if status == _OK and request.method != hdrs.METH_HEAD:
        body = memoryview(variant.body)
        for at in range(0, len(body), SLICE_BYTES):
            await response.write(body[at : at + SLICE_BYTES])
    await response.write_eof()
    return response
