"""Sending of cached answers: headers, conditional requests, and one write.

A cached answer is one block, head and body in one write. A large body, HTTP/1.0 and a
connection that is about to close use aiohttp's response instead.
"""

from typing import Final

from aiohttp import ClientConnectionResetError, HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time

from service.web.bodies import may_send_body
from service.web.header_values import joined
from service.web.http_cache.conditional import check_if_match, is_not_modified
from service.web.http_cache.encodings import IDENTITY, Answer, BodyBytes, Variant
from service.web.http_cache.freshness import Freshness
from service.web.large_answers import MAX_BLOCK_BYTES, LargeAnswer
from service.web.limits import rate_lines
from service.web.negotiation import codings_for
from service.web.page_headers import NO_SNIFFING
from service.web.request_context import CACHE_RESULT, REQUEST_ID, REQUEST_ID_HEADER

MAX_BUFFERED_BYTES: Final = 64 * 1024
"""Unsent bytes of a connection above which its next answer waits for the client."""
_OK: Final = 200
_NOT_MODIFIED: Final = 304
_STATUS_LINES: Final = {
    _OK: "HTTP/1.1 200 OK",
    _NOT_MODIFIED: "HTTP/1.1 304 Not Modified",
}


class BlockResponse(web.StreamResponse):
    """A response whose head and body are complete, and are sent in one write."""

    def __init__(self, status: int, *parts: BodyBytes, body_size: int) -> None:
        super().__init__(status=status)
        self._parts = parts
        self._body_length = body_size

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write all parts; aiohttp calls this when the handler has returned."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ClientConnectionResetError("the client has disconnected")
        self._keep_alive = True  # otherwise aiohttp closes the connection
        transport.write(b"".join(self._parts))
        # Otherwise pipelined requests could fill the memory with unread answers.
        if transport.get_write_buffer_size() > MAX_BUFFERED_BYTES:
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Mark the response as finished; `prepare` has written all of it."""
        self._eof_sent = True


def send_cached(
    request: web.Request, answer: Answer, freshness: Freshness
) -> web.StreamResponse:
    """Answer with the best variant for the client, or 304 if the client has it."""
    request[CACHE_RESULT] = freshness.result
    if hdrs.IF_MATCH in request.headers:
        accepted = joined(request.headers, hdrs.ACCEPT_ENCODING)
        check_if_match(request, choose_variant(answer, accepted, None)[0].etag)
    return as_block(request, answer, freshness) or _as_large(request, answer, freshness)


def as_block(
    request: web.Request, answer: Answer, freshness: Freshness
) -> BlockResponse | None:
    """Return the answer as one block, or None if aiohttp has to send it."""
    headers = request.headers
    accepted = joined(headers, hdrs.ACCEPT_ENCODING)
    known = joined(headers, hdrs.IF_NONE_MATCH)
    prepared = prepare_block(answer, freshness, accepted, known)
    if prepared is None or not keeps_connection(request):
        return None
    status, head, body = prepared
    if request.method == hdrs.METH_HEAD:
        body = b""
    lines = f"{REQUEST_ID_HEADER}: {request[REQUEST_ID]}\r\n{rate_lines(request)}\r\n"
    return BlockResponse(status, head, lines.encode(), body, body_size=len(body))


def prepare_block(
    answer: Answer, freshness: Freshness, accepted: str | None, known: str | None
) -> tuple[int, bytes, BodyBytes] | None:
    """Return status, head and body for these request headers; None if too large.

    `accepted` is `Accept-Encoding`, `known` is `If-None-Match`. The head lacks the
    lines of the single request, and the empty line.
    """
    variant, status = choose_variant(answer, accepted, known)
    body = variant.body if status == _OK else b""
    if len(body) > MAX_BLOCK_BYTES:
        return None
    headers = _headers(answer, variant, freshness, status)
    return status, _head(status, headers), body


def block_of(response: web.Response) -> tuple[int, bytes, BodyBytes]:
    """Return status, head and body of a response for aiohttp, dated now."""
    body = response.body
    assert isinstance(body, bytes)  # noqa: S101 - all of ours are
    headers = {**response.headers, hdrs.CONTENT_LENGTH: str(len(body))}
    return response.status, _head(response.status, headers), body


def _head(status: int, headers: dict[str, str]) -> bytes:
    """Return the head of a block, without the lines of the single request."""
    headers[hdrs.DATE] = rfc822_formatted_time()
    headers |= NO_SNIFFING
    lines = [_STATUS_LINES[status], *(f"{name}: {headers[name]}" for name in headers)]
    return ("\r\n".join(lines) + "\r\n").encode("latin-1")


def cache_headers(
    answer_headers: dict[str, str], freshness: Freshness
) -> dict[str, str]:
    """Return the headers of an answer, with those of its freshness."""
    return {
        **answer_headers,
        hdrs.CACHE_CONTROL: freshness.cache_control,
        hdrs.AGE: str(freshness.age_s),
        "Cache-Status": freshness.cache_status,
        hdrs.VARY: freshness.vary,
    }


def choose_variant(
    answer: Answer, accepted: str | None, known: str | None
) -> tuple[Variant, int]:
    """Return the best variant and a status: 304 if `If-None-Match` names it."""
    variant = answer.best(codings_for(accepted or ""))
    return variant, _NOT_MODIFIED if is_not_modified(known, variant.etag) else _OK


def keeps_connection(request: web.BaseRequest) -> bool:
    """Return whether HTTP/1.1 keeps the connection open after this request."""
    if not request.keep_alive or request.version != HttpVersion11:
        return False
    return not may_send_body(request)


def _headers(
    answer: Answer, variant: Variant, freshness: Freshness, status: int
) -> dict[str, str]:
    headers = cache_headers(answer.headers, freshness)
    headers[hdrs.ETAG] = variant.etag
    if status == _OK:
        headers[hdrs.CONTENT_TYPE] = answer.content_type
        headers[hdrs.CONTENT_LENGTH] = str(len(variant.body))
        if variant.coding != IDENTITY:
            headers[hdrs.CONTENT_ENCODING] = variant.coding
    return headers


def _as_large(
    request: web.Request, answer: Answer, freshness: Freshness
) -> web.StreamResponse:
    """Return the answer for aiohttp, which sends it at the speed of the client."""
    accepted = joined(request.headers, hdrs.ACCEPT_ENCODING)
    known = joined(request.headers, hdrs.IF_NONE_MATCH)
    variant, status = choose_variant(answer, accepted, known)
    headers = _headers(answer, variant, freshness, status)
    if status != _OK:
        return web.Response(status=status, headers=headers)
    if len(variant.body) > MAX_BLOCK_BYTES:
        return LargeAnswer(variant.body, headers, is_cached=True)
    return web.Response(body=bytes(variant.body), headers=headers)
