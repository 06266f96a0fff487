"""Settings of the section `cache`."""

from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from service.settings.types import LongSeconds, PositiveCount, WaitSeconds

REDIS_SCHEMES: Final = ("redis", "rediss", "unix")


class CacheSettings(Struct, frozen=True, kw_only=True):
    """Times for which answers and reports are cached."""

    ttl_s: WaitSeconds
    stale_while_revalidate_s: WaitSeconds
    stale_if_error_s: LongSeconds
    stale_wait_s: WaitSeconds
    confirm_shrink_s: WaitSeconds
    pause_after_failure_s: WaitSeconds
    report_ttl_s: LongSeconds
    missing_report_ttl_s: LongSeconds
    max_reports: PositiveCount
    redis_url: str

    def __post_init__(self) -> None:
        if not self.redis_url:
            return
        parts = urlsplit(self.redis_url)
        if parts.scheme not in REDIS_SCHEMES:
            raise ValueError("expected a redis, rediss or unix URL, or an empty text")
        if not (parts.path if parts.scheme == "unix" else parts.hostname):
            raise ValueError("expected a URL with a host, or with a path for unix")
        if parts.query or parts.fragment:
            raise ValueError("expected a URL without options")
        _ = parts.port  # raises for an invalid port
