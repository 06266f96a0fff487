"""Settings of the section `telemetry`."""

from typing import Annotated

from msgspec import Meta, Struct

from service.settings.types import Share, is_installed, split_url


class TelemetrySettings(Struct, frozen=True, kw_only=True):
    """Creation of spans, and their collector."""

    traces: bool
    otlp_endpoint: str
    service_name: Annotated[str, Meta(min_length=1)]
    sample_rate: Share

    def __post_init__(self) -> None:
        try:
            parts = split_url(self.otlp_endpoint)
        except ValueError as error:
            raise ValueError(f"otlp_endpoint: {error}") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("otlp_endpoint: expected an http or https URL with a host")
        if self.traces and not is_installed("opentelemetry.sdk"):
            raise ValueError("traces: needs copilot-usage[otel] to be installed")
