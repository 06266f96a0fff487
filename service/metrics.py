"""Metrics: all of them, defined here once, for Prometheus to scrape at `/metrics`.

Whoever has something to count calls a function below, named for what has happened;
nobody else knows the library. With many worker processes each writes to files of its
own (`prepare_workers`), and whichever is scraped adds them up. docs/metrics.md lists
every metric.
"""

import asyncio
import atexit
import importlib
import os
import platform
import shutil
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    multiprocess,
    values,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
FLUSH_AFTER_S: Final = 0.5
"""Requests are written down together, so rarely that it costs each next to nothing."""

OTHER: Final = "_OTHER"
"""OpenTelemetry's word for unknown methods; here also for paths without a route."""
METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}
)
SUCCESS: Final = "success"
BREAKER_STATES: Final = ("closed", "open", "half_open")

HTTP_BUCKETS_S: Final = tuple(
    float(bound)
    for bound in "0.005 0.01 0.025 0.05 0.075 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10".split()
)
"""OpenTelemetry's advice for durations of HTTP."""
REFRESH_BUCKETS_S: Final = (
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    20,
    30,
    60,
)

COMMIT_BUCKETS_S: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
)

FETCHED_AT: Final = "copilot_usage_held_fetched_timestamp_seconds"
AGE: Final = "copilot_usage_held_age_seconds"
AGE_HELP: Final = "Age of the period that is held; with many workers, of the oldest."
PLAN_LABELS: Final = ("usage_plan",)

disable_created_metrics()  # type: ignore[no-untyped-call]


class TalliedHistogram(Histogram):
    """A histogram that takes many amounts at the price of a few."""

    def observe_all(self, amounts: list[float]) -> None:
        """Observe every amount; the list is sorted by this."""
        amounts.sort()
        self._sum.inc(sum(amounts))
        counted = 0
        for bound, bucket in zip(self._upper_bounds, self._buckets, strict=True):
            below = bisect_right(amounts, bound)
            if below > counted:
                bucket.inc(below - counted)
            counted = below


class ServerMetrics:
    """What callers ask, and what they get."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.duration = TalliedHistogram(
            "http_server_request_duration_seconds",
            "Duration of requests, until their answer is ready to be sent.",
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
            "Answers by where they came from: hit, stale or miss.",
            ("result",),
            registry=registry,
        )
        build = Gauge(
            "copilot_usage_build_info",
            "Always 1; its labels say what runs.",
            ("version", "python_version"),
            multiprocess_mode="max",
            registry=registry,
        )
        build.labels(version("copilot-usage"), platform.python_version()).set(1)
        self._active: dict[str, Gauge] = {}

    def active_of(self, method: str) -> Gauge:
        """The gauge of a method, found sooner than by its label."""
        if method not in self._active:
            method = _known(method)
            self._active[method] = self.active.labels(method)
        return self._active[method]


class UpstreamMetrics:
    """What is asked of upstream, and how its answers are."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.duration = Histogram(
            "http_client_request_duration_seconds",
            "Duration of tries to call upstream, until the body is read.",
            ("http_request_method", "url_template", "outcome"),
            buckets=HTTP_BUCKETS_S,
            registry=registry,
        )
        self.retries = Counter(
            "copilot_usage_upstream_retries",
            "Tries that were repeated, by whom they called and why.",
            ("upstream", "reason"),
            registry=registry,
        )
        self.refused_retries = Counter(
            "copilot_usage_upstream_retries_refused",
            "Failed tries that were not repeated, by what refused: circuit or budget.",
            ("upstream", "reason"),
            registry=registry,
        )
        self.breaker = Gauge(
            "copilot_usage_upstream_breaker_state",
            "1 for the state that a circuit is in; with many workers, their number.",
            ("upstream", "state"),
            multiprocess_mode="livesum",
            registry=registry,
        )


