"""Settings of the section `sandbox`."""

from typing import Annotated

from msgspec import Meta, Struct

from service.settings.types import Share


class SandboxSettings(Struct, frozen=True, kw_only=True):
    """The embedded sandbox upstream."""

    enabled: bool
    messages: Annotated[int, Meta(ge=0, le=1_000_000)]
    reports: Annotated[int, Meta(ge=0, le=1_000_000)]
    seed: int
    latency_ms: Annotated[float, Meta(ge=0, le=60_000)]
    error_rate: Share
