"""Metrics of the calls to upstreams."""

import time
from collections import Counter as Counts
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from service.observability.metrics import HTTP_BUCKETS_S, REGISTRY, known_method

CLOSED, OPEN, HALF_OPEN = BREAKER_STATES = ("closed", "open", "half_open")
STATE: Final = "copilot_usage_upstream_breaker_state"
STATE_HELP: Final = "Number of workers whose circuit is in the state."


class UpstreamMetrics:
    """Metrics of tries, retries and circuits."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.duration = Histogram(
            "http_client_request_duration_seconds",
            "Duration of tries to call upstream, until the body is read.",
            ("http_request_method", "url_template", "outcome"),
            buckets=HTTP_BUCKETS_S,
            registry=registry,
        )
        self.retries = Counter(
            "copilot_usage_upstream_retries",
            "Tries that were repeated, by upstream and by the reason.",
            ("upstream", "reason"),
            registry=registry,
        )
        self.refused_retries = Counter(
            "copilot_usage_upstream_retries_refused",
            "Failed tries that were not repeated, by the reason: circuit or budget.",
            ("upstream", "reason"),
            registry=registry,
        )
        self.breaker = Gauge(
            STATE,
            STATE_HELP,
            ("upstream", "state"),
            # Of each worker, for `_states_of`.
            multiprocess_mode="liveall",
            registry=registry,
        )


def _states_of(circuits: Metric) -> Metric:
    """Return the number of workers by the state of their circuits now.

    An open circuit has the time until which it refuses calls. Then it permits probes,
    also in a worker that makes no call, which would otherwise stay open for ever.
    """
    now, counts = time.time(), Counts[tuple[str, str]]()
    for sample in circuits.samples:
        upstream, state = sample.labels["upstream"], sample.labels["state"]
        counts[upstream, state] += 0
        if sample.value:
            has_ended = state == OPEN and sample.value <= now
            counts[upstream, HALF_OPEN if has_ended else state] += 1
    states = GaugeMetricFamily(STATE, STATE_HELP, labels=("upstream", "state"))
    for labels, workers in counts.items():
        states.add_metric(labels, workers)
    return states


_metrics: Final = REGISTRY.declare(UpstreamMetrics)
REGISTRY.derive(STATE, _states_of)


def try_ended(
    method: str, url_template: str, outcome: int | str, duration_s: float
) -> None:
    """Count one try to call upstream; `outcome` is a status or an error's class."""
    duration = _metrics.current.duration
    duration.labels(known_method(method), url_template, outcome).observe(duration_s)


def retried(upstream: str, reason: str) -> None:
    """Count a try that is repeated; `reason` is the status or error of the last."""
    _metrics.current.retries.labels(upstream, reason).inc()


def retry_refused(upstream: str, reason: str) -> None:
    """Count a try that may not be repeated; `reason` is `circuit` or `budget`."""
    _metrics.current.refused_retries.labels(upstream, reason).inc()


def breaker_changed(upstream: str, state: str, refuses_for_s: float) -> None:
    """Set the state of this process's circuit for an upstream.

    An open circuit refuses calls for so many seconds; infinite if an operator keeps it.
    """
    current = time.time() + refuses_for_s if state == OPEN else 1.0
    for each in BREAKER_STATES:
        value = current if each == state else 0.0
        _metrics.current.breaker.labels(upstream, each).set(value)
