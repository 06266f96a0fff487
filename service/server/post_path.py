"""Small requests with a body, which are answered without aiohttp.

Clients that send one event at a time send the same head each time, but for the length
of the body and the request's id. aiohttp parses the first of them, and its handler
offers the endpoint. Further ones go to the endpoint at once: admitted, charged, counted
and logged as any other request, but without a parser, a task, routing and middleware.
"""

import asyncio
import math
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from time import perf_counter
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog
from aiohttp import hdrs, web
from aiohttp.helpers import rfc822_formatted_time

from service.observability import http_metrics
from service.observability.stages import Stages
from service.server.fast_path import (
    MAX_HEAD_BYTES,
    ORDINARY,
    Client,
    Heads,
    is_whole_head,
    split_id,
    without_id,
)
from service.server.request_protocol import HEAD_END
from service.web.auth import ApiKey, Authenticator
from service.web.bodies import EXPECTS_CONTINUE
from service.web.client_identity import Caller
from service.web.client_stream import CLIENT_DISCONNECTED, DISCONNECTED_STATUS
from service.web.http_cache.responses import keeps_connection
from service.web.limits import Limits, RateLimited
from service.web.page_headers import NO_SNIFFING
from service.web.problems import REQUEST_TIMEOUT, RequestProblem, kind_of
from service.web.repeats import PostEndpoint
from service.web.request_context import (
    REQUEST_ID_HEADER,
    Answered,
    Reports,
    answer_error,
    new_request_id,
    refusal_of,
)
from service.web.routes import block_head

MAX_POST_BYTES: Final = 64 * 1024
"""Larger bodies seldom arrive in one read, and cost more than their head."""
POST: Final = b"POST "
LENGTH: Final = re.compile(
    rb"\r\nContent-Length: ([1-9][0-9]{0,6})(?=\r\n)", re.IGNORECASE
)
UNUSUAL: Final = (
    *(set(ORDINARY) - {hdrs.CONTENT_LENGTH}),
    hdrs.CONTENT_ENCODING,
    hdrs.ORIGIN,
)
"""Headers of requests that are always routed."""

log = structlog.get_logger()


class RememberedPost(NamedTuple):
    """The meaning of a head."""

    endpoint: PostEndpoint
    media_type: str
    domain: str
    caller: Caller


class PostClient(Client, Protocol):
    """A connection that waits for the answer to a request."""

    def end_answer(self, block: bytes) -> bool:
        """Send the answer; False if the client has disconnected."""


class Post:
    """A request in progress: see `RepeatedPost`."""

    __slots__ = (
        "_answer",
        "body",
        "client",
        "head",
        "key",
        "media_type",
        "rate_lines",
        "request_id",
        "stages",
        "started",
    )

    def __init__(
        self,
        head: RememberedPost,
        key: ApiKey,
        body: bytes,
        request_id: str,
        client: PostClient,
    ) -> None:
        self.started = perf_counter()
        self.head = head
        self.key = key
        self.body = body
        self.media_type = head.media_type
        self.request_id = request_id
        self.client = client
        self.rate_lines = ""
        self.stages = Stages()
        self._answer: Callable[[Post, msgspec.Struct | Exception], None] | None = None

    def begin(
        self, answer: Callable[["Post", msgspec.Struct | Exception], None]
    ) -> None:
        """Have the endpoint begin; `answer` gets its outcome, once."""
        self._answer = answer
        self.stages.enter("storage")
        try:
            self.head.endpoint.begin(self)
        except Exception as error:  # noqa: BLE001 - answered, and logged if unexpected
            self.respond(error)

    def respond(self, outcome: msgspec.Struct | Exception) -> None:
        """Answer the request, unless it has been answered."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer(self, outcome)


class PostPath:
    """Passes requests with remembered heads to their endpoints."""

    def __init__(self, limits: Limits, auth: Authenticator, reports: Reports) -> None:
        self._limits = limits
        self._auth = auth
        self._reports = reports
        self._heads = Heads[RememberedPost]()
        self._deadlines = Deadlines(limits.request_timeout_s)

    def accept(self, data: bytes, client: PostClient) -> bool:
        """Begin to answer a request; return False if it has to be parsed.

        So are those that are refused before their endpoint is called.
        """
        found = split_post(data)
        if found is None or (head := self._heads.find(found.head)) is None:
            return False
        is_large = len(found.body) > head.endpoint.max_body_bytes
        if is_large or self._limits.is_full(head.domain):
            return False
        scope = head.endpoint.scope
        key = self._auth.peek(head.caller.credential, scope)
        if key is None:
            return False
        is_known = client.client_head is head
        client_id = client.client_id if is_known else client.identify(head)
        lines = self._limits.enter(client_id, head.domain)
        if lines is None:
            return False
        # The client before the key, whose other clients must not pay for this one.
        if (wait_s := self._auth.charge_at_once(key, scope)) is None:
            self._limits.withdraw(client_id, head.domain)
            return False
        post = Post(head, key, found.body, found.request_id or new_request_id(), client)
        post.rate_lines = lines
        self._begin(post, wait_s)
        return True

    def remember(
        self, data: bytes, request: web.BaseRequest, endpoint: PostEndpoint
    ) -> None:
        """Remember the head of a request, which aiohttp has parsed."""
        # Another path of the endpoint, or a query, has another meaning in the log.
        is_plain = request.method == hdrs.METH_POST and (
            request.rel_url.raw_path_qs == endpoint.route
        )
        if not is_plain or not keeps_connection(request):
            return
        if EXPECTS_CONTINUE in request or any(
            name in request.headers for name in UNUSUAL
        ):
            return
        # As `split_post` does. The parser refuses requests with two lengths.
        key = without_id(LENGTH.sub(b"", data, count=1), request)
        caller = self._limits.clients.caller_of(request)
        if key is not None and caller.credential:
            domain = http_metrics.part_of(endpoint.route)
            head = RememberedPost(endpoint, request.content_type, domain, caller)
            self._heads.put(key, head)

    def _begin(self, post: Post, wait_s: float) -> None:
        http_metrics.request_started(hdrs.METH_POST)
        if wait_s:
            self._answer(post, RateLimited(math.ceil(wait_s)))
        else:
            self._deadlines.add(post)
            post.begin(self._answer)

    def _answer(self, post: Post, outcome: msgspec.Struct | Exception) -> None:
        self._deadlines.remove(post)
        self._limits.release(post.head.domain)
        http_metrics.request_ended(hdrs.METH_POST)
        route = post.head.endpoint.route
        try:
            rendered = self._render(post, outcome)
        except Exception as error:  # noqa: BLE001 - answered and logged as a defect
            rendered = self._render(post, error)
        status, block, size, values = rendered
        duration_s = perf_counter() - post.started
        if not post.client.end_answer(block):
            status, size, values = DISCONNECTED_STATUS, 0, DISCONNECTED
        answered = Answered(route, status, size, duration_s, None, values)
        self._reports.finish(
            hdrs.METH_POST, route, answered, post.stages, request_id=post.request_id
        )

    def _render(
        self, post: Post, outcome: msgspec.Struct | Exception
    ) -> tuple[int, bytes, int, Mapping[str, str]]:
        """Return an answer's status and bytes, the size of its body, and log values."""
        lines = f"{REQUEST_ID_HEADER}: {post.request_id}\r\n{post.rate_lines}\r\n"
        if isinstance(outcome, msgspec.Struct):
            body = msgspec.json.encode(outcome)
            status = post.head.endpoint.status
            head = block_head(status, rfc822_formatted_time())
            lines = f"{hdrs.CONTENT_LENGTH}: {len(body)}\r\n{lines}"
            return status, head + lines.encode() + body, len(body), NO_VALUES
        kinds, request_id = self._reports.kinds, post.request_id
        context = {"request_id": request_id}
        response = answer_error(outcome, request_id, kinds, context)
        values = refusal_of(outcome, kind_of(outcome, kinds))
        body = response.body if isinstance(response.body, bytes) else b""
        headers = {**response.headers, **post.head.endpoint.problem_headers}
        head = _problem_head(response.status, headers, len(body))
        return response.status, head + lines.encode() + body, len(body), values


