"""Metrics of the requests that clients send, and of the build that answers them."""

import asyncio
import platform
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.observability.metrics import (
    HTTP_BUCKETS_S,
    OTHER,
    REGISTRY,
    known_method,
)

FLUSH_AFTER_S: Final = 0.5
"""Time for which durations are collected, because writing each one costs more."""

QUICK_S: Final = HTTP_BUCKETS_S[0]
"""Upper bound of the first bucket."""

OK: Final = "ok"
"""Outcome of all answers but those with a 5xx status, which have a problem code."""
UNKNOWN: Final = "unknown"
"""Outcome of a 5xx answer that has no code."""
PARTS: Final = {
    "admin": "admin",
    "usage": "usage",
    "events": "events",
    "sessions": "events",
    # Of stock clients: /api/v1/events, and Segment's calls below /v1.
    **dict.fromkeys(
        ("api", "track", "page", "screen", "identify", "group", "alias", "batch"),
        "events",
    ),
    "vehicles": "vehicles",
}
"""Parts of the service by the first part of their paths."""
NO_PART: Final = "other"


class BatchHistogram(Histogram):
    """A histogram that observes many amounts at the cost of a few."""

    def observe_all(self, amounts: list[float]) -> None:
        """Observe every amount; sorts the list."""
        amounts.sort()
        self._sum.inc(sum(amounts))
        counted = 0
        for bound, bucket in zip(self._upper_bounds, self._buckets, strict=True):
            below = bisect_right(amounts, bound)
            if below > counted:
                bucket.inc(below - counted)
            counted = below

    def observe_quick(self, number: int, total: float) -> None:
        """Observe amounts of the first bucket, by their number and their sum."""
        self._sum.inc(total)
        self._buckets[0].inc(number)


