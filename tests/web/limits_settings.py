"""Settings of limits for tests."""

from typing import Any

from service.settings import LimitsSettings


def limits(**values: Any) -> LimitsSettings:
    """Settings of the limits, with a rate by default."""
    defaults = {
        "rate_per_s": 1.0,
        "burst": 2,
        "shared": True,
        "max_clients": 10,
        "by_credentials": True,
        "trusted_proxies": (),
        "max_queue": 4,
        "queue_wait_s": 1.0,
    }
    return LimitsSettings(**{**defaults, **values})
