"""Token buckets, which limit the request rate of each client."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from service.settings import LimitsSettings
from service.storage.lru_cache import LruCache


class Rate(NamedTuple):
    """The maximum request rate of a client, and the size of its bursts."""

    per_s: float
    burst: int


class Quota(NamedTuple):
    """The remaining requests of a client, after one was allowed or refused."""

    is_allowed: bool
    remaining: int
    reset_s: int
    """Seconds until the bucket is full; after a refusal, until the next request."""


class TokenBuckets:
    """A token bucket for each client; the longest idle are dropped first."""

    # A bucket is stored as the time at which it will be full again. The package that
    # was considered instead has no maximum of clients; see docs/decisions/limits.md.

    def __init__(
        self, limits: LimitsSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = Rate(limits.rate_per_s, limits.burst)
        self._clock = clock
        self._full_at = LruCache[str | bytes, float](limits.max_clients)

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, client: str | bytes, rate: Rate | None = None) -> Quota:
        """Take a token of a client, if there is one; `rate` replaces the default."""
        per_s, burst = rate or self._rate
        now = self._clock()
        full_at = max(now, self._full_at.peek(client, now))
        tokens = burst - (full_at - now) * per_s
        if tokens < 1:
            wait_s = math.ceil((1 - tokens) / per_s)
            return Quota(is_allowed=False, remaining=0, reset_s=wait_s)
        full_at += 1 / per_s
        self._full_at.put(client, full_at)
        reset_s = math.ceil(full_at - now)
        return Quota(is_allowed=True, remaining=int(tokens - 1), reset_s=reset_s)
