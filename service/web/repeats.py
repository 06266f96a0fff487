"""Answers that a connection may repeat for equal requests, without routing them.

A handler that has answered from a cache offers its answer. The connection remembers
the bytes of the request. When a client sends the same bytes again, it prepares the
answer of that moment. `docs/decisions/fast-path.md` has the reasons.
"""

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import NamedTuple, Protocol

import msgspec
from aiohttp import web

from service.observability.http_metrics import Tally
from service.settings import Scope
from service.web.auth import ApiKey


class PreparedAnswer(NamedTuple):
    """The answer to all equal requests for some time, a second at most."""

    head: bytes
    """Without the lines of the single request, and without the empty line."""
    body: bytes
    tally: Tally
    log_values: Mapping[str, str] = MappingProxyType({})


class RepeatableAnswer(Protocol):
    """The answer to requests that differ in their `X-Request-ID` at most."""

    @property
    def scope(self) -> Scope:
        """The scope of its endpoint."""

    def prepare(self) -> PreparedAnswer | None:
        """Return the present answer; None if such a request has to be routed now."""


class RepeatedPost(Protocol):
    """A small request whose head is a repeated one, with a body of its own."""

    key: ApiKey
    body: bytes
    media_type: str
    request_id: str

    def respond(self, outcome: msgspec.Struct | Exception) -> None:
        """Answer with a struct as JSON, or with the problem of an error."""


class PostEndpoint(Protocol):
    """An endpoint that may get small requests without aiohttp's parser and router.

    Its successful answers have no header of their own, and no cache may store them.
    """

    @property
    def scope(self) -> Scope:
        """The scope that a key needs."""

    @property
    def route(self) -> str:
        """The path of the endpoint."""

    @property
    def status(self) -> HTTPStatus:
        """The status of a successful answer."""

    @property
    def problem_headers(self) -> Mapping[str, str]:
        """The headers that the endpoint's problems have besides."""

    @property
    def max_body_bytes(self) -> int:
        """The maximum size of a body."""

    def begin(self, post: RepeatedPost) -> None:
        """Begin to answer a request, and return without waiting.

        What it raises is answered as a problem.
        """


class RepeatingConnection:
    """A connection that may answer equal requests without routing them."""

    __slots__ = ()

    def remember_post(self, request: web.BaseRequest, endpoint: PostEndpoint) -> None:
        """Remember the head of a request, so that equal ones go to the endpoint."""

    def remember(self, request: web.BaseRequest, answer: RepeatableAnswer) -> None:
        """Remember the answer to a request, if it may be repeated."""


def offer(request: web.BaseRequest, answer: RepeatableAnswer) -> None:
    """Let the connection of a request repeat its answer for equal requests."""
    if isinstance(request.protocol, RepeatingConnection):
        request.protocol.remember(request, answer)


def offer_posts(request: web.BaseRequest, endpoint: PostEndpoint) -> None:
    """Let the connection pass requests with an equal head to the endpoint."""
    if isinstance(request.protocol, RepeatingConnection):
        request.protocol.remember_post(request, endpoint)
