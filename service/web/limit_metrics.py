"""Metrics of the rates of clients that processes share through Redis."""

from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, Counter

from service.observability.metrics import REGISTRY

Result = Literal["done", "late", "unavailable"]


class LimitMetrics:
    """Exchanges with Redis."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.exchanges = Counter(
            "copilot_usage_client_rate_exchanges",
            "Exchanges with Redis about the rates of clients, by result.",
            ("result",),
            registry=registry,
        )
        # A series that begins at 0 shows its first growth too.
        for result in get_args(Result):
            self.exchanges.labels(result)


_metrics: Final = REGISTRY.declare(LimitMetrics)


def exchanged(result: Result) -> None:
    """Count an exchange."""
    _metrics.current.exchanges.labels(result).inc()
