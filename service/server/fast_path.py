"""The fast path: repeated requests for cached answers are answered before parsing.

A client on an open connection sends the same bytes again and again. When aiohttp has
parsed a request and its handler offers the answer for repetition, the raw head is
remembered. Equal heads are then answered by a look-up in a dictionary and one write:
charged, counted and logged as any other request. All others take the ordinary way.
`docs/decisions/fast-path.md` has the measurements.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

import structlog
from aiohttp import hdrs, web

from service.observability import tracing as telemetry
from service.server.request_protocol import HEAD_END
from service.settings import Scope
from service.web.auth import AUTHENTICATOR, Authenticator
from service.web.bodies import EXPECTS_CONTINUE
from service.web.client_identity import Caller
from service.web.http_cache.responses import keeps_connection
from service.web.limits import LIMITS, Limits
from service.web.repeats import PreparedAnswer, RepeatableAnswer
from service.web.request_context import (
    REPORTS,
    REQUEST_ID_HEADER,
    VALID_REQUEST_ID,
    Answered,
    log_answer,
    new_request_id,
)

MAX_HEAD_BYTES: Final = 4 * 1024
MAX_HEADS: Final = 1_024
"""Heads in one of the two dictionaries."""
MAX_BYTES: Final = 1024 * 1024
"""Bytes of the heads in one of them."""
ROTATE_AFTER_S: Final = 30.0
"""Unused heads, which may contain credentials, are forgotten after twice this time."""

GET: Final = b"GET "
ID_FIELDS: Final = tuple(
    f"\r\n{name}: ".encode()
    for name in (REQUEST_ID_HEADER, REQUEST_ID_HEADER.lower(), "X-Request-Id")
)
"""The usual spellings of the header whose value differs between equal requests."""
VALID_ID: Final = re.compile(VALID_REQUEST_ID.encode() + rb"\r\n")

ORDINARY: Final = (
    hdrs.CONTENT_LENGTH,
    hdrs.TRANSFER_ENCODING,
    hdrs.UPGRADE,
    hdrs.IF_MATCH,
    telemetry.TRACEPARENT,
)
"""Headers of requests that are always routed: with a body, or with a trace."""


class Remembered(Protocol):
    """A remembered head, and the way to answer it."""

    @property
    def caller(self) -> Caller:
        """The sender of such heads."""


M = TypeVar("M", bound=Remembered)


class RememberedHead(NamedTuple):
    """The meaning of the bytes of a request."""

    prepare: Callable[[], PreparedAnswer | None]
    """`RepeatableAnswer.prepare`."""
    scope: Scope | None
    """The scope that its key needs; None if neither is needed."""
    path: str
    caller: Caller


class Client(Protocol):
    """A connection, of which the address belongs to the identity of a caller."""

    client_head: Remembered | None
    """The head that was identified last: most connections send equal ones."""
    client_id: str | bytes
    """The client's id for that head."""

    def identify(self, head: Remembered) -> str | bytes:
        """Return the id of the client that has sent a head on this connection."""


