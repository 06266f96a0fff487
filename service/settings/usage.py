"""Settings of the section `usage`."""

from typing import Literal

from msgspec import Struct

from service.settings.types import Bytes, PositiveCount, Seconds


class UsageSettings(Struct, frozen=True, kw_only=True):
    """Pricing of a period."""

    plan: Literal["text-rules", "token-estimate"]
    source: Literal["upstream", "events"]
    on_report_error: Literal["fail", "text"]
    own_process_bytes: Bytes
    max_queries: PositiveCount
    query_timeout_s: Seconds
