"""Token buckets, which limit the request rate of each client."""

import time
from collections import OrderedDict
from collections.abc import Callable
from math import ceil
from typing import NamedTuple

from service.settings import LimitsSettings


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


class Bucket:
    """A client's bucket, which is changed in place for each request."""

    __slots__ = ("full_at", "pending")

    def __init__(self, full_at: float) -> None:
        self.full_at = full_at
        """The time at which it will be full again, from which its tokens follow."""
        self.pending = 0
        """Taken tokens that Redis does not know of, if processes share buckets."""


class TokenBuckets:
    """A token bucket for each client; the longest idle are dropped first."""

    # The package that was considered instead has no maximum of clients; see
    # docs/decisions/limits.md.

    def __init__(
        self, limits: LimitsSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = Rate(limits.rate_per_s, limits.burst)
        self._clock = clock
        # An `LruCache` would cost a call more for each request.
        self._buckets: OrderedDict[str | bytes, Bucket] = OrderedDict()
        self._max_clients = limits.max_clients

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: str | bytes, rate: Rate | None = None) -> Quota:
        """Take a token of a client, if there is one; `rate` replaces the default."""
        return Quota(*self.charge(client, rate))

    def charge(
        self, client: str | bytes, rate: Rate | None = None
    ) -> tuple[bool, int, int]:
        """Take a token as `take` does, and return a plain tuple, which costs less."""
        per_s, burst = rate or self._rate
        now = self._clock()
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._add(client, now)
        full_at = bucket.full_at
        if full_at < now:  # noqa: PLR1730 - a call of `max` costs more
            full_at = now
        tokens = burst - (full_at - now) * per_s
        if tokens < 1:
            return False, 0, ceil((1 - tokens) / per_s)
        bucket.full_at = full_at = full_at + 1 / per_s
        self._buckets.move_to_end(client)
        return True, int(tokens - 1), ceil(full_at - now)

    def refund(self, client: str | bytes) -> None:
        """Give a token back that was just taken at the default rate."""
        self._buckets[client].full_at -= 1 / self._rate.per_s

    def _add(self, client: str | bytes, now: float) -> Bucket:
        """Add a full bucket, and drop that of the client that was idle the longest."""
        if len(self._buckets) >= self._max_clients:
            self._buckets.popitem(last=False)
        self._buckets[client] = bucket = Bucket(now)
        return bucket