class PeriodMetrics:
    """The period that is held, and how it is refreshed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refresh_duration = Histogram(
            "copilot_usage_refresh_duration_seconds",
            "Duration of refreshes, by outcome: success, or the error's class.",
            ("outcome",),
            buckets=REFRESH_BUCKETS_S,
            registry=registry,
        )
        self.refreshing = Gauge(
            "copilot_usage_refreshes_in_progress",
            "Refreshes under way.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.reports = Gauge(
            "copilot_usage_reports_held",
            "Reports held; with many workers, of that with the most.",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.shrinks = Counter(
            "copilot_usage_messages_shrunk",
            "Fetches that have lost most messages, unconfirmed or confirmed.",
            ("result",),
            registry=registry,
        )
        # Their label keeps the following ones absent until a period is held.
        self.fetched_at = Gauge(
            FETCHED_AT,
            "When the held period was fetched; with many workers, the oldest.",
            PLAN_LABELS,
            multiprocess_mode="livemin",
            registry=registry,
        )
        self.messages = Gauge(
            "copilot_usage_period_messages",
            "Messages in the period that was fetched last.",
            PLAN_LABELS,
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self.credits = Gauge(
            "copilot_usage_period_credits",
            "Credits used in the period that was fetched last.",
            PLAN_LABELS,
            multiprocess_mode="mostrecent",
            registry=registry,
        )


class EventMetrics:
    """Events of applications: what comes, and how it reaches the disk."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.received = Counter(
            "copilot_usage_events",
            "Events by what became of them: accepted, duplicate, conflict or failed.",
            ("result",),
            registry=registry,
        )
        self.errors = Counter(
            "copilot_usage_events_errors",
            "Errors of failed events, by code.",
            ("code",),
            registry=registry,
        )
        self.replayed = Counter(
            "copilot_usage_events_replayed",
            "Failed events that were accepted later, by what became of them.",
            ("result",),
            registry=registry,
        )
        self.removed = Counter(
            "copilot_usage_events_removed",
            "Events, failed ones too, that were kept long enough.",
            registry=registry,
        )
        self.commit_duration = Histogram(
            "copilot_usage_events_commit_duration_seconds",
            "Duration of writing a group of events to disk, by outcome.",
            ("outcome",),
            buckets=COMMIT_BUCKETS_S,
            registry=registry,
        )
        self.backlog = Gauge(
            "copilot_usage_events_backlog",
            "Events that wait to be written.",
            multiprocess_mode="livesum",
            registry=registry,
        )


class VehicleMetrics:
    """Vehicles: where look-ups are answered from."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.lookups = Counter(
            "copilot_usage_vehicles_lookups",
            "VINs looked up, by result: hit, stale, miss, offline or failed.",
            ("result",),
            registry=registry,
        )
        self.removed = Counter(
            "copilot_usage_vehicles_removed",
            "VINs that were to be removed, by whether they were kept.",
            ("was_kept",),
            registry=registry,
        )
        self.exports = Counter(
            "copilot_usage_vehicles_exports",
            "Exports by outcome: success, or the error's class.",
            ("outcome",),
            registry=registry,
        )
        self.results = {
            result: self.lookups.labels(result)
            for result in ("hit", "stale", "miss", "offline", "failed")
        }


class Metrics:
    """Every metric; made anew where workers are going to share them."""

    def __init__(self) -> None:
        self.make()

    def make(self) -> None:
        """Make all metrics, with nothing counted yet."""
        if folder := os.environ.get(FOLDER_VARIABLE):
            Path(folder).mkdir(parents=True, exist_ok=True)
        registry = CollectorRegistry()
        self.server = ServerMetrics(registry)
        self.upstream = UpstreamMetrics(registry)
        self.period = PeriodMetrics(registry)
        self.events = EventMetrics(registry)
        self.vehicles = VehicleMetrics(registry)
        counted: Collector = registry
        if folder:
            counted = multiprocess.MultiProcessCollector(None)  # type: ignore[no-untyped-call]
        else:
            # Of many workers it could tell only of the one that is scraped.
            ProcessCollector(registry=registry)
        self.scraped = CollectorRegistry()
        self.scraped.register(_WithAge(counted))


class _WithAge(Collector):
    """All that another collector has, and the age of what is held, as it is now.

    Computed here and not by a callback of the gauge, which only its own worker had.
    """

    def __init__(self, counted: Collector) -> None:
        self._counted = counted

    def collect(self) -> Iterator[Metric]:
        for metric in self._counted.collect():
            yield metric
            if metric.name == FETCHED_AT:
                yield _age_of(metric)


def _age_of(fetched_at: Metric) -> Metric:
    age, now = GaugeMetricFamily(AGE, AGE_HELP, labels=PLAN_LABELS), time.time()
    for sample in fetched_at.samples:
        age.add_metric(tuple(sample.labels.values()), max(0.0, now - sample.value))
    return age


_metrics: Final = Metrics()

_Key = tuple[str, str | None, int, str | None]
_pending: Final[dict[_Key, list[float]]] = {}
"""Durations of answered requests that are not written down yet, by all else."""


# --- requests -----------------------------------------------------------------------


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
    try:
        _pending[method, route, status, cache].append(duration_s)
    except KeyError:
        _begin_tally((method, route, status, cache), duration_s)


def request_started(method: str) -> None:
    """Note that a request is being answered, until `request_ended`.

    Needless for one that is answered without an `await`: no scrape could see it.
    """
    _metrics.server.active_of(method).inc()


def request_ended(method: str) -> None:
    """Note that a request is answered, or has been given up."""
    _metrics.server.active_of(method).dec()


def flush() -> None:
    """Write down the requests answered since the last time."""
    pending = _pending.copy()
    _pending.clear()
    server = _metrics.server
    for (method, route, status, cache), durations in pending.items():
        answered = len(durations)
        server.duration.labels(
            _known(method), OTHER if route is None else route, status
        ).observe_all(durations)
        if cache is not None:
            server.cache_results.labels(cache).inc(answered)


def _begin_tally(key: _Key, duration_s: float) -> None:
    is_first = not _pending
    _pending[key] = [duration_s]
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        flush()
        return
    if is_first:
        loop.call_later(FLUSH_AFTER_S, flush)


def _known(method: str) -> str:
    return method if method in METHODS else OTHER


# --- upstream -----------------------------------------------------------------------


def try_ended(
    method: str, url_template: str, outcome: int | str, duration_s: float
) -> None:
    """Count one try to call upstream; `outcome` is a status or an error's class."""
    duration = _metrics.upstream.duration
    duration.labels(_known(method), url_template, outcome).observe(duration_s)


