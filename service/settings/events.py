"""Settings of the section `events`."""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from service.settings.types import (
    Bytes,
    LongSeconds,
    PositiveCount,
    Seconds,
    WaitSeconds,
    check_origin,
)

EVERY_ORIGIN: Final = "*"


class EventsSettings(Struct, frozen=True, kw_only=True):
    """Collection of events."""

    enabled: bool
    types_folder: str
    unknown_types: Literal["accept", "fail"]
    future_skew_s: WaitSeconds
    max_clock_skew_s: WaitSeconds
    max_events: PositiveCount
    max_body_bytes: Bytes
    body_timeout_s: Seconds
    commit_wait_ms: Annotated[float, Meta(ge=0, le=1_000)]
    commit_max_events: PositiveCount
    max_backlog: PositiveCount
    max_backlog_bytes: Bytes
    max_queries: Annotated[int, Meta(ge=1, le=100)]
    query_timeout_s: Seconds
    key_ttl_s: WaitSeconds
    key_grace_s: LongSeconds
    key_rate_per_s: Annotated[float, Meta(gt=0, le=1_000_000)]
    cors_origins: tuple[str, ...]
    retention_s: LongSeconds
    retention_interval_s: Seconds

    def __post_init__(self) -> None:
        if self.cors_origins != (EVERY_ORIGIN,):
            for each in self.cors_origins:
                check_origin(each)
