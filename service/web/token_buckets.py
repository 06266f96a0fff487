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


class TokenBuckets:
    """A token bucket for each client; the longest idle are dropped first."""

    # A bucket is stored as the time at which it will be full again. The package that
    # was considered instead has no maximum of clients; see docs/decisions/limits.md.

    def __init__(
        self, limits: LimitsSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = Rate(limits.rate_per_s, limits.burst)
        self._clock = clock
        # An `LruCache` would cost a call more for each request.
        self._full_at: OrderedDict[str | bytes, float] = OrderedDict()
        self._max_clients = limits.max_clients

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, client: str | bytes, rate: Rate | None = None) -> Quota:
        """Take a token of a client, if there is one; `rate` replaces the default."""
        return Quota(*self.charge(client, rate))

    def charge(
        self, client: str | bytes, rate: Rate | None = None
    ) -> tuple[bool, int, int]:
        """Take a token as `take` does, and return a plain tuple, which costs less."""
        per_s, burst = rate or self._rate
        now = self._clock()
        full_of = self._full_at
        full_at = full_of.get(client, now)
        if full_at < now:  # noqa: PLR1730 - a call of `max` costs more
            full_at = now
        tokens = burst - (full_at - now) * per_s
        if tokens < 1:
            return False, 0, ceil((1 - tokens) / per_s)
        full_of[client] = full_at = full_at + 1 / per_s
        full_of.move_to_end(client)
        if len(full_of) > self._max_clients:
            self._drop_oldest()
        return True, int(tokens - 1), ceil(full_at - now)

    def refund(self, client: str | bytes) -> None:
        """Give a token back that was just taken at the default rate."""
        self._full_at[client] -= 1 / self._rate.per_s

    def _drop_oldest(self) -> str | bytes:
        """Drop the bucket of the client that was idle for the longest time."""
        client, _ = self._full_at.popitem(last=False)
        return client
