"""Settings of the section `logging`."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from service.settings.types import WaitSeconds


class LoggingSettings(Struct, frozen=True, kw_only=True):
    """Level, form and extent of the log."""

    level: Literal["debug", "info", "warning", "error"]
    format: Literal["auto", "json", "console"]
    access: bool
    slow_request_s: WaitSeconds
    steps_per_refresh: Annotated[int, Meta(ge=0, le=1_000_000)]
    max_queue_bytes: Annotated[int, Meta(ge=65_536, le=1_073_741_824)]
