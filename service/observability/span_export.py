"""Set-up of OpenTelemetry's SDK: spans go to a collector over OTLP.

Needs the extra `otel`; `observability.tracing` imports it only where traces are on.
"""

from importlib.metadata import version
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from service.settings import TelemetrySettings

EXPORT_TIMEOUT_S: Final = 3.0
"""For all tries of one batch, and so for the wait of a server that stops."""
TRACES_PATH: Final = "/v1/traces"


def exporter_to(endpoint: str) -> SpanExporter:
    """Return an exporter to the collector at the base URL `endpoint`."""
    return OTLPSpanExporter(
        endpoint=endpoint.rstrip("/") + TRACES_PATH, timeout=EXPORT_TIMEOUT_S
    )


def open_provider(settings: TelemetrySettings) -> TracerProvider:
    """Return a provider that exports in batches from its own thread.

    Its `shutdown` exports the remaining spans, and blocks until it has.
    """
    provider = TracerProvider(
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
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
