"""Metrics of the feed: consumers that wait, and a watermark that does not move."""

from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.observability.metrics import REGISTRY

End = Literal["events", "time_limit", "drain", "left"]
ENDS: Final[tuple[End, ...]] = ("events", "time_limit", "drain", "left")


class FeedMetrics:
    """Waits for events, and the watermark."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.waiting = Gauge(
            "copilot_usage_events_feed_waiting",
            "Requests that wait for events.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.waits = Counter(
            "copilot_usage_events_feed_waits",
            "Waits for events that ended: by events, time_limit, drain, or left.",
            ("end",),
            registry=registry,
        )
        # A series that begins at 0 shows its first growth too.
        for end in ENDS:
            self.waits.labels(end)
        self.refused = Counter(
            "copilot_usage_events_feed_refused",
            "Requests that could not wait for events, because too many waited.",
            registry=registry,
        )
        self.blocked = Gauge(
            "copilot_usage_events_feed_blocked_seconds",
            "Time for which an open transaction has held back the feed.",
            multiprocess_mode="livemax",
            registry=registry,
        )


_metrics: Final = REGISTRY.declare(FeedMetrics)


def waits_now(waiting: int) -> None:
    """Set the number of requests that wait."""
    _metrics.current.waiting.set(waiting)


def wait_ended(end: End) -> None:
    """Count a wait that has ended."""
    _metrics.current.waits.labels(end).inc()


def wait_refused() -> None:
    """Count a request that could not wait."""
    _metrics.current.refused.inc()


def feed_blocked(duration_s: float) -> None:
    """Set the time for which the watermark has not reached the last position."""
    _metrics.current.blocked.set(duration_s)
