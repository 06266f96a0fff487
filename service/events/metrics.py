"""Metrics of collected events.

What each request changes is only noted, and written within `WRITE_AFTER_S` or before
the next scrape: writing it for each request would cost more than storing an event.
"""

import asyncio
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.observability.metrics import REGISTRY

WRITE_AFTER_S: Final = 0.5
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


class EventMetrics:
    """Received and removed events."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.received = Counter(
            "copilot_usage_events",
            "Events by result: accepted, duplicate, conflict or failed.",
            ("result",),
            registry=registry,
        )
        # A series that begins at 0 shows its first growth too.
        for result in ("accepted", "duplicate", "conflict", "failed"):
            self.received.labels(result)
        self.errors = Counter(
            "copilot_usage_events_errors",
            "Errors of failed events, by code.",
            ("code",),
            registry=registry,
        )
        self.replayed = Counter(
            "copilot_usage_events_replayed",
            "Failed events that a replay accepted, by result.",
            ("result",),
            registry=registry,
        )
        for result in ("accepted", "duplicate"):
            self.replayed.labels(result)
        self.discarded = Counter(
            "copilot_usage_events_discarded",
            "Failed events that were discarded by hand.",
            registry=registry,
        )
        self.removed = Counter(
            "copilot_usage_events_removed",
            "Events, failed ones too, that were removed after their retention.",
            registry=registry,
        )


class MaintenanceMetrics:
    """Delays of the counting and of the removal of events."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.uncounted = Gauge(
            "copilot_usage_events_uncounted_changes",
            "Changes of the number of events that were not in the counts yet.",
            # Every process measures the same database.
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.behind = Gauge(
            "copilot_usage_events_removal_behind_seconds",
            "Time since the next event to remove has expired; 0 if none has.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )


class CommitMetrics:
    """Commits of events, and the events that wait for one."""

    def __init__(self, registry: CollectorRegistry) -> None:
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
            # The sum over the running workers.
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.backlog_bytes = Gauge(
            "copilot_usage_events_backlog_bytes",
            "Bytes of request bodies that are received or wait to be written.",
            multiprocess_mode="livesum",
            registry=registry,
        )


_events: Final = REGISTRY.declare(EventMetrics)
_maintenance: Final = REGISTRY.declare(MaintenanceMetrics)
_commits: Final = REGISTRY.declare(CommitMetrics)


_received: Final[Counts[str]] = Counts()
_errors: Final[Counts[str]] = Counts()
_unwritten: Final[dict[Callable[[], None], None]] = {}


def write_later(write: Callable[[], None]) -> None:
    """Call `write` once, within `WRITE_AFTER_S` or before the next scrape."""
    is_first = not _unwritten
    _unwritten[write] = None
    if not is_first:
        return
    try:
        asyncio.get_running_loop().call_later(WRITE_AFTER_S, write_now)
    except RuntimeError:
        write_now()


def write_now() -> None:
    """Write all that was noted into the metrics."""
    writes = list(_unwritten)
    _unwritten.clear()
    for write in writes:
        write()


REGISTRY.before_scrape(write_now)


def events_received(results: Mapping[str, int], error_codes: Iterable[str]) -> None:
    """Count the events of one request, by result, and the errors of the failed ones."""
    for result, events in results.items():
        _received[result] += events
    for code in error_codes:
        _errors[code] += 1
    write_later(_write_received)


def _write_received() -> None:
    for result, events in _received.items():
        _events.current.received.labels(result).inc(events)
    for code, errors in _errors.items():
        _events.current.errors.labels(code).inc(errors)
    _received.clear()
    _errors.clear()


def events_replayed(result: str, events: int) -> None:
    """Count failed events that a replay accepted."""
    _events.current.replayed.labels(result).inc(events)


def events_discarded(events: int) -> None:
    """Count failed events that an operator discarded."""
    _events.current.discarded.inc(events)


def events_removed(events: int) -> None:
    """Count events that were removed after their retention."""
    _events.current.removed.inc(events)


def changes_uncounted(changes: int) -> None:
    """Set the number of changes that are not in the counts yet."""
    _maintenance.current.uncounted.set(changes)


def removal_behind(behind_s: float) -> None:
    """Set the time since the next event to remove has expired, in seconds."""
    _maintenance.current.behind.set(behind_s)


def commit_ended(outcome: str, duration_s: float) -> None:
    """Observe one commit; `outcome` is success, or the class of the error."""
    _commits.current.commit_duration.labels(outcome).observe(duration_s)


def backlog_changed(events: int) -> None:
    """Set the number of events that wait for a commit."""
    _commits.current.backlog.set(events)


def backlog_bytes_changed(size: int) -> None:
    """Set the bytes that requests have reserved for their bodies."""
    _commits.current.backlog_bytes.set(size)
