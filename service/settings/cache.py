"""Settings of the section `cache`."""

from msgspec import Struct

from service.settings.redis_urls import check_redis_url
from service.settings.types import LongSeconds, PositiveCount, WaitSeconds


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
    sentinel_username: str
    sentinel_password: str

    def __post_init__(self) -> None:
        if self.redis_url:
            check_redis_url(self.redis_url)
