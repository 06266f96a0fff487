"""The request rates of API keys: of each process, or of all that share a Redis.

A process takes permits from the shared bucket of a key in portions, so that most
requests ask nobody. While Redis is unavailable or slow, it applies the rate alone.
`docs/decisions/limits.md` has the accuracy.
"""

import asyncio
import time
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Final

from service.settings import LimitsSettings
from service.storage.lru_cache import LruCache
from service.storage.redis_store import RedisStore, RedisUnavailable
from service.web import auth_metrics
from service.web.token_buckets import Rate, TokenBuckets

if TYPE_CHECKING:
    from redis.asyncio.client import Pipeline

PORTION_S: Final = 0.05
"""Time for which a portion lasts at the whole rate."""
MIN_EARLY: Final = 10
"""Permits of a portion from which on the next one is taken early.

Of a low rate, a process that needs no permits must not keep any.
"""
MAX_WAIT_S: Final = 0.05
"""Time that a request waits for Redis."""
MAX_ASKED: Final = 2
"""Portions for which a request waits: the first may have been asked for before it."""
ASK_AGAIN_S: Final = 1.0
"""Maximum time for which a refusal counts: another Redis may know nothing of it."""
_PREFIX: Final = "copilot-usage:key-rate:"
"""Services with other answers share it: ids of keys are unique."""

# The bucket is stored as the time at which it will be full again.
_TAKE: Final = """
local per_s, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('time')
local now = time[1] + time[2] / 1e6
local full_at = tonumber(redis.call('get', KEYS[1]) or 0)
full_at = math.max(now, math.min(full_at, now + burst / per_s))
local tokens = burst - (full_at - now) * per_s
local taken = math.min(tonumber(ARGV[3]), math.floor(tokens + 1e-3))
if taken < 1 then return {0, math.ceil((1 - tokens) / per_s * 1e6)} end
full_at = full_at + taken / per_s
local left_ms = math.ceil((full_at - now) * 1000)
redis.call('set', KEYS[1], string.format('%.6f', full_at), 'PX', left_ms + 1000)
return {taken, 0}
"""


class _Portion:
    """Permits of a key that this process has taken from the shared bucket."""

    __slots__ = (
        "free_at",
        "permits",
        "refill",
        "refill_at",
        "refused_until",
        "size",
        "waiting",
    )

    def __init__(self, per_s: float) -> None:
        self.size = max(1, round(per_s * PORTION_S))
        self.permits = 0
        """Negative while Redis is slow: permits that it has not charged yet."""
        self.refill_at = self.size // 2 if self.size >= MIN_EARLY else -1
        """Number of permits at which the next portion is taken, before it is needed."""
        self.free_at = 0.0
        """When the shared bucket has a permit again, if it had none."""
        self.refused_until = 0.0
        self.refill: asyncio.Task[bool] | None = None
        self.waiting = 0
        """Requests that wait for the refill."""


class KeyRates:
    """Takes permits of keys; `store` is None where processes share nothing."""

    def __init__(
        self,
        limits: LimitsSettings,
        store: RedisStore | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = TokenBuckets(limits, clock)
        self._store = store
        self._clock = clock
        self._portions: LruCache[str, _Portion] = LruCache(limits.max_clients)
        self._refills: set[asyncio.Task[bool]] = set()

    def take_at_once(self, key_id: str, per_s: float) -> float | None:
        """Take a permit; return 0, or the seconds until the next one.

        Return None if only the shared bucket can tell.
        """
        if self._store is None or self._store.is_away:
            return self._take_own(key_id, per_s)
        portion = self._portions.get(key_id)
        if portion is None:
            return None
        if portion.permits > 0:
            portion.permits -= 1
            if portion.permits == portion.refill_at:
                self._start_refill(key_id, per_s, portion)
            return 0
        now = self._clock()
        return portion.free_at - now if now < portion.refused_until else None

    async def take(self, key_id: str, per_s: float) -> float:
        """Take a permit as `take_at_once`, after asking Redis if needed."""
        for _ in range(MAX_ASKED):
            wait_s = self.take_at_once(key_id, per_s)
            if wait_s is not None:
                return wait_s
            portion = self._portion_of(key_id, per_s)
            task = self._start_refill(key_id, per_s, portion)
            portion.waiting += 1
            try:
                await asyncio.wait({task}, timeout=MAX_WAIT_S)
            finally:
                portion.waiting -= 1
            if not task.done():
                return self._take_in_advance(key_id, per_s, portion)
            if not task.result():
                return self._take_own(key_id, per_s)
        wait_s = self.take_at_once(key_id, per_s)
        return 1 / per_s if wait_s is None else wait_s

    async def close(self) -> None:
        """Cancel what still waits for Redis."""
        for each in self._refills:
            each.cancel()
        await asyncio.gather(*self._refills, return_exceptions=True)

    def _portion_of(self, key_id: str, per_s: float) -> _Portion:
        portion = self._portions.get(key_id)
        if portion is None:
            portion = _Portion(per_s)
            self._portions.put(key_id, portion)
        return portion

    def _start_refill(
        self, key_id: str, per_s: float, portion: _Portion
    ) -> asyncio.Task[bool]:
        """Return the one task that takes a portion, for all requests of the key."""
        if portion.refill is None:
            # Without the context of the request, whose id would be in its log lines.
            task = asyncio.create_task(
                self._ask(key_id, per_s, portion), context=Context()
            )
            portion.refill = task
            self._refills.add(task)
            task.add_done_callback(self._refills.discard)
        return portion.refill

    async def _ask(self, key_id: str, per_s: float, portion: _Portion) -> bool:
        def take(pipeline: "Pipeline") -> object:
            key = _PREFIX + key_id
            # Otherwise each portion would wake all waiting requests for a few permits.
            wanted = portion.size + portion.waiting - min(0, portion.permits)
            return pipeline.eval(_TAKE, 1, key, per_s, burst_of(per_s), wanted)

        assert self._store is not None  # noqa: S101 - checked by the callers
        try:
            ((taken, wait_us),) = await self._store.run(take)
        except RedisUnavailable:
            auth_metrics.portion_taken("unavailable")
            portion.permits = 0
            return False
        finally:
            portion.refill = None
        auth_metrics.portion_taken("taken" if taken else "refused")
        portion.permits += taken
        now = self._clock()
        portion.free_at = now + wait_us / 1e6
        portion.refused_until = min(portion.free_at, now + ASK_AGAIN_S)
        return True

    def _take_in_advance(self, key_id: str, per_s: float, portion: _Portion) -> float:
        """Take a permit alone, which Redis will charge when it answers."""
        wait_s = self._take_own(key_id, per_s)
        if not wait_s:
            portion.permits -= 1
        return wait_s

    def _take_own(self, key_id: str, per_s: float) -> float:
        is_allowed, _, reset_s = self._own.charge(key_id, Rate(per_s, burst_of(per_s)))
        return 0 if is_allowed else reset_s


def burst_of(per_s: float) -> int:
    """Return the requests that a key may send at once: those of a second."""
    return max(1, round(per_s))