class ServerMetrics:
    """Requests of clients, and the build that answers them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.duration = BatchHistogram(
            "http_server_request_duration_seconds",
            "Duration of requests, until the answer is ready to be sent.",
            ("http_request_method", "http_route", "http_response_status_code"),
            buckets=HTTP_BUCKETS_S,
            registry=registry,
        )
        self.active = Gauge(
            "http_server_active_requests",
            "Requests that are being answered.",
            ("http_request_method",),
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.cache_results = Counter(
            "copilot_usage_cache_results",
            "Answers by cache result: hit, stale or miss.",
            ("result",),
            registry=registry,
        )
        self.answers = Counter(
            "copilot_usage_answers",
            "Answers by domain, and by outcome: ok, or the problem code of a 5xx.",
            ("domain", "outcome"),
            registry=registry,
        )
        self._active: dict[str, Gauge] = {}
        _set_build_info(registry)

    def active_of(self, method: str) -> Gauge:
        """Return the gauge of a method; a look-up by its label would cost more."""
        if method not in self._active:
            method = known_method(method)
            self._active[method] = self.active.labels(method)
        return self._active[method]


def _set_build_info(registry: CollectorRegistry) -> None:
    build = Gauge(
        "copilot_usage_build_info",
        "Always 1; the labels describe the build.",
        ("version", "python_version"),
        # Workers have the same build: their sum would count them.
        multiprocess_mode="max",
        registry=registry,
    )
    build.labels(version("copilot-usage"), platform.python_version()).set(1)
    started = Gauge(
        "copilot_usage_started_timestamp_seconds",
        "Time at which the service started; with workers, their master.",
        multiprocess_mode="max",
        registry=registry,
    )
    started.set(time.time())


_metrics: Final = REGISTRY.declare(ServerMetrics)

_Failure = tuple[str, str]
"""The problem code of a failed request, and its domain."""
_Key = tuple[str, str | None, int, str | None, _Failure | None]
_pending: Final[dict[_Key, list[float]]] = {}
"""Durations to write, by method, route, status, cache result and failure."""


def part_of(path: str) -> str:
    """Return the part of the service that a path or route belongs to, or `other`."""
    first = path.removeprefix("/v1").partition("/")[2].partition("/")[0]
    return PARTS.get(first.partition("?")[0], NO_PART)


@lru_cache(maxsize=256)
def domain_of(method: str, path: str) -> str:
    """Return the domain of a request, by which objectives are set.

    It is usage, events_writes, events_reads, vehicles, admin or other.
    """
    part = part_of(path)
    if part != "events":
        return part
    return "events_writes" if method == "POST" else "events_reads"


def expect_answers(method: str, route: str, status: int, codes: Iterable[str]) -> None:
    """Begin to count the answers of a route at 0, so that the first one is growth.

    `status` is that of success, `codes` are those of its problems with a 5xx status.
    """
    _metrics.current.duration.labels(method, route, status)
    for outcome in (OK, *codes):
        _metrics.current.answers.labels(domain_of(method, route), outcome)


def request_answered(
    method: str,
    route: str | None,
    status: int,
    duration_s: float,
    cache: str | None = None,
) -> None:
    """Count an answered request, and its cache result if it has one.

    `route` is the path's template, None where the path has none.
    """
    # The key is usually present, so that a failed look-up is the exception.
    try:
        _pending[method, route, status, cache, None].append(duration_s)
    except KeyError:
        _start_batch((method, route, status, cache, None), duration_s)


def request_failed(
    method: str, route: str | None, status: int, duration_s: float, code: str
) -> None:
    """Count a request whose answer is a problem with a 5xx status."""
    failure = code, domain_of(method, route or "")
    _add((method, route, status, None, failure), duration_s)


def request_refused(method: str, status: int, code: str, domain: str = NO_PART) -> None:
    """Count a request that was refused before it had a route."""
    _add((method, None, status, None, (code, domain)), 0.0)


def request_started(method: str) -> None:
    """Count a request as active, until `request_ended`.

    Not needed for an answer without an `await`, which no scrape could observe.
    """
    _metrics.current.active_of(method).inc()


def request_ended(method: str) -> None:
    """Stop counting a request as active; it is answered or cancelled."""
    _metrics.current.active_of(method).dec()


class Tally:
    """Counts the answers of one kind in plain numbers, until they are flushed.

    They are answers to GET from the cache. `also` gets their number at each flush.
    """

    __slots__ = ("_also", "_answered", "_slow", "_total_s", "cache", "route", "status")

    def __init__(
        self,
        route: str,
        status: int,
        cache: str,
        also: Callable[[int], None] | None = None,
    ) -> None:
        self.route = route
        self.status = status
        self.cache = cache
        self._also = also
        self._answered = 0
        self._total_s = 0.0
        self._slow: list[float] = []

    def add(self, duration_s: float) -> None:
        """Count an answer."""
        if duration_s > QUICK_S:
            self._slow.append(duration_s)
        else:
            self._total_s += duration_s
        self._answered += 1
        if self._answered == 1:
            _timer.start()

    def flush(self) -> None:
        """Write the counted answers into the metrics."""
        answered, total_s, slow = self._answered, self._total_s, self._slow
        if not answered:
            return
        self._answered, self._total_s, self._slow = 0, 0.0, []
        server = _metrics.current
        duration = server.duration.labels("GET", self.route, self.status)
        duration.observe_quick(answered - len(slow), total_s)
        duration.observe_all(slow)
        server.answers.labels(domain_of("GET", self.route), OK).inc(answered)
        server.cache_results.labels(self.cache).inc(answered)
        if self._also is not None:
            self._also(answered)


_tallies: Final[dict[tuple[str, int, str], Tally]] = {}


def tally_of(
    route: str,
    status: int,
    cache: str = "hit",
    also: Callable[[int], None] | None = None,
) -> Tally:
    """Return the tally of a route, a status and a cache result."""
    key = route, status, cache
    if key not in _tallies:
        _tallies[key] = Tally(route, status, cache, also)
    return _tallies[key]


def flush() -> None:
    """Write the collected durations into the metrics."""
    pending = _pending.copy()
    _pending.clear()
    server = _metrics.current
    for (method, route, status, cache, failure), durations in pending.items():
        server.duration.labels(
            known_method(method), OTHER if route is None else route, status
        ).observe_all(durations)
        code, domain = failure or (UNKNOWN, domain_of(method, route or ""))
        outcome = OK if status < 500 else code
        server.answers.labels(domain, outcome).inc(len(durations))
        if cache is not None:
            server.cache_results.labels(cache).inc(len(durations))
    for each in _tallies.values():
        each.flush()


REGISTRY.before_scrape(flush)


def _add(key: _Key, duration_s: float) -> None:
    if key in _pending:
        _pending[key].append(duration_s)
    else:
        _start_batch(key, duration_s)


def _start_batch(key: _Key, duration_s: float) -> None:
    is_first = not _pending
    _pending[key] = [duration_s]
    if is_first:
        _timer.start()


class FlushTimer:
    """Flushes in a while, once for everything that is counted meanwhile.

    A timer for each kind of answers would have the others start anew, ever more often.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        """The event loop in which the timer runs."""

    def start(self) -> None:
        """Flush soon; at once without an event loop, where nothing could do it."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            flush()
            return
        # A loop that has ended may have left its timer behind.
        if self._loop is not loop:
            self._loop = loop
            loop.call_later(FLUSH_AFTER_S, self._end)

    def _end(self) -> None:
        self._loop = None
        flush()


_timer: Final = FlushTimer()
