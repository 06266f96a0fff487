"""Metrics of requests that are refused for want of a key, a scope or an origin."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter

from service.observability.metrics import REGISTRY
from service.settings import SCOPES, Scope

NO_SCOPE: Final = "none"
"""`scope` of an endpoint that needs none."""
REASONS: Final = ("unauthorized", "forbidden", "cross_origin", "csrf_token_missing")
"""Values of `reason`: the codes of the problems."""


class _AuthMetrics:
    """Refused requests, by the problem's code and the scope of the endpoint."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refused = Counter(
            "copilot_usage_auth_refused",
            "Requests that were refused, by the code of the problem and the scope.",
            ("reason", "scope"),
            registry=registry,
        )
        # An increase from nothing to 1 would not be seen.
        for reason in REASONS:
            for scope in (*SCOPES, NO_SCOPE):
                self.refused.labels(reason, scope)


_metrics: Final = REGISTRY.declare(_AuthMetrics)


def request_refused(reason: str, scope: Scope | None) -> None:
    """Count a refused request; `reason` is the code of its problem."""
    _metrics.current.refused.labels(reason, scope or NO_SCOPE).inc()