def retried(upstream: str, reason: str) -> None:
    """Count a try that is repeated; `reason` is the status or error of the last."""
    _metrics.upstream.retries.labels(upstream, reason).inc()


def retry_refused(upstream: str, reason: str) -> None:
    """Count a try that may not be repeated; `reason` is `circuit` or `budget`."""
    _metrics.upstream.refused_retries.labels(upstream, reason).inc()


def breaker_changed(upstream: str, state: str) -> None:
    """Note the state that this process's circuit for one upstream is in now."""
    for each in BREAKER_STATES:
        _metrics.upstream.breaker.labels(upstream, each).set(each == state)


# --- the period ---------------------------------------------------------------------


@contextmanager
def refreshing(clock: Callable[[], float]) -> Iterator[None]:
    """Around one refresh: count it and its duration, by how it ends."""
    period, started = _metrics.period, clock()
    period.refreshing.inc()
    outcome = SUCCESS
    try:
        yield
    except BaseException as error:
        outcome = type(error).__name__
        raise
    finally:
        period.refreshing.dec()
        period.refresh_duration.labels(outcome).observe(clock() - started)


def snapshot_cached(
    plan: str, messages: int, credits_used: float, age_s: float
) -> None:
    """Note the totals of the current snapshot under a plan, and its age."""
    period = _metrics.period
    period.fetched_at.labels(plan).set(time.time() - age_s)
    period.messages.labels(plan).set(messages)
    period.credits.labels(plan).set(credits_used)


def reports_cached(reports: int) -> None:
    """Note how many reports are cached."""
    _metrics.period.reports.set(reports)


def messages_shrunk(result: str) -> None:
    """Count a fetch that has lost most messages; `result` says if it is believed."""
    _metrics.period.shrinks.labels(result).inc()


# --- events -------------------------------------------------------------------------


def events_received(results: Mapping[str, int], error_codes: Iterable[str]) -> None:
    """Count the events of one request, by result, and the errors of the failed ones."""
    for result, events in results.items():
        _metrics.events.received.labels(result).inc(events)
    for code in error_codes:
        _metrics.events.errors.labels(code).inc()


def event_replayed(result: str) -> None:
    """Count a failed event that keeps its contract by now."""
    _metrics.events.replayed.labels(result).inc()


def events_removed(events: int) -> None:
    """Count events that were kept long enough."""
    _metrics.events.removed.inc(events)


def commit_ended(outcome: str, duration_s: float) -> None:
    """Count a group's way to disk; `outcome` is success, or the error's class."""
    _metrics.events.commit_duration.labels(outcome).observe(duration_s)


def backlog_changed(events: int) -> None:
    """Note how many events wait to be written."""
    _metrics.events.backlog.set(events)


# --- vehicles -----------------------------------------------------------------------


def vehicle_looked_up(result: str) -> None:
    """Count a VIN that was looked up, by where the answer came from."""
    _metrics.vehicles.results[result].inc()


def vehicle_removed(*, was_kept: bool) -> None:
    """Count a VIN that was to be removed."""
    _metrics.vehicles.removed.labels(str(was_kept).lower()).inc()


def export_ended(outcome: str) -> None:
    """Count an export; `outcome` is success, or the error's class."""
    _metrics.vehicles.exports.labels(outcome).inc()


# --- scraping, and many workers -----------------------------------------------------


def expose(accept: str) -> tuple[bytes, str]:
    """All metrics, and the content type of the form that the scraper accepts."""
    flush()
    encode, content_type = choose_encoder(accept)
    return encode(_metrics.scraped), content_type


def prepare_workers() -> None:
    """Count over all workers together; called once, before the first is forked.

    They write to files in `PROMETHEUS_MULTIPROC_DIR`, by default a temporary folder
    that goes at the end. What an earlier run has left there goes now.
    """
    if FOLDER_VARIABLE not in os.environ:
        os.environ[FOLDER_VARIABLE] = tempfile.mkdtemp(prefix="copilot-usage-metrics-")
        atexit.register(_remove_folder, os.environ[FOLDER_VARIABLE], os.getpid())
    for file in Path(os.environ[FOLDER_VARIABLE]).glob("*.db"):
        file.unlink()
    # The library looks at the environment only here: it decides again.
    importlib.reload(values)
    _metrics.make()


def child_exited(pid: int) -> None:
    """Forget the gauges of a worker that has ended; what it counted stays."""
    if FOLDER_VARIABLE in os.environ:
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _remove_folder(folder: str, owner_pid: int) -> None:
    """Remove the temporary folder, unless this is a fork of its maker."""
    if os.getpid() == owner_pid:
        shutil.rmtree(folder, ignore_errors=True)
