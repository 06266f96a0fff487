"""Sending a held answer: its headers, conditional requests, and one block of bytes.

Held answers are most of the traffic. aiohttp builds and serialises the headers of each
response anew; here the head is built once a second for each variant and leaves with
the body in one write. What cannot go that way (a large body, HTTP/1.0, a connection
about to close) goes aiohttp's.
"""

import time
from functools import lru_cache
from typing import Final

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE

from service.usage.encodings import CODINGS, IDENTITY, Answer, Coding, Variant
from service.usage.freshness import Freshness
from service.web.block import BlockResponse
from service.web.context import CACHE_RESULT, REQUEST_ID, REQUEST_ID_HEADER
from service.web.negotiation import quality_of

LARGEST_BLOCK_BYTES: Final = 64 * 1024
SLICE_BYTES: Final = 256 * 1024
_OK: Final = 200
_NOT_MODIFIED: Final = 304
_STATUS_LINES: Final = {
    _OK: "HTTP/1.1 200 OK",
    _NOT_MODIFIED: "HTTP/1.1 304 Not Modified",
}
_MOST_HEADS: Final = 64

_heads: dict[tuple[int, Coding, int], tuple[Freshness, int, bytes]] = {}


async def send_held(
    request: web.Request, answer: Answer, freshness: Freshness
) -> web.StreamResponse:
    """Answer with the best variant for this caller, or 304 if they have it."""
    request[CACHE_RESULT] = freshness.result
    block = as_block(request, answer, freshness, request[REQUEST_ID])
    if block is not None:
        return block
    return await _send_in_slices(request, answer, freshness)


def as_block(
    request: web.BaseRequest, answer: Answer, freshness: Freshness, request_id: str
) -> BlockResponse | None:
    """The same as one block, or None where it has to go aiohttp's way."""
    variant, status = _choose(request, answer)
    body = variant.body if status == _OK else b""
    if len(body) > LARGEST_BLOCK_BYTES or not _keeps_connection(request):
        return None
    head = _head(answer, variant, freshness, status)
    id_line = f"{REQUEST_ID_HEADER}: {request_id}\r\n\r\n".encode()
    if request.method == hdrs.METH_HEAD:
        body = b""
    return BlockResponse(status, head, id_line, body, body_size=len(body))


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


@lru_cache(maxsize=256)
def codings_for(accept_encoding: str) -> tuple[Coding, ...]:
    """The codings that a caller takes, by their wish and then by ours."""
    qualities = {coding: quality_of(coding, accept_encoding) for coding in CODINGS[:-1]}
    taken = [coding for coding, quality in qualities.items() if quality > 0]
    taken.sort(key=qualities.__getitem__, reverse=True)
    return (*taken, IDENTITY)


def _choose(request: web.BaseRequest, answer: Answer) -> tuple[Variant, int]:
    """The best variant for this caller, and 304 if they have it."""
    variant = answer.best(codings_for(request.headers.get(hdrs.ACCEPT_ENCODING, "")))
    return variant, _NOT_MODIFIED if _is_known(request, variant) else _OK


def _is_known(request: web.BaseRequest, variant: Variant) -> bool:
    """Whether the caller's `If-None-Match` names this variant (RFC 9110 §13.1.2)."""
    given = request.headers.get(hdrs.IF_NONE_MATCH)
    if given is None:
        return False
    if given == variant.etag:
        return True
    tags = (tag.strip().removeprefix("W/") for tag in given.split(","))
    return any(tag in {variant.etag, "*"} for tag in tags)


def _keeps_connection(request: web.BaseRequest) -> bool:
    return request.version == HttpVersion11 and request.keep_alive


def _head(answer: Answer, variant: Variant, freshness: Freshness, status: int) -> bytes:
    """The status line and headers but the request's own, built anew each second."""
    key, second = (answer.serial, variant.coding, status), int(time.time())
    built = _heads.get(key)
    if built is not None and built[0] == freshness and built[1] == second:
        return built[2]
    headers = _headers(answer, variant, freshness, status)
    headers[hdrs.DATE] = rfc822_formatted_time()
    headers[hdrs.SERVER] = SERVER_SOFTWARE
    lines = [_STATUS_LINES[status], *(f"{name}: {headers[name]}" for name in headers)]
    head = ("\r\n".join(lines) + "\r\n").encode("latin-1")
    if len(_heads) >= _MOST_HEADS:
        _heads.clear()
    _heads[key] = (freshness, second, head)
    return head


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
    variant, status = _choose(request, answer)
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
