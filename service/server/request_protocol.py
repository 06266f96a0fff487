"""The attributes of aiohttp's protocol that are no part of its interface.

The connections use no other but `_loop`. A minor version of aiohttp may change them, so
`pyproject.toml` pins it, and `tests/server/test_request_protocol.py` names them.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from aiohttp import StreamReader, web
from aiohttp.web_protocol import _ErrInfo

HEAD_END: Final = b"\r\n\r\n"
MAX_PIECES: Final = 128
"""Limit of pieces of one read, for bodies that consist of empty lines.

Of more pipelined requests in one read, a malformed one drops those behind the limit.
"""


class RequestProtocol(web.RequestHandler):
    """aiohttp's protocol of one connection, with the state that ours needs."""

    __slots__ = ("_unparsed_end", "answered_at", "received_at")

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._unparsed_end = b""
        self.received_at = 0.0
        """When bytes were last received, by the time of the event loop."""
        self.answered_at = 0.0
        """The same, of requests that were answered or refused at once."""

    @property
    def is_idle(self) -> bool:
        """True while no request is in progress."""
        return self._waiter is not None and not self._waiter.done()

    def data_received(self, data: bytes) -> None:
        """Answer received bytes at once if they can be, otherwise receive them."""
        waiter = self._waiter
        # No request is in progress or partly received, and the client has read enough
        # of the answers before.
        if (
            waiter is not None
            and not waiter.done()
            and not self._unparsed_end
            and not self._paused
            and not self._upgraded
            and self.transport is not None
        ):
            parts = self.answer_at_once(data)
            if parts is not None:
                self.transport.writelines(parts)
                self.received_at = self.answered_at = self._loop.time()
                return
        self.receive(data)

    def answer_at_once(self, data: bytes) -> Sequence[bytes] | None:
        """Return the parts of an answer; None if the bytes have to be parsed."""

    def receive(self, data: bytes) -> None:
        """Receive bytes that were not answered at once."""

    @property
    def remote(self) -> str | None:
        """The address of the peer, as `request.remote`."""
        peer = self.peername
        return (
            str(peer[0] if isinstance(peer, list | tuple) else peer) if peer else None
        )

    @property
    def has_partial_head(self) -> bool:
        """True if the last bytes may be the begin of a request."""
        return bool(self._unparsed_end)

    @property
    def parsed_requests(self) -> int:
        """Number of requests that the parser has found."""
        return self._request_count

    @property
    def last_body(self) -> StreamReader:
        """The body of the request that the parser has just found."""
        return self._messages[-1][1]

    def _process_keepalive(self) -> None:
        """Close an idle connection, unless it was answered in the meantime."""
        close_at = self.answered_at + self._keepalive_timeout
        # aiohttp's timer starts again if the connection is to be closed later.
        self._next_keepalive_close_time = max(self._next_keepalive_close_time, close_at)
        super()._process_keepalive()

    def parse(self, data: bytes) -> None:
        """Parse received bytes."""
        # Most reads are the head of one request, after which nothing can be malformed.
        head_end = data.find(HEAD_END)
        if not self._unparsed_end and 0 <= head_end == len(data) - len(HEAD_END):
            super().data_received(data)
            return
        # The parser drops all requests of a piece if a later one in it is malformed.
        for piece in _split_after_heads(data, self._unparsed_end):
            super().data_received(piece)
            if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
                break
        end = (self._unparsed_end + data)[-len(HEAD_END) :]
        # What follows an empty line can only be the next request, or a body.
        self._unparsed_end = b"" if end == HEAD_END else end[1 - len(HEAD_END) :]

    def close_after_received(self) -> None:
        """Have the connection close after the requests that were received."""
        if self._message_tail:
            # Requests behind an upgrade, which aiohttp parses when that is declined.
            # The keep-alive timer closes after them.
            return
        if not self._messages:
            self.close()  # after the request in progress
            return
        message, body = self._messages[-1]
        if not isinstance(message, _ErrInfo):
            self._messages[-1] = message._replace(should_close=True), body

    def make_requests_by(self, factory: Any) -> None:
        """Replace the factory of the connection's further requests."""
        self._request_factory = factory


def _split_after_heads(data: bytes, before: bytes) -> Iterator[bytes]:
    """Yield the data in pieces, each of which ends with an empty line or with `data`.

    `before` are the last bytes before the data, in which the empty line may begin.
    """
    searched = before + data
    start = position = 0
    for _ in range(MAX_PIECES):
        found = searched.find(HEAD_END, position)
        position = found + len(HEAD_END)
        end = position - len(before)
        if found < 0 or end >= len(data):
            break
        yield data[start:end]
        start = end
    yield data[start:]
