"""Metrics of the queue: the stream, as each process sees it, and its publishers.

They exist only in processes with a queue. Every process measures the same stream, so
that its gauges are those that were measured last; they are never added up.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.events.metrics import write_later
from service.observability.http_metrics import BatchHistogram
from service.observability.metrics import REGISTRY, SUCCESS

PUBLISH_BUCKETS_S: Final = (
    0.001,
    0.0025,
    0.005,
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
)
REPLICA_STATES: Final = ("current", "behind", "offline", "missing")
LATEST: Final = "livemostrecent"


class StreamMetrics:
    """Content, limits and replicas of the stream."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.unavailable = Gauge(
            "copilot_usage_queue_unavailable",
            "Processes that cannot use the stream: no server or no leader answers.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.messages = Gauge(
            "copilot_usage_queue_messages",
            "Messages in the stream, each with the events of a request.",
            multiprocess_mode=LATEST,
            registry=registry,
        )
        self.bytes = Gauge(
            "copilot_usage_queue_bytes",
            "Size of the messages in the stream.",
            multiprocess_mode=LATEST,
            registry=registry,
        )
        self.max_bytes = Gauge(
            "copilot_usage_queue_max_bytes",
            "Maximum size of the stream, above which it refuses events.",
            multiprocess_mode=LATEST,
            registry=registry,
        )
        self.waiting_since = Gauge(
            "copilot_usage_queue_waiting_since_seconds",
            "Unix time of the arrival of the oldest message; 0 if there is none.",
            multiprocess_mode=LATEST,
            registry=registry,
        )
        self.partitions = Gauge(
            "copilot_usage_queue_stream_partitions",
            "Partitions of the stream, each of which needs a writer.",
            multiprocess_mode=LATEST,
            registry=registry,
        )
        self.replicas = Gauge(
            "copilot_usage_queue_replicas",
            "Replicas of the stream by state.",
            ("state",),
            multiprocess_mode=LATEST,
            registry=registry,
        )
        for state in REPLICA_STATES:
            self.replicas.labels(state)


class PublisherMetrics:
    """Messages of the collectors."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.duration = BatchHistogram(
            "copilot_usage_queue_publish_duration_seconds",
            "Time from the request to the acknowledgement of the stream, by outcome.",
            ("outcome",),
            buckets=PUBLISH_BUCKETS_S,
            registry=registry,
        )
        self.repeated = Counter(
            "copilot_usage_queue_published_again",
            "Messages that were published again because no acknowledgement came.",
            registry=registry,
        )


class WriterMetrics:
    """Partitions and stored events of the writers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.partitions = Gauge(
            "copilot_usage_queue_partitions",
            "Partitions whose events this process stores.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.stored = Counter(
            "copilot_usage_queue_events_stored",
            "Events of the stream that were stored, by result.",
            ("result",),
            registry=registry,
        )
        # A series that begins at 0 shows its first growth too.
        for result in ("accepted", "duplicate", "conflict", "failed"):
            self.stored.labels(result)
        self.sessions = Counter(
            "copilot_usage_queue_sessions_ended",
            "Ends of the delivery of a partition, which then began anew.",
            registry=registry,
        )
        self.repeated = Counter(
            "copilot_usage_queue_delivered_again",
            "Messages that came again, because an acknowledgement was lost.",
            registry=registry,
        )


_stream: Final = REGISTRY.declare(StreamMetrics)
_publisher: Final = REGISTRY.declare(PublisherMetrics)
_writer: Final = REGISTRY.declare(WriterMetrics)


def stream_available(*, is_available: bool) -> None:
    """Set whether this process can use the stream."""
    _stream.current.unavailable.set(not is_available)


def stream_measured(
    messages: int, size: int, max_size: int, waiting_since_s: float
) -> None:
    """Set the content of the stream."""
    stream = _stream.current
    stream.messages.set(messages)
    stream.bytes.set(size)
    stream.max_bytes.set(max_size)
    stream.waiting_since.set(waiting_since_s)


def partitions_measured(partitions: int) -> None:
    """Set the number of partitions of the stream."""
    _stream.current.partitions.set(partitions)


def replicas_measured(states: dict[str, int]) -> None:
    """Set the number of replicas by state."""
    for state in REPLICA_STATES:
        _stream.current.replicas.labels(state).set(states.get(state, 0))


_published: Final[defaultdict[str, list[float]]] = defaultdict(list)


def published(outcome: str, duration_s: float) -> None:
    """Observe the end of a request: `SUCCESS`, or the class of the error."""
    _published[outcome].append(duration_s)
    # Written for each request, it would cost more than the request's message.
    write_later(_write_published)


def _write_published() -> None:
    for outcome, durations_s in _published.items():
        _publisher.current.duration.labels(outcome).observe_all(durations_s)
    _published.clear()


def published_again() -> None:
    """Count a message that is published once more."""
    _publisher.current.repeated.inc()


def partitions_owned(number: int) -> None:
    """Set the number of partitions whose events this process stores."""
    _writer.current.partitions.set(number)


def events_stored(results: Mapping[str, int]) -> None:
    """Count stored events by result."""
    for result, number in results.items():
        _writer.current.stored.labels(result).inc(number)


def session_ended() -> None:
    """Count an end of the delivery of a partition."""
    _writer.current.sessions.inc()


def delivered_again(number: int) -> None:
    """Count messages that came again."""
    _writer.current.repeated.inc(number)


_publisher.current.duration.labels(SUCCESS)
