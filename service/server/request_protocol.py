"""The attributes of aiohttp's protocol that are no part of its interface.

The connections use no other but `_loop`. A minor version of aiohttp may change them, so
`pyproject.toml` pins it, and `tests/server/test_request_protocol.py` names them.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from aiohttp import StreamReader, hdrs, web
from aiohttp.web_protocol import _ErrInfo

HEAD_END: Final = b"\r\n\r\n"
LAST_CHUNK: Final = b"\n0\r\n\r\n"
"""The end of a chunked body without trailers, and of the line before it."""
UNKNOWN: Final = -1
MAX_PIECES: Final = 128
"""Limit of pieces of one read, for bodies that consist of empty lines.

Of more pipelined requests in one read, a malformed one drops those behind the limit.
"""


class RequestProtocol(web.RequestHandler):
    """aiohttp's protocol of one connection, with the state that ours needs."""

    __slots__ = (
        "_chunks_end",
        "_has_chunks",
        "_held",
        "_is_last",
        "_unparsed_end",
        "_unread",
        "answered_at",
        "is_answering",
        "last_body",
        "received_at",
    )

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._unparsed_end = b""
        self._unread = 0
        """Bytes of the last request's body that were not received; or `UNKNOWN`."""
        self.last_body: StreamReader | None = None
        """The body of the last request that the parser has found."""
        self._has_chunks = False
        """That body is chunked, and was incomplete before the present bytes."""
        self._chunks_end = b""
        """The last bytes of that request."""
        self.is_answering = False
        """A request is in progress that aiohttp has not received."""
        self._held = b""
        """Bytes that were received meanwhile."""
        self._is_last = False
        """The connection closes after that request."""
        self.received_at = 0.0
        """When bytes were last received, by the time of the event loop."""
        self.answered_at = 0.0
        """The same, of requests that were answered or refused at once."""

    @property
    def is_idle(self) -> bool:
        """True while no request is in progress."""
        waiter = self._waiter
        return waiter is not None and not waiter.done() and not self.is_answering

    def data_received(self, data: bytes) -> None:
        """Answer received bytes at once if they can be, otherwise receive them."""
        if self.is_answering:
            self._hold(data)
            return
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
            # It may be answered before this returns.
            self.is_answering = True
            if self.answer_later(data):
                self.received_at = self._loop.time()
                return
            self.is_answering = False
        self.receive(data)

    def answer_at_once(self, data: bytes) -> Sequence[bytes] | None:
        """Return the parts of an answer; None if the bytes have to be parsed."""

    def answer_later(self, data: bytes) -> bool:
        """Have `end_answer` called for a request; False if it has to be parsed."""
        return False

    def end_answer(self, block: bytes) -> bool:
        """Send the answer of `answer_later`; False if the client has disconnected."""
        self.is_answering = False
        if self.transport is None or self.transport.is_closing():
            return False
        self.transport.write(block)
        self.answered_at = self._loop.time()
        held, self._held = self._held, b""
        if held:
            self.transport.resume_reading()
            self.data_received(held)
        if self._is_last:
            self.force_close()
        return True

    def _hold(self, data: bytes) -> None:
        """Keep what a client sends before it has the answer, and read no more."""
        if self.transport is not None and not self._held:
            self.transport.pause_reading()
        self._held += data

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

    def _process_keepalive(self) -> None:
        """Close an idle connection, unless it was answered in the meantime."""
        idle_since = self._loop.time() if self.is_answering else self.answered_at
        close_at = idle_since + self._keepalive_timeout
        # aiohttp's timer starts again if the connection is to be closed later.
        self._next_keepalive_close_time = max(self._next_keepalive_close_time, close_at)
        super()._process_keepalive()

    def parse(self, data: bytes) -> None:
        """Parse received bytes."""
        begins, before = not self._unparsed_end, self._request_count
        self._parse_all(data)
        if self._request_count != before:
            is_single = begins and self._request_count == before + 1
            self._unread = self._rest_of_body(data) if is_single else UNKNOWN
        elif self._unread > 0:
            self._unread -= len(data)
        else:
            return  # a part of the next head
        if not self._unread:
            self._unparsed_end = b""

    def _rest_of_body(self, data: bytes) -> int:
        """Return the size of a request's body without what is in the first bytes."""
        message, _ = self._messages[-1]
        end = data.find(HEAD_END)
        if isinstance(message, _ErrInfo) or message.chunked or end < 0:
            return UNKNOWN
        size = int(message.headers.get(hdrs.CONTENT_LENGTH, 0))
        return size - (len(data) - end - len(HEAD_END))

    def _parse_all(self, data: bytes) -> None:
        # Most reads are the head of one request, after which nothing can be malformed.
        head_end = data.find(HEAD_END)
        if not self._unparsed_end and 0 <= head_end == len(data) - len(HEAD_END):
            self._parse_piece(data)
            return
        # The parser drops all requests of a piece if a later one in it is malformed.
        for piece in _split_after_heads(data, self._unparsed_end):
            if not self._parse_piece(piece):
                break
        end = (self._unparsed_end + data)[-len(HEAD_END) :]
        # What follows an empty line can only be the next request, or a body.
        self._unparsed_end = b"" if end == HEAD_END else end[1 - len(HEAD_END) :]

    def _parse_piece(self, piece: bytes) -> bool:
        """Parse bytes; return False if nothing behind them may be parsed."""
        before = self._request_count
        super().data_received(piece)
        if self._request_count != before:
            message, body = self._messages[-1]
            former, self.last_body = self.last_body, body
            if isinstance(message, _ErrInfo):
                if former is not None and not former.is_eof():
                    self._end_malformed_body(former)
                return False
            self._has_chunks = message.chunked
        return not self._has_chunks or self._follow_chunks(piece)

    def _follow_chunks(self, piece: bytes) -> bool:
        """Return False, and let the connection close, if a body ends with trailers.

        The parser would add the last trailer to the headers of the next request.
        """
        size = len(LAST_CHUNK)
        self._chunks_end = (self._chunks_end[-size:] + piece[-size:])[-size:]
        if self.last_body is None or not self.last_body.is_eof():
            return True
        self._has_chunks = False
        # In doubt, such as for a last chunk with leading zeros, it closes too.
        if self._chunks_end == LAST_CHUNK:
            return True
        self.close_after_received()
        return False

    def _end_malformed_body(self, body: StreamReader) -> None:
        """Fail the request that has this body, and not a further one.

        aiohttp would leave its handler waiting for the rest of the body.
        """
        self._messages.pop()
        self._request_count -= 1
        self.last_body = body
        body.set_exception(web.RequestPayloadError("malformed chunk"))
        body.feed_eof()
        self.close_after_received()

    def close_after_received(self) -> None:
        """Have the connection close after the requests that were received."""
        if self.is_answering:
            self._is_last = True
            return
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
