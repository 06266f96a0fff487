"""Spans by OpenTelemetry, sent to a collector over OTLP. Needs the extra `otel`.

Its global tracer provider is left alone: an application has its own and closes it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    format_span_id,
    format_trace_id,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.contextvars import bound_contextvars

from service.settings import Telemetry
from service.telemetry import Attributes, Kind, Note

EXPORT_TIMEOUT_S: Final = 3.0
"""For all tries of one batch; a server that stops waits no longer for a collector."""
TRACES_PATH: Final = "/v1/traces"

_KINDS: Final[dict[Kind, SpanKind]] = {
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "internal": SpanKind.INTERNAL,
}
_propagator: Final = TraceContextTextMapPropagator()


def exporter_to(endpoint: str) -> SpanExporter:
    """What sends spans to a collector, of which `endpoint` is the base URL."""
    return OTLPSpanExporter(
        endpoint=endpoint.rstrip("/") + TRACES_PATH, timeout=EXPORT_TIMEOUT_S
    )


class OtelTracer:
    """Makes spans and sends them, in batches, from a thread of its own."""

    def __init__(self, settings: Telemetry) -> None:
        self._provider = TracerProvider(
            resource=Resource.create(
                {
                    "service.name": settings.service_name,
                    "service.version": version("copilot-usage"),
                }
            ),
            sampler=ParentBased(TraceIdRatioBased(settings.sample_rate)),
            shutdown_on_exit=False,
        )
        exporter = exporter_to(settings.otlp_endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("copilot-usage")

    @contextmanager
    def span(
        self,
        name: str,
        kind: Kind,
        attributes: Attributes,
        caller: Mapping[str, str] | None,
    ) -> Iterator[Note]:
        """See `service.telemetry.Tracer`."""
        active = self._tracer.start_as_current_span(
            name,
            context=_propagator.extract(caller) if caller is not None else None,
            kind=_KINDS[kind],
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        )
        with active as span, bound_contextvars(**_ids_of(span)):
            try:
                yield lambda more: _note(span, more)
            except BaseException as error:
                error_type = getattr(error, "error_type", type(error).__name__)
                _note(span, {"error.type": error_type})
                raise

    def outgoing(self) -> dict[str, str]:
        """See `service.telemetry.Tracer`."""
        headers: dict[str, str] = {}
        _propagator.inject(headers)
        return headers

    def close(self) -> None:
        """Send what is left, and end."""
        self._provider.shutdown()


def _ids_of(span: Span) -> dict[str, str]:
    """The ids by which log lines name a span."""
    context = span.get_span_context()
    return {
        "trace_id": format_trace_id(context.trace_id),
        "span_id": format_span_id(context.span_id),
    }


def _note(span: Span, attributes: Attributes) -> None:
    span.set_attributes(attributes)
    if "error.type" in attributes:
        span.set_status(Status(StatusCode.ERROR))
