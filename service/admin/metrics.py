"""Metrics of operation by hand: circuits that operators keep in a state."""

from collections.abc import Iterable
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Gauge

from service.observability.metrics import REGISTRY

STATES: Final = {"open": "open", "close": "closed"}
"""States by the order that sets them; `auto` sets none."""


class AdminMetrics:
    """Circuits that operators keep in a state."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.forced = Gauge(
            "copilot_usage_circuits_forced",
            "Number of workers whose circuit an operator keeps in the state.",
            ("circuit", "state"),
            multiprocess_mode="livesum",
            registry=registry,
        )


_metrics: Final = REGISTRY.declare(AdminMetrics)


def circuits_begin(circuits: Iterable[str]) -> None:
    """Begin with circuits that no operator keeps."""
    for each in circuits:
        circuit_ordered(each, "auto")


def circuit_ordered(circuit: str, order: Literal["open", "close", "auto"]) -> None:
    """Set the state in which an operator keeps a circuit of this process."""
    for each, state in STATES.items():
        _metrics.current.forced.labels(circuit, state).set(each == order)
