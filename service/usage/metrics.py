"""Metrics of the current period and its refreshes."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from service.observability.metrics import REGISTRY, SUCCESS

FAILURES: Final = (
    "DeadlineExceeded",
    "MessagesUnavailable",
    "ReportUnavailable",
    "ShrinkUnconfirmed",
    "WorkerLost",
)
"""The classes of `RefreshFailed`."""
REFRESH_BUCKETS_S: Final = (
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    20,
    30,
    60,
)

AGE: Final = "copilot_usage_answer_age_seconds"
AGE_HELP: Final = "Age of the period in the last answer; the maximum of all workers."
IDLE_S: Final = 60.0
"""A worker that has not answered for so long does not count in the age."""
ANSWERED_AT: Final = "answered_at"
PLAN_LABELS: Final = ("usage_plan",)


class PeriodMetrics:
    """Metrics of the cached period and of its refreshes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._declare_refreshes(registry)
        self._declare_snapshot(registry)

    def _declare_refreshes(self, registry: CollectorRegistry) -> None:
        self.refresh_duration = Histogram(
            "copilot_usage_refresh_duration_seconds",
            "Duration of refreshes, by outcome: success, or the error's class.",
            ("outcome",),
            buckets=REFRESH_BUCKETS_S,
            registry=registry,
        )
        self.refreshing = Gauge(
            "copilot_usage_refreshes_in_progress",
            "Refreshes in progress.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.exports = Counter(
            "copilot_usage_exports",
            "Exports of usage by format and outcome: success, or the error's class.",
            ("format", "outcome"),
            registry=registry,
        )
        self.shrinks = Counter(
            "copilot_usage_messages_shrunk",
            "Fetches that have lost most messages: unconfirmed or confirmed.",
            ("result",),
            registry=registry,
        )
        # A series that begins at 0 shows its first growth too.
        for outcome in (SUCCESS, *FAILURES):
            self.refresh_duration.labels(outcome)
        for result in ("unconfirmed", "confirmed"):
            self.shrinks.labels(result)

    def _declare_snapshot(self, registry: CollectorRegistry) -> None:
        self.reports = Gauge(
            "copilot_usage_reports_held",
            "Cached reports; the maximum of all workers.",
            multiprocess_mode="livemax",
            registry=registry,
        )
        # A metric with a label is absent until a period is cached, and not 0.
        self.answer = Gauge(
            AGE,
            AGE_HELP,
            ("moment",),
            # Of each worker, for `_age_of`.
            multiprocess_mode="liveall",
            registry=registry,
        )
        self.messages = Gauge(
            "copilot_usage_period_messages",
            "Messages in the current period.",
            PLAN_LABELS,
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self.credits = Gauge(
            "copilot_usage_period_credits",
            "Credits used in the current period.",
            PLAN_LABELS,
            multiprocess_mode="mostrecent",
            registry=registry,
        )


def _age_of(answers: Metric) -> Metric:
    """Return the oldest age of the workers that have answered lately, if any has."""
    moments: defaultdict[str | None, dict[str, float]] = defaultdict(dict)
    for sample in answers.samples:
        moments[sample.labels.get("pid")][sample.labels["moment"]] = sample.value
    since = time.time() - IDLE_S
    ages = [each["age"] for each in moments.values() if each[ANSWERED_AT] >= since]
    age = GaugeMetricFamily(AGE, AGE_HELP)
    if ages:
        age.add_metric((), max(ages))
    return age


_metrics: Final = REGISTRY.declare(PeriodMetrics)
REGISTRY.derive(AGE, _age_of)


@contextmanager
def refreshing(clock: Callable[[], float]) -> Iterator[None]:
    """Count a refresh, and measure its duration by outcome."""
    period, started = _metrics.current, clock()
    period.refreshing.inc()
    outcome = SUCCESS
    try:
        yield
    except BaseException as error:
        outcome = type(error).__name__
        raise
    finally:
        period.refreshing.dec()
        period.refresh_duration.labels(outcome).observe(clock() - started)


def snapshot_cached(plan: str, messages: int, credits_used: float) -> None:
    """Set the totals of the current snapshot under a plan."""
    period = _metrics.current
    period.messages.labels(plan).set(messages)
    period.credits.labels(plan).set(credits_used)


def answered(age_s: float) -> None:
    """Set the age of the snapshot from which this process has just answered."""
    answer = _metrics.current.answer
    answer.labels("age").set(max(0.0, age_s))
    answer.labels(ANSWERED_AT).set(time.time())


def reports_cached(reports: int) -> None:
    """Set the number of cached reports."""
    _metrics.current.reports.set(reports)


def messages_shrunk(result: str) -> None:
    """Count a fetch that has lost most messages: `unconfirmed` or `confirmed`."""
    _metrics.current.shrinks.labels(result).inc()


def export_ended(form: str, outcome: str) -> None:
    """Count an export; `outcome` is `success`, or the class of its error."""
    _metrics.current.exports.labels(form, outcome).inc()
