"""Metrics of lanes: requests that run, wait and are refused."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.observability.http_metrics import BatchHistogram
from service.observability.metrics import HTTP_BUCKETS_S, REGISTRY

REASONS: Final = ("queue_full", "expected_wait", "waited", "displaced", "time_limit")


class _LaneMetrics:
    """Requests in lanes, by lane."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.running = Gauge(
            "copilot_usage_lane_running",
            "Requests that run in a lane.",
            ("lane",),
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.waiting = Gauge(
            "copilot_usage_lane_waiting",
            "Requests that wait for a lane.",
            ("lane",),
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.wait = BatchHistogram(
            "copilot_usage_lane_wait_seconds",
            "Wait of the requests that a lane has accepted.",
            ("lane",),
            buckets=HTTP_BUCKETS_S,
            registry=registry,
        )
        self.refused = Counter(
            "copilot_usage_lane_refused",
            "Requests that a lane has refused or ended, by reason.",
            ("lane", "reason"),
            registry=registry,
        )


_metrics: Final = REGISTRY.declare(_LaneMetrics)


class LaneMetrics:
    """The metrics of one lane."""

    def __init__(self, lane: str) -> None:
        self._lane = lane
        self.refusals = 0
        """Requests that were refused or ended, in this process."""
        # A series that begins at 0 shows its first growth too.
        for reason in REASONS:
            _metrics.current.refused.labels(lane, reason)

    def waiting(self, requests: int) -> None:
        """Set the number of waiting requests."""
        _metrics.current.waiting.labels(self._lane).set(requests)

    def started(self, wait_s: float, running: int) -> None:
        """Observe the wait of a request that starts, and set the number that run."""
        metrics = _metrics.current
        metrics.wait.labels(self._lane).observe(wait_s)
        metrics.running.labels(self._lane).set(running)

    def started_all(self, waits_s: list[float], running: int) -> None:
        """Observe the waits of many requests; sorts the list."""
        metrics = _metrics.current
        metrics.wait.labels(self._lane).observe_all(waits_s)
        metrics.running.labels(self._lane).set(running)

    def ended(self, running: int) -> None:
        """Set the number of running requests."""
        _metrics.current.running.labels(self._lane).set(running)

    def refused(self, reason: str) -> None:
        """Count a request that was refused or ended, by one of `REASONS`."""
        self.refusals += 1
        _metrics.current.refused.labels(self._lane, reason).inc()
