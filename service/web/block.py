"""A response of which every byte is known before it is sent."""

from typing import Final

from aiohttp import ClientConnectionResetError, web
from aiohttp.abc import AbstractStreamWriter

from service.usage.encodings import Buffer

MOST_BUFFERED_BYTES: Final = 256 * 1024
"""Unsent bytes of one connection from which on a caller has to read first."""


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
        if transport.get_write_buffer_size() > MOST_BUFFERED_BYTES:
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Note that nothing is left to write."""
        self._eof_sent = True
