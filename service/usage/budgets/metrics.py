"""Metrics of budgets and webhooks."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.instants import US_PER_S
from service.observability.metrics import HTTP_BUCKETS_S, REGISTRY
from service.usage.budgets.model import Kind

RESULTS: Final = ("delivered", "retried", "failed")


class BudgetMetrics:
    """Metrics of firings and of their deliveries."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reached = Counter(
            "copilot_usage_budget_thresholds_reached",
            "Thresholds of budgets that have fired, by kind: used, or forecast; the "
            "log event names the budget.",
            ["kind"],
            registry=registry,
        )
        for kind in Kind:
            self.reached.labels(kind.value)
        self.attempts = Counter(
            "copilot_usage_webhook_attempts",
            "Attempts to deliver a firing, by result: delivered, retried (another one "
            "follows), or failed (undeliverable).",
            ["result"],
            registry=registry,
        )
        for result in RESULTS:
            self.attempts.labels(result)
        self.duration = Histogram(
            "copilot_usage_webhook_attempt_duration_seconds",
            "Duration of the attempts.",
            buckets=HTTP_BUCKETS_S,
            registry=registry,
        )
        self.running = Gauge(
            "copilot_usage_webhook_attempts_running",
            "Attempts in progress.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.waiting_since = Gauge(
            "copilot_usage_webhook_waiting_since_seconds",
            "Unix time of the oldest firing that is not delivered yet; 0 if none; the "
            "maximum of all workers.",
            multiprocess_mode="livemax",
            registry=registry,
        )


_metrics: Final = REGISTRY.declare(BudgetMetrics)


def reached(kind: Kind) -> None:
    """Count a threshold that has fired."""
    _metrics.current.reached.labels(kind.value).inc()


def attempt_began() -> None:
    """Count an attempt in progress."""
    _metrics.current.running.inc()


def attempt_ended(duration_s: float) -> None:
    """Measure an attempt."""
    _metrics.current.running.dec()
    _metrics.current.duration.observe(duration_s)


def attempted(result: str) -> None:
    """Count the result of an attempt."""
    _metrics.current.attempts.labels(result).inc()


def waiting_since(fired_at: int | None) -> None:
    """Note when the oldest firing was, in microseconds, that is not delivered yet."""
    _metrics.current.waiting_since.set((fired_at or 0) / US_PER_S)
