"""Metrics of the keeping of periods."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.instants import US_PER_S
from service.observability.metrics import REGISTRY


class KeepingMetrics:
    """Metrics of kept periods."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.behind = Gauge(
            "copilot_usage_keeping_behind_since_seconds",
            "Unix time of the oldest snapshot that is not kept yet; 0 if all are kept; "
            "the maximum of all workers.",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.failures = Counter(
            "copilot_usage_keeping_failures",
            "Failed attempts to keep a snapshot.",
            registry=registry,
        )
        self.doubtful = Counter(
            "copilot_usage_periods_doubtful",
            "Snapshots that were not kept: they share no message with the open period, "
            "and do not begin after it.",
            registry=registry,
        )
        self.skipped = Counter(
            "copilot_usage_snapshots_not_kept",
            "Snapshots that were never compared with the kept period, because a later "
            "one replaced them or their worker ended.",
            registry=registry,
        )
        self.damaged = Counter(
            "copilot_usage_period_damaged",
            "Reads of kept periods that found a damaged part.",
            registry=registry,
        )
        self.changes = Counter(
            "copilot_usage_period_changes",
            "Changes of messages that were kept.",
            registry=registry,
        )
        self.statements = Counter(
            "copilot_usage_statements",
            "Closed periods that got a digest.",
            registry=registry,
        )
        self.removed = Counter(
            "copilot_usage_periods_removed",
            "Closed periods that were removed by `periods.retention`.",
            registry=registry,
        )
        self.sealing_failures = Counter(
            "copilot_usage_sealing_failures",
            "Failed attempts to compute the digest of a closed period.",
            registry=registry,
        )
        self.waiting_since: float | None = None


_metrics: Final = REGISTRY.declare(KeepingMetrics)


def behind_since(fetched_at: int) -> None:
    """Note a snapshot that waits to be kept, by the time of its fetch."""
    current = _metrics.current
    if current.waiting_since is None:
        current.waiting_since = fetched_at / US_PER_S
        current.behind.set(current.waiting_since)


def kept() -> None:
    """Note that no snapshot waits to be kept."""
    _metrics.current.waiting_since = None
    _metrics.current.behind.set(0)


def failed() -> None:
    """Count a failed attempt."""
    _metrics.current.failures.inc()


def skipped(snapshots: int) -> None:
    """Count snapshots that were never compared."""
    _metrics.current.skipped.inc(snapshots)


def doubted() -> None:
    """Count a snapshot that was not kept."""
    _metrics.current.doubtful.inc()


def damaged() -> None:
    """Count a read of a damaged part."""
    _metrics.current.damaged.inc()


def changed(changes: int) -> None:
    """Count kept changes."""
    _metrics.current.changes.inc(changes)


def sealed() -> None:
    """Count a closed period that got its digest."""
    _metrics.current.statements.inc()


def sealing_failed() -> None:
    """Count a failed attempt to compute a digest."""
    _metrics.current.sealing_failures.inc()


def removed() -> None:
    """Count a closed period that was removed."""
    _metrics.current.removed.inc()
