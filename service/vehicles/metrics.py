"""Metrics of vehicle look-ups and exports."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter

from service.observability.metrics import REGISTRY

NO_REASON: Final = "none"
FAILED: Final = ("vpic", "storage", "internal")
"""Reasons of a failure: vPIC or the database is unavailable, or the service failed."""
REASONS: Final = {
    "hit": (NO_REASON,),
    "miss": (NO_REASON,),
    "stale": (*FAILED, "limit"),
    "offline": (*FAILED, "limit"),
    "refused": ("limit",),
    "failed": FAILED,
}
"""Reasons by result; `limit`: too many others wait for vPIC."""


class VehicleMetrics:
    """Counters of look-ups, removals and exports."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.lookups = Counter(
            "copilot_usage_vehicles_lookups",
            "VINs looked up, by result, and by the reason if it is not as usual.",
            ("result", "reason"),
            registry=registry,
        )
        self.removed = Counter(
            "copilot_usage_vehicles_removed",
            "Removals of VINs; was_kept is false if the VIN was not cached.",
            ("was_kept",),
            registry=registry,
        )
        self.exports = Counter(
            "copilot_usage_vehicles_exports",
            "Exports by outcome: success, or the error's class.",
            ("outcome",),
            registry=registry,
        )
        # A series that begins at 0 shows its first growth too.
        self.results = {
            (result, reason): self.lookups.labels(result, reason)
            for result, reasons in REASONS.items()
            for reason in reasons
        }


_metrics: Final = REGISTRY.declare(VehicleMetrics)


def vehicle_looked_up(result: str, reason: str = NO_REASON) -> None:
    """Count a look-up of a VIN, by a result and a reason of `REASONS`."""
    _metrics.current.results[result, reason].inc()


def vehicles_found(number: int) -> None:
    """Count look-ups of VINs that were in memory."""
    _metrics.current.results["hit", NO_REASON].inc(number)


def vehicle_removed(*, was_kept: bool) -> None:
    """Count the removal of a VIN; `was_kept` is False if it was not stored."""
    _metrics.current.removed.labels(str(was_kept).lower()).inc()


def export_ended(outcome: str) -> None:
    """Count an export; `outcome` is `success`, or the class of its error."""
    _metrics.current.exports.labels(outcome).inc()
