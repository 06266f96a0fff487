"""Metrics of the database: transactions by use, their failures, and the circuit."""

from collections import Counter as Counts
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.observability.metrics import REGISTRY
from service.storage.errors import ConnectionLost, StorageTimeout, StorageUnavailable
from service.storage.uses import Use

CIRCUIT_STATES: Final = ("closed", "open")
OUTAGES: Final = (StorageUnavailable, ConnectionLost, StorageTimeout)
"""Errors of a database that is unavailable."""


class StorageMetrics:
    """Transactions, failures, and the circuit."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.transactions = Gauge(
            "copilot_usage_storage_transactions",
            "Transactions by use and state: waiting for a connection, or running.",
            ("use", "state"),
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.failures = Counter(
            "copilot_usage_storage_failures",
            "Transactions that failed, by use and the class of the error.",
            ("use", "error"),
            registry=registry,
        )
        self.refused = Counter(
            "copilot_usage_storage_refused",
            "Transactions that were refused because the circuit was open.",
            registry=registry,
        )
        self.circuit = Gauge(
            "copilot_usage_storage_breaker_state",
            "Number of workers whose circuit to the database is in the state.",
            ("state",),
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.without_redis = Gauge(
            "copilot_usage_redis_unavailable",
            "Number of workers for which Redis is unavailable.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.without_sentinels = Gauge(
            "copilot_usage_redis_sentinels_unavailable",
            "Number of workers to which no Sentinel of Redis answers.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.moved = Counter(
            "copilot_usage_redis_failovers",
            "Changes of the master of Redis that workers have followed.",
            registry=registry,
        )
        # A series that begins at 0 shows its first growth too.
        for use in Use:
            for error in OUTAGES:
                self.failures.labels(use, error.__name__)


_metrics: Final = REGISTRY.declare(StorageMetrics)


_transactions: Final[Counts[tuple[str, str]]] = Counts()
"""Those of this process."""


def waiting(use: str) -> int:
    """Return the number of transactions of this process that wait."""
    return _transactions[use, "waiting"]


def changed(use: str, state: str, change: int) -> None:
    """Change the number of transactions in a state, `waiting` or `running`."""
    _transactions[use, state] += change
    _metrics.current.transactions.labels(use, state).inc(change)


def failed(use: str, error: str) -> None:
    """Count a failed transaction by the class of its error."""
    _metrics.current.failures.labels(use, error).inc()


def refused() -> None:
    """Count a transaction that the open circuit has refused."""
    _metrics.current.refused.inc()


def circuit_changed(*, is_open: bool) -> None:
    """Set the state of this process's circuit."""
    current = "open" if is_open else "closed"
    for state in CIRCUIT_STATES:
        _metrics.current.circuit.labels(state).set(state == current)


def redis_changed(*, is_available: bool) -> None:
    """Set whether Redis is available to this process."""
    _metrics.current.without_redis.set(not is_available)


def sentinels_changed(*, are_available: bool) -> None:
    """Set whether a Sentinel answers this process."""
    _metrics.current.without_sentinels.set(not are_available)


def redis_moved() -> None:
    """Count a change of the master."""
    _metrics.current.moved.inc()
