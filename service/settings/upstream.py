"""Settings of the sections `upstream` and `breaker`."""

from typing import Annotated

from msgspec import Meta, Struct

from service.settings.types import (
    Bytes,
    PositiveCount,
    Seconds,
    Share,
    Threshold,
    WaitSeconds,
    check_base_url,
)


class UpstreamSettings(Struct, frozen=True, kw_only=True):
    """Calls of the messages and reports APIs."""

    base_url: str
    concurrency: PositiveCount
    attempts: Annotated[int, Meta(ge=1, le=20)]
    backoff_base_s: WaitSeconds
    backoff_max_s: WaitSeconds
    retry_after_max_s: WaitSeconds
    retry_rate: Share
    retry_floor: Annotated[int, Meta(ge=0, le=1_000_000)]
    retry_window_s: Seconds
    timeout_s: Seconds
    deadline_s: Seconds
    max_body_bytes: Bytes
    trust_environment: bool

    def __post_init__(self) -> None:
        check_base_url(self.base_url)


class BreakerSettings(Struct, frozen=True, kw_only=True):
    """The circuit breaker of calls to upstream."""

    window_calls: PositiveCount
    minimum_calls: PositiveCount
    failure_rate: Threshold
    slow_rate: Threshold
    slow_call_s: Seconds
    open_s: Seconds
    max_open_s: Seconds
    half_open_calls: PositiveCount

    def __post_init__(self) -> None:
        # The window never has so many calls, so the circuit could never open.
        if self.minimum_calls > self.window_calls:
            raise ValueError("minimum_calls is larger than window_calls")
