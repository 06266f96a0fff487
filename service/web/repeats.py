"""Answers that a connection may repeat for equal requests, without routing them.

A handler that has answered from a cache offers its answer. The connection remembers
the bytes of the request. When a client sends the same bytes again, it prepares the
answer of that moment. `docs/decisions/fast-path.md` has the reasons.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

from aiohttp import web

from service.observability.http_metrics import Tally
from service.settings import Scope


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


class RepeatingConnection:
    """A connection that may answer equal requests without routing them."""

    __slots__ = ()

    def remember(self, request: web.BaseRequest, answer: RepeatableAnswer) -> None:
        """Remember the answer to a request, if it may be repeated."""


def offer(request: web.BaseRequest, answer: RepeatableAnswer) -> None:
    """Let the connection of a request repeat its answer for equal requests."""
    if isinstance(request.protocol, RepeatingConnection):
        request.protocol.remember(request, answer)