class Heads(Generic[M]):
    """Remembered heads: those used last, bounded in number, bytes and time.

    There are two dictionaries. What is used moves to the young one; the old one is
    dropped as a whole.
    """

    def __init__(self) -> None:
        self.young: dict[bytes, M] = {}
        self._old: dict[bytes, M] = {}
        self._young_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self.young.keys() | self._old.keys())

    def find(self, head: bytes) -> M | None:
        """Return what a head means, if it is remembered."""
        found = self.young.get(head)
        if found is None and (found := self._old.get(head)) is not None:
            self.put(head, found)
        return found

    def put(self, head: bytes, meaning: M) -> None:
        """Remember a head."""
        if head not in self.young:
            is_full = len(self.young) >= MAX_HEADS
            if is_full or self._young_bytes + len(head) > MAX_BYTES:
                self._rotate()
            self._young_bytes += len(head)
        self.young[head] = meaning
        if self._timer is None:
            self._start_timer()

    def _rotate(self) -> None:
        self._old, self.young, self._young_bytes = self.young, {}, 0

    def _start_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(ROTATE_AFTER_S, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._rotate()
        if self._old:
            self._start_timer()


class FastPath:
    """Answers the heads that it remembers; shared by all connections of a server."""

    def __init__(
        self, limits: Limits, auth: Authenticator, *, access_log: bool
    ) -> None:
        self._limits = limits
        self._has_rates = limits.has_rates
        self._auth = auth
        self._log = structlog.get_logger().bind() if access_log else None
        self._heads = Heads[RememberedHead]()

    @classmethod
    def of(cls, app: web.Application) -> "FastPath | None":
        """Return the fast path of a started application; None while traces are on.

        It creates no spans.
        """
        if AUTHENTICATOR not in app or telemetry.is_on():
            return None
        return cls(
            app[LIMITS], app[AUTHENTICATOR], access_log=app[REPORTS].has_access_log
        )

    def answer(self, data: bytes, client: Client) -> Sequence[bytes] | None:
        """Return the parts of the answer to received bytes; None for the ordinary way.

        That way answers clients over their rate. It judges keys that are missing, must
        be looked for, or have a rate of their own.
        """
        started = perf_counter()
        if len(data) > MAX_HEAD_BYTES:
            return None
        head, request_id = self._heads.young.get(data), ""
        if head is None and data.startswith(GET):
            head, request_id = self._find(data)
        if head is None or (prepared := head.prepare()) is None:
            return None
        scope, caller = head.scope, head.caller
        if scope and not self._auth.permits_at_once(caller.credential, scope):
            return None
        rate_lines: str | None = ""
        if self._has_rates:
            is_known = client.client_head is head
            client_id = client.client_id if is_known else client.identify(head)
            rate_lines = self._limits.charge(client_id)
            if rate_lines is None:
                return None
        request_id = request_id or new_request_id()
        block, body, tally, _ = prepared
        lines = f"X-Request-ID: {request_id}\r\n{rate_lines}\r\n".encode()
        taken_s = perf_counter() - started
        tally.add(taken_s)
        if self._log is not None:
            self._log_answer(head, prepared, request_id, taken_s)
        return block + lines, body

    def _find(self, data: bytes) -> tuple[RememberedHead | None, str]:
        """Return the meaning of received bytes, and the request id in them."""
        key, request_id = split_id(data)
        return self._heads.find(key), request_id

    def remember(
        self, data: bytes, request: web.BaseRequest, answer: RepeatableAnswer
    ) -> None:
        """Remember the bytes of a request, which aiohttp has parsed and answered."""
        if request.method != hdrs.METH_GET or not keeps_connection(request):
            return
        if EXPECTS_CONTINUE in request or any(
            name in request.headers for name in ORDINARY
        ):
            return
        key = without_id(data, request)
        if key is None:
            return
        caller = self._limits.clients.caller_of(request)
        is_open = not caller.credential and self._auth.is_open(answer.scope)
        scope = None if is_open else answer.scope
        head = RememberedHead(answer.prepare, scope, request.path, caller)
        self._heads.put(key, head)

    def _log_answer(
        self,
        head: RememberedHead,
        prepared: PreparedAnswer,
        request_id: str,
        taken_s: float,
    ) -> None:
        assert self._log is not None  # noqa: S101 - checked by the caller
        tally = prepared.tally
        size, values = len(prepared.body), prepared.log_values
        answered = Answered(
            tally.route, tally.status, size, taken_s, tally.cache, values
        )
        # Binding the id to the context would cost more than passing it.
        log_answer(self._log, hdrs.METH_GET, head.path, answered, request_id=request_id)


def split_id(head: bytes) -> tuple[bytes, str]:
    """Return a head without the value of its `X-Request-ID`, and that value.

    The value is empty if there is none, or if it is not valid.
    """
    for field in ID_FIELDS:
        start = head.find(field)
        if start < 0:
            continue
        start += len(field)
        found = VALID_ID.match(head, start)
        if found is None:
            break
        end = found.end() - 2
        return head[:start] + head[end:], head[start:end].decode()
    return head, ""


def without_id(head: bytes, request: web.BaseRequest) -> bytes | None:
    """Return a request's head without the value of its id.

    None if the parser may have found another id in it than `split_id`.
    """
    ids = list(request.headers.getall(REQUEST_ID_HEADER, ()))
    if not ids:
        return head
    key, request_id = split_id(head)
    return key if ids == [request_id] else None


def is_whole_head(data: bytes) -> bool:
    """Return whether received bytes may be one head, without anything behind it."""
    end = len(data) - len(HEAD_END)
    return end <= MAX_HEAD_BYTES and data.startswith(GET) and data.find(HEAD_END) == end
