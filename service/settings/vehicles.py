"""Settings of the section `vehicles`."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from service.settings.types import (
    Bytes,
    LongSeconds,
    PositiveCount,
    Seconds,
    WaitSeconds,
    check_base_url,
)

MAX_LOOKUP_S: Final = 600
"""Removals are stored for a longer time."""


class VehiclesSettings(Struct, frozen=True, kw_only=True):
    """Look-up of vehicles, and times for which results are cached."""

    enabled: bool
    base_url: str
    ttl_s: Annotated[float, Meta(ge=0, le=315_360_000)]
    missing_ttl_s: LongSeconds
    stale_wait_s: WaitSeconds
    held_s: WaitSeconds
    max_held: PositiveCount
    requests_per_s: Annotated[float, Meta(ge=0, le=1_000_000)]
    concurrency: PositiveCount
    attempts: Annotated[int, Meta(ge=1, le=20)]
    timeout_s: Seconds
    deadline_s: Annotated[float, Meta(gt=0, le=MAX_LOOKUP_S)]
    storage_wait_s: WaitSeconds
    max_lookups: PositiveCount
    max_removals: PositiveCount
    max_body_bytes: Bytes
    offline: bool

    def __post_init__(self) -> None:
        check_base_url(self.base_url)
