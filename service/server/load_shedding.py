"""Load shedding: requests that would wait too long for the event loop get 503.

The event loop handles one request after the other. When more arrive than it can handle,
each further one would wait longer. Such a request is refused before it is parsed, at a
small part of the cost of an answer. `docs/decisions/lanes.md` has the measurements.
"""

import math
import re
import time
from typing import Final, NamedTuple

from aiohttp.helpers import rfc822_formatted_time

from service.observability import http_metrics
from service.observability.summaries import Summary
from service.web.lane_metrics import LaneMetrics
from service.web.problems import OVERLOADED, RequestProblem, answer_problem
from service.web.request_context import REQUEST_ID_HEADER, new_request_id

GET: Final = b"GET "
HTTP_1_1: Final = b" HTTP/1.1\r\n"
LONG_POLL: Final = ((b"GET /events?", b"GET /events/?"), b"wait_s=")
"""The begins of a request that waits for events, and a part of its query."""
EXEMPT: Final = (b"GET /health/", b"GET /metrics", b"GET /admin/")
CLOSE: Final = b"onnection: close"
MIN_WAITING: Final = 32
"""Fewer waiting requests are no overload: the loop was only blocked for a moment."""
BURST_S: Final = 0.1
"""A burst of this duration is accepted, unless the last overload was just before."""
CALM_S: Final = 1.0
SMOOTHING: Final = 0.05
_MORE_FOLLOWS: Final = re.compile(
    rb"\n(?:content-length|transfer-encoding|upgrade)", re.IGNORECASE
)
"""Fields with which something else may follow the head of a request."""


class Refusals:
    """Writes refusals as raw bytes, and logs their number once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._head = b""
        self._body = b""
        self._summary = Summary("http.shed")
        self._metrics = LaneMetrics("event_loop")

    def answer(self) -> bytes:
        """Return the answer to one request."""
        if int(time.time()) != self._second:
            self._prepare()
        request_id = new_request_id().encode()
        return b'%s%s\r\n\r\n%s%s"}' % (
            *(self._head, request_id, self._body, request_id),
        )

    def count(self, data: bytes, waiting: int, expected_wait_s: float) -> None:
        """Count the refusal of a request in the metrics and for the log."""
        path = data[len(GET) : data.index(b" ", len(GET))].decode("latin-1")
        # It has no route yet, but it counts against the objective of its domain.
        domain = http_metrics.domain_of("GET", path)
        http_metrics.request_refused("GET", OVERLOADED.status, OVERLOADED.code, domain)
        self._metrics.refused("expected_wait")
        self._summary.add(waiting=waiting, expected_wait_s=round(expected_wait_s, 6))

    def _prepare(self) -> None:
        problem = RequestProblem(OVERLOADED, "")
        marker = "0" * len(new_request_id())
        response = answer_problem(problem, marker)
        body = response.body
        assert isinstance(body, bytes)  # noqa: S101 - problems are
        # The id is the last member of the document.
        self._body = body[: -len(marker) - 2]
        headers = {
            **response.headers,
            "Content-Length": str(len(body)),
            "Date": rfc822_formatted_time(),
        }
        lines = [f"HTTP/1.1 {response.status} {response.reason}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._head = "\r\n".join([*lines, f"{REQUEST_ID_HEADER}: "]).encode()
        self._second = int(time.time())


class Shed(NamedTuple):
    """The answer to a request that is refused."""

    answer: bytes
    closes: bool
    """The client has asked to close the connection."""


class LoopQueue:
    """The requests that wait for the event loop, and how long they will wait."""

    def __init__(self, max_wait_s: float) -> None:
        self._max_wait_s = max_wait_s
        self._refusals = Refusals()
        self._waiting = 0
        self._mean_s = 0.0
        """Mean time between the starts of two requests, while others wait."""
        self._started_at = 0.0
        self._is_busy = False
        self._has_exceeded = False
        """A request has exceeded the bound since the queue was empty."""
        self._is_standing = False
        """The same of the requests that waited before the queue was empty."""
        self._calm_at = -math.inf
        self._shed_at = -math.inf
        self.is_draining = False

    def add(self) -> None:
        """Count a request that has arrived."""
        self._waiting += 1

    def start(self) -> None:
        """Stop counting a request: its handler starts."""
        now = time.perf_counter()
        # Only while others wait does the loop turn to the next one without a pause.
        if self._is_busy:
            self._mean_s += SMOOTHING * (now - self._started_at - self._mean_s)
        self._started_at = now
        self._is_busy = self._waiting > 1
        self.discard()

    def discard(self) -> None:
        """Stop counting a request, whose client may have left."""
        self._waiting -= 1
        if not self._waiting:
            self._is_standing, self._has_exceeded = self._has_exceeded, False

    def shed(self, data: bytes) -> Shed | None:
        """Return the refusal of a request, or None if it may wait."""
        waiting = self._waiting
        wait_s = waiting * self._mean_s
        if waiting < MIN_WAITING or wait_s <= self._max_wait_s:
            # The loop receives many requests in one turn. The first ones of a turn
            # never wait too long, so a turn is calm only if its last ones do not.
            if not self._is_standing:
                self._calm_at = time.monotonic()
            return None
        self._has_exceeded = True
        if not self._is_lasting() or not _is_sheddable(data) or self.is_draining:
            return None
        self._shed_at = time.monotonic()
        self._refusals.count(data, waiting, wait_s)
        return Shed(self._refusals.answer(), CLOSE in data)

    def _is_lasting(self) -> bool:
        now = time.monotonic()
        return now - self._calm_at > BURST_S or now - self._shed_at < CALM_S


def _is_sheddable(data: bytes) -> bool:
    """Return whether the data is one GET of HTTP/1.1, but not for monitoring.

    It has no body, which would be read as the next request of the connection.
    """
    return (
        data.startswith(GET)
        and not data.startswith(EXEMPT)
        and data[: data.find(b"\n") + 1].endswith(HTTP_1_1)
        and data.find(b"\r\n\r\n") == len(data) - 4
        and _MORE_FOLLOWS.search(data) is None
        and not _is_long_poll(data)
    )


def _is_long_poll(data: bytes) -> bool:
    """Return whether a request waits for events, which has a bound of its own."""
    begins, parameter = LONG_POLL
    return data.startswith(begins) and parameter in data.partition(HTTP_1_1)[0]
