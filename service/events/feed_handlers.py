"""Answers of the feed: JSON, NDJSON or Parquet, with a link to the next page always."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from aiohttp import hdrs, web

from service.events.feed_parquet import ParquetPage
from service.events.feed_statements import Place
from service.events.follow import JSON, NDJSON, PARQUET, Follower, Part, Request
from service.events.model import EventList
from service.observability.stages import stage
from service.web.auth import KEY, authorize_again
from service.web.client_stream import ClientStream, while_connected
from service.web.connection_reset import reset_connection
from service.web.links import next_link
from service.web.long_polls import parked
from service.web.negotiation import choose
from service.web.request_context import REQUEST_ID, REQUEST_ID_HEADER
from service.web.routes import NO_STORE, json_answer

FOLLOWER: Final = web.AppKey("follower", Follower)
FORMATS: Final = {
    JSON: JSON,
    NDJSON: NDJSON,
    "application/ndjson": NDJSON,
    PARQUET: PARQUET,
}
"""Accepted media types, with the form in which the feed is read for each."""
SLICE_BYTES: Final = 64 * 1024

EnterLane = AbstractAsyncContextManager[object]


def media_type_for(request: web.Request) -> str:
    """Return the media type of the answer; raises `RequestProblem` (406)."""
    return choose(request.headers.get(hdrs.ACCEPT, ""), tuple(FORMATS))


async def answer_feed(
    request: web.Request, wanted: Request, wait_s: float, lane: EnterLane
) -> web.StreamResponse:
    """Answer a request for the feed, after a wait or in the lane of queries."""
    follower = request.app[FOLLOWER]
    if wait_s and request.method != hdrs.METH_HEAD:
        part = await _wait(request, follower, wanted, wait_s)
    else:
        async with lane:
            with stage("storage"):
                part = await follower.read(wanted)
    if wanted.media_type == JSON:
        events = EventList(list(part.content or ()))
        return json_answer(events, _headers(request, part.end))
    return await _send(request, follower, wanted, part)


async def _wait(
    request: web.Request, follower: Follower, wanted: Request, wait_s: float
) -> Part:
    with follower.waits.enter(request[KEY].application), parked(request):
        async with while_connected(request):
            part = await follower.wait(wanted, wait_s)
    # The key may have been revoked meanwhile.
    await authorize_again(request)
    return part


async def _send(
    request: web.Request, follower: Follower, wanted: Request, part: Part
) -> web.StreamResponse:
    """Send a page at once if it is one chunk, and as a stream otherwise."""
    encoder = await _open(wanted.media_type)
    first = await encoder.add(part.content)
    with follower.streaming() as may_stream:
        if part.is_whole or not may_stream:
            headers = _headers(request, part.end) | _type(request)
            return web.Response(body=first + await encoder.end(), headers=headers)
        headers = _headers(request, part.page.range.until) | _type(request)
        headers[REQUEST_ID_HEADER] = request[REQUEST_ID]
        response = web.StreamResponse(headers=headers)
        if request.method == hdrs.METH_HEAD:
            return response
        stream = ClientStream(request, response)
        await stream.start()
        try:
            await _write(stream, first)
            async for chunk in follower.rest(wanted, part):
                await _write(stream, await encoder.add(chunk.content))
            await _write(stream, await encoder.end())
            await stream.finish()
        except BaseException:
            # The client must not take a part for the whole page.
            if request.transport is not None and not request.transport.is_closing():
                reset_connection(request.transport)
            raise
        return response


async def _write(stream: ClientStream, content: bytes) -> None:
    view = memoryview(content)
    for start in range(0, len(view), SLICE_BYTES):
        await stream.write(view[start : start + SLICE_BYTES])


class Encoder(Protocol):
    """Makes the bytes of an answer from the chunks of a page."""

    async def add(self, content: Any, /) -> bytes:
        """Return the bytes that a chunk adds."""

    async def end(self) -> bytes:
        """Return the last bytes."""


class _Lines:
    """NDJSON, whose chunks are bytes already."""

    async def add(self, content: Any, /) -> bytes:
        lines: bytes = content or b""
        return lines

    async def end(self) -> bytes:
        return b""


class _Parquet:
    """Parquet, encoded in a thread."""

    def __init__(self, page: ParquetPage) -> None:
        self._page = page

    async def add(self, content: Any, /) -> bytes:
        return await asyncio.to_thread(self._page.add, content or ())

    async def end(self) -> bytes:
        return await asyncio.to_thread(self._page.end)


async def _open(media_type: str) -> Encoder:
    if media_type == NDJSON:
        return _Lines()
    return _Parquet(await asyncio.to_thread(ParquetPage))


def _headers(request: web.Request, end: Place) -> dict[str, str]:
    return {**NO_STORE, hdrs.VARY: hdrs.ACCEPT, **next_link(request, end)}


def _type(request: web.Request) -> dict[str, str]:
    return {hdrs.CONTENT_TYPE: media_type_for(request)}
