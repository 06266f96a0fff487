"""Large answers: sent in slices of one body, at the speed at which the client reads.

A body is never copied for a client. Equal answers to several clients share one body.
"""

from contextlib import nullcontext
from typing import Final

from aiohttp import hdrs, web

from service.web.client_stream import ClientStream
from service.web.http_cache.encodings import BodyBytes
from service.web.unsent_bytes import UNSENT

MAX_BLOCK_BYTES: Final = 64 * 1024
"""Smaller bodies are sent in one write."""
SLICE_BYTES: Final = 32 * 1024
"""What a connection buffers at once for a client that does not read."""


class LargeAnswer(web.StreamResponse):
    """An answer whose body is a buffer, which `send_large` sends."""

    def __init__(
        self,
        body: BodyBytes,
        headers: dict[str, str],
        *,
        status: int = 200,
        is_cached: bool = False,
        owner: object = None,
    ) -> None:
        super().__init__(status=status, headers=headers)
        self.body = body
        self.owner = owner
        """What a weak cache refers to, so that other requests find the same body."""
        self.is_cached = is_cached
        """True for a body that stays in memory after it is sent."""


def answer_buffer(
    body: BodyBytes, headers: dict[str, str], *, owner: object
) -> web.StreamResponse:
    """Return an answer with a body of any size; its `owner` lives until it is sent."""
    if len(body) > MAX_BLOCK_BYTES:
        return LargeAnswer(body, headers, owner=owner)
    return web.Response(body=bytes(body), headers=headers)


async def send_large(
    request: web.Request, response: web.StreamResponse
) -> web.StreamResponse:
    """Send an answer with a large body, and return it; any other one is returned.

    Raises `ClientDisconnected`.
    """
    body = response.body if isinstance(response, web.Response | LargeAnswer) else None
    if not isinstance(body, BodyBytes) or len(body) <= MAX_BLOCK_BYTES:
        return response
    transport, unsent = request.transport, request.app.get(UNSENT)
    is_counted = not (isinstance(response, LargeAnswer) and response.is_cached)
    counted = (
        unsent.sending(transport, body, len(body))
        if is_counted and unsent is not None and transport is not None
        else nullcontext()
    )
    with counted:
        return await _send_in_slices(request, response, body)


async def _send_in_slices(
    request: web.Request, response: web.StreamResponse, body: BodyBytes
) -> web.StreamResponse:
    sent = web.StreamResponse(status=response.status, headers=response.headers)
    sent.headers[hdrs.CONTENT_LENGTH] = str(len(body))
    stream = ClientStream(request, sent)
    await stream.start()
    if request.method != hdrs.METH_HEAD:
        view = memoryview(body)
        for start in range(0, len(view), SLICE_BYTES):
            await stream.write(view[start : start + SLICE_BYTES])
    await stream.finish()
    return sent
