"""Metrics of keys: refused requests, and the rates that processes share."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter

from service.observability.metrics import REGISTRY
from service.settings import SCOPES, Scope

NO_SCOPE: Final = "none"
"""`scope` of an endpoint that needs none."""
REASONS: Final = ("unauthorized", "forbidden", "cross_origin", "csrf_token_missing")
"""Values of `reason`: the codes of the problems."""
PORTIONS: Final = ("taken", "refused", "unavailable")
"""Values of `result`."""


class _AuthMetrics:
    """Refused requests, by the problem's code and the scope of the endpoint."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refused = Counter(
            "copilot_usage_auth_refused",
            "Requests that were refused, by the code of the problem and the scope.",
            ("reason", "scope"),
            registry=registry,
        )
        self.portions = Counter(
            "copilot_usage_key_rate_portions",
            "Portions of permits that processes asked Redis for, by result.",
            ("result",),
            registry=registry,
        )
        for result in PORTIONS:
            self.portions.labels(result)
        # An increase from nothing to 1 would not be seen.
        for reason in REASONS:
            for scope in (*SCOPES, NO_SCOPE):
                self.refused.labels(reason, scope)


_metrics: Final = REGISTRY.declare(_AuthMetrics)


def request_refused(reason: str, scope: Scope | None) -> None:
    """Count a refused request; `reason` is the code of its problem."""
    _metrics.current.refused.labels(reason, scope or NO_SCOPE).inc()


def portion_taken(result: str) -> None:
    """Count a portion of a key's permits that Redis was asked for."""
    _metrics.current.portions.labels(result).inc()
