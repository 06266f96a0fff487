"""The faults of an upstream on a real connection, and the draw of a request's fault."""

import asyncio
import math
import struct
import zlib
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from random import Random
from typing import Final, NamedTuple

from aiohttp import web

from service.sandbox.options import SWITCHES, Faults
from service.web.connection_reset import reset_connection

MESSAGES_PATH: Final = "/messages/current-period"
REPORTS_PREFIX: Final = "/reports/"
REDIRECT_PREFIX: Final = "/elsewhere"
JSON: Final = {"Content-Type": "application/json"}
DRIP_PAUSE_S: Final = 0.02
DISCONNECT_CHECK_S: Final = 0.05
BLOCK: Final = b" " * 1024 * 1024
BOMB_BLOCKS: Final = 1024

VALID_MESSAGE: Final = (
    b'{"id":1000,"text":"When does the lease end?",'
    b'"timestamp":"2024-04-29T03:25:03.613Z"}'
)
HTML: Final = (
    "<!DOCTYPE html><html><head><title>Maintenance</title></head>"
    "<body><h1>Back in a minute</h1></body></html>"
)


class Reply(NamedTuple):
    """A reply of a healthy upstream; `etag` is the ETag without quotes."""

    status: int
    body: bytes
    etag: str | None = None
    content_type: str = "application/json"


class Call(NamedTuple):
    """A request that gets a fault, and the reply that it would get otherwise."""

    request: web.Request
    reply: Reply
    retry_after: str = ""


Fault = Callable[[Call], Awaitable[web.StreamResponse]]


async def not_found(_: Call) -> web.StreamResponse:
    return _refuse(404, "no such thing")


async def too_many_requests(call: Call) -> web.StreamResponse:
    return _refuse(429, "slow down", call.retry_after)


async def server_error(_: Call) -> web.StreamResponse:
    return _refuse(500, "something broke")


async def unavailable(call: Call) -> web.StreamResponse:
    return _refuse(503, "come back later", call.retry_after)


async def reset(call: Call) -> web.StreamResponse:
    transport = call.request.transport
    if transport is not None:
        reset_connection(transport)
    # `Sandbox.handle` catches it: an answer cannot be sent any more.
    raise ConnectionResetError


async def hang(call: Call) -> web.StreamResponse:
    # Not every runner cancels the handler when the client disconnects.
    while call.request.transport is not None:  # noqa: ASYNC110
        await asyncio.sleep(DISCONNECT_CHECK_S)
    # `Sandbox.handle` catches it: no client waits for an answer.
    raise ConnectionResetError


async def slow_drip(call: Call) -> web.StreamResponse:
    body = call.reply.body
    response = await _start(call, len(body))
    for position in range(len(body)):
        await response.write(body[position : position + 1])
        await asyncio.sleep(DRIP_PAUSE_S)
    return response


async def truncated(call: Call) -> web.StreamResponse:
    body = call.reply.body
    response = await _start(call, len(body))
    # The body is shorter than announced, so a reused connection would be out of step.
    response.force_close()
    await response.write(body[: len(body) // 2])
    return response


async def wrong_type(call: Call) -> web.StreamResponse:
    return _corrupt(
        call,
        message=b'{"id":1001,"text":61,"timestamp":"2024-04-29T03:25:04.000Z"}',
        report=b'{"id":1000,"name":"Short Lease Report","credit_cost":"61"}',
    )


async def missing_field(call: Call) -> web.StreamResponse:
    return _corrupt(
        call,
        message=b'{"id":1001,"text":"Is the rent due?"}',
        report=b'{"id":1000,"name":"Short Lease Report"}',
    )


async def html(_: Call) -> web.StreamResponse:
    return web.Response(text=HTML, content_type="text/html")


async def gzip_bomb(_: Call) -> web.StreamResponse:
    # In a thread, because the checksum of 1 GiB would block the event loop.
    bomb = await asyncio.to_thread(pack_spaces, BOMB_BLOCKS)
    return web.Response(body=bomb, headers={**JSON, "Content-Encoding": "gzip"})


async def redirect(call: Call) -> web.StreamResponse:
    request = call.request
    location = REDIRECT_PREFIX + request.rel_url.raw_path_qs
    # Clients follow a 302 with GET, whatever the method of the request was.
    status = 307 if request.method == "POST" else 302
    return web.Response(status=status, headers={"Location": location})


async def huge_body(call: Call) -> web.StreamResponse:
    response = await _start(call, None)
    while True:
        await response.write(BLOCK)
        # For a client that reads as fast as this writes, `write` never yields.
        await asyncio.sleep(0)


FAULTS: Final[dict[str, Fault]] = {
    fault.__name__: fault
    for fault in (
        not_found,
        too_many_requests,
        server_error,
        unavailable,
        reset,
        hang,
        slow_drip,
        truncated,
        wrong_type,
        missing_field,
        html,
        gzip_bomb,
        redirect,
        huge_body,
    )
}
"""The switches for any upstream, by their names, in their order."""


class FaultDraw:
    """Draws the fault of each request under one `Faults` object."""

    def __init__(self, faults: Faults, rng: Random) -> None:
        self._faults = faults
        self._rng = rng
        self._remaining: float = faults.times or math.inf
        self._chances = {
            name: probability
            for name in SWITCHES
            if (probability := getattr(faults, name))
        }

    def draw(self, path: str, faults: Mapping[str, Fault] = FAULTS) -> Fault | None:
        """Return one of the faults for a request to this raw path, or None."""
        enabled = [each for each in self._chances.items() if each[0] in faults]
        # A request to which no enabled fault applies must not use up `times`.
        if not enabled or not self._matches(path):
            return None
        # `times` counts matching requests, also those without a hit.
        self._remaining -= 1
        for name, probability in enabled:
            if self._rng.random() < probability:
                return faults[name]
        return None

    def _matches(self, path: str) -> bool:
        # The target of a redirect has no faults, or a client would loop.
        return (
            self._remaining > 0
            and path.startswith(self._faults.path)
            and not path.startswith(REDIRECT_PREFIX)
        )


@cache
def pack_spaces(blocks: int) -> bytes:
    """Return `blocks` MiB of spaces as gzip, about 1 KiB for each."""
    # Raw deflate: the header and the trailer of gzip are added below.
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # After a full flush the same block compresses to the same bytes: once is enough.
    packed = packer.compress(BLOCK) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    for _ in range(blocks):
        checksum = zlib.crc32(BLOCK, checksum)
    # RFC 1952: deflate, no name, no time; then CRC-32 and size of the content.
    header = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
    trailer = struct.pack("<II", checksum, blocks * len(BLOCK) % 2**32)
    return header + packed * blocks + packer.flush() + trailer


def _refuse(status: int, error: str, retry_after: str = "") -> web.Response:
    headers = {**JSON, "Retry-After": retry_after} if retry_after else JSON
    return web.Response(
        status=status, body=b'{"error":"%s"}' % error.encode(), headers=headers
    )


def _corrupt(call: Call, *, message: bytes, report: bytes) -> web.Response:
    """Answer with the corrupt report, or with the corrupt message after a valid one."""
    messages = b'{"messages":[%s,%s]}' % (VALID_MESSAGE, message)
    is_report = call.request.rel_url.raw_path.startswith(REPORTS_PREFIX)
    return web.Response(body=report if is_report else messages, headers=JSON)


async def _start(call: Call, length: int | None) -> web.StreamResponse:
    headers = {"Content-Type": call.reply.content_type}
    response = web.StreamResponse(status=call.reply.status, headers=headers)
    response.content_length = length
    await response.prepare(call.request)
    return response