NO_VALUES: Final[Mapping[str, str]] = MappingProxyType({})
DISCONNECTED: Final = MappingProxyType({"outcome": CLIENT_DISCONNECTED})


class SplitPost(NamedTuple):
    """The parts of a request's bytes."""

    head: bytes
    """Without its length and the value of its id."""
    request_id: str
    body: bytes


def split_post(data: bytes) -> SplitPost | None:
    """Return the parts of one whole request with a small body; None for others."""
    if not data.startswith(POST):
        return None
    end = data.find(HEAD_END) + len(HEAD_END)
    size = len(data) - end
    if not len(HEAD_END) <= end <= MAX_HEAD_BYTES or size > MAX_POST_BYTES:
        return None
    length = LENGTH.search(data, 0, end)
    if length is None or int(length[1]) != size:
        return None
    start, stop = length.span()
    head, request_id = split_id(data[:start] + data[stop:end])
    return SplitPost(head, request_id, data[end:])


def head_of(data: bytes) -> bytes | None:
    """Return the head of one whole request that may be remembered; None for others."""
    if is_whole_head(data):
        return data
    found = split_post(data)
    return found and data[: len(data) - len(found.body)]


class Deadlines:
    """The time limit of requests, which is the same for all of them."""

    # A timer for each request would cost more than its other bookkeeping.

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._posts: dict[Post, None] = {}
        self._is_running = False

    def add(self, post: Post) -> None:
        """Limit the time of a request that has just started."""
        self._posts[post] = None
        if not self._is_running:
            self._is_running = True
            asyncio.get_running_loop().call_later(self._limit_s, self._expire)

    def remove(self, post: Post) -> None:
        """End the time limit of a request."""
        self._posts.pop(post, None)

    def _expire(self) -> None:
        now = perf_counter()
        detail = f"not answered in {self._limit_s:g} s"
        while self._posts:
            post = next(iter(self._posts))
            left_s = post.started + self._limit_s - now
            if left_s > 0:
                asyncio.get_running_loop().call_later(left_s, self._expire)
                return
            self.remove(post)
            post.respond(RequestProblem(REQUEST_TIMEOUT, detail))
        self._is_running = False


def _problem_head(status_code: int, headers: Mapping[str, str], size: int) -> bytes:
    headers = {
        **headers,
        **NO_SNIFFING,
        hdrs.CONTENT_LENGTH: str(size),
        hdrs.DATE: rfc822_formatted_time(),
    }
    status = HTTPStatus(status_code)
    lines = [f"HTTP/1.1 {status.value} {status.phrase}\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in headers.items()]
    return "".join(lines).encode("latin-1")
