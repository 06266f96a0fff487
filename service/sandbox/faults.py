"""Plays each fault of `Faults` on a real connection, and draws which one is due."""

import asyncio
import math
import os
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from random import Random
from typing import Final, NamedTuple

from aiohttp import web

from service.sandbox.options import SWITCHES, Faults

MESSAGES_PATH: Final = "/messages/current-period"
REPORTS_PREFIX: Final = "/reports/"
ELSEWHERE: Final = "/elsewhere"
JSON: Final = {"Content-Type": "application/json"}
DRIP_PAUSE_S: Final = 0.02
GONE_CHECK_S: Final = 0.05
BLOCK: Final = b" " * 1024 * 1024
BOMB_BLOCKS: Final = 1024
LINGER_NOT_AT_ALL: Final = struct.pack("ii", 1, 0)

SOUND_MESSAGE: Final = (
    b'{"id":1000,"text":"When does the lease end?",'
    b'"timestamp":"2024-04-29T03:25:03.613Z"}'
)
HTML: Final = (
    "<!DOCTYPE html><html><head><title>Maintenance</title></head>"
    "<body><h1>Back in a minute</h1></body></html>"
)


class Reply(NamedTuple):
    """What a healthy upstream answers: a body, and its tag if it has one."""

    status: int
    body: bytes
    etag: str | None = None
    content_type: str = "application/json"


class Call(NamedTuple):
    """A request that meets a fault, and what it would have been answered."""

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
        _linger_not_at_all(transport)
        transport.abort()
    raise ConnectionResetError


async def hang(call: Call) -> web.StreamResponse:
    # Not every runner cancels the handler of a client that left, so look.
    while call.request.transport is not None:  # noqa: ASYNC110
        await asyncio.sleep(GONE_CHECK_S)
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
    response.force_close()
    await response.write(body[: len(body) // 2])
    return response


async def wrong_type(call: Call) -> web.StreamResponse:
    return _spoil(
        call,
        message=b'{"id":1001,"text":61,"timestamp":"2024-04-29T03:25:04.000Z"}',
        report=b'{"id":1000,"name":"Short Lease Report","credit_cost":"61"}',
    )


async def missing_field(call: Call) -> web.StreamResponse:
    return _spoil(
        call,
        message=b'{"id":1001,"text":"Is the rent due?"}',
        report=b'{"id":1000,"name":"Short Lease Report"}',
    )


async def html(_: Call) -> web.StreamResponse:
    return web.Response(text=HTML, content_type="text/html")


async def gzip_bomb(_: Call) -> web.StreamResponse:
    bomb = await asyncio.to_thread(pack_spaces, BOMB_BLOCKS)
    return web.Response(body=bomb, headers={**JSON, "Content-Encoding": "gzip"})


async def redirect(call: Call) -> web.StreamResponse:
    request = call.request
    location = ELSEWHERE + request.rel_url.raw_path_qs
    # Who follows a 302 asks by GET, whatever was asked before.
    status = 307 if request.method == "POST" else 302
    return web.Response(status=status, headers={"Location": location})


async def huge_body(call: Call) -> web.StreamResponse:
    response = await _start(call, None)
    while True:
        await response.write(BLOCK)
        # A client that reads as fast as this writes would keep the loop.
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
"""The switches that are for any upstream, by their names, in their order."""


class FaultDraw:
    """Draws the fault that each request meets under one `Faults` object."""

    def __init__(self, faults: Faults, rng: Random) -> None:
        self._faults = faults
        self._rng = rng
        self._left: float = faults.times or math.inf
        self._chances = {
            name: probability
            for name in SWITCHES
            if (probability := getattr(faults, name))
        }

    def draw(self, path: str, known: Mapping[str, Fault] = FAULTS) -> Fault | None:
        """Pick the known fault for a request to this raw path; `None` lets it be."""
        due = [each for each in self._chances.items() if each[0] in known]
        if not due or not self._matches(path):
            return None
        self._left -= 1
        for name, probability in due:
            if self._rng.random() < probability:
                return known[name]
        return None

    def _matches(self, path: str) -> bool:
        # Where a redirect leads is sound, or a follower would go in circles.
        return (
            self._left > 0
            and path.startswith(self._faults.path)
            and not path.startswith(ELSEWHERE)
        )


@cache
def pack_spaces(blocks: int) -> bytes:
    """Make the gzip form of so many MiB of spaces, about 1 KiB for each."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # After a full flush the same block packs to the same bytes, so one will do.
    packed = packer.compress(BLOCK) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    for _ in range(blocks):
        checksum = zlib.crc32(BLOCK, checksum)
    header = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
    trailer = struct.pack("<II", checksum, blocks * len(BLOCK) % 2**32)
    return header + packed * blocks + packer.flush() + trailer


def _refuse(status: int, error: str, retry_after: str = "") -> web.Response:
    headers = {**JSON, "Retry-After": retry_after} if retry_after else JSON
    return web.Response(
        status=status, body=b'{"error":"%s"}' % error.encode(), headers=headers
    )


def _spoil(call: Call, *, message: bytes, report: bytes) -> web.Response:
    """Answer the call with the spoilt thing of its kind, beside a sound message."""
    messages = b'{"messages":[%s,%s]}' % (SOUND_MESSAGE, message)
    is_report = call.request.rel_url.raw_path.startswith(REPORTS_PREFIX)
    return web.Response(body=report if is_report else messages, headers=JSON)


async def _start(call: Call, length: int | None) -> web.StreamResponse:
    headers = {"Content-Type": call.reply.content_type}
    response = web.StreamResponse(status=call.reply.status, headers=headers)
    response.content_length = length
    await response.prepare(call.request)
    return response


def _linger_not_at_all(transport: asyncio.Transport) -> None:
    """Make closing send RST; by a duplicate, as some loops hide their sockets."""
    fileno = os.dup(transport.get_extra_info("socket").fileno())
    with socket.socket(fileno=fileno) as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT_AT_ALL)
