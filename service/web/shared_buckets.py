"""Token buckets of clients that the processes of all machines share through Redis.

No request asks Redis. A process charges its own copy of a bucket. In the background it
sends the permits that it has taken, those of many clients at once. Redis answers with
the state of each shared bucket, which replaces the copy. A client is at most `slack`
permits ahead of what Redis knows: a request beyond that waits, for 100 ms at most.
While Redis is unavailable or slow, the copies apply the rate alone.
`docs/decisions/limits.md` has the accuracy.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from hashlib import blake2b
from itertools import islice
from math import ceil
from typing import TYPE_CHECKING, Final, NamedTuple

from service.settings import LimitsSettings
from service.storage.redis_store import RedisStore, RedisUnavailable
from service.web import limit_metrics
from service.web.token_buckets import Bucket, Quota, Rate, TokenBuckets

if TYPE_CHECKING:
    from redis.asyncio.client import Pipeline

SLACK_SHARE: Final = 0.1
"""Permits of a client that Redis need not know of, as a share of the burst."""
SLACK_S: Final = 0.05
"""The same as a time at the whole rate: the greater of both counts."""
SEND_EVERY_S: Final = 0.02
"""Time between two exchanges for which no request waits."""
MAX_WAIT_S: Final = 0.05
"""Time that a request waits for one exchange: that in progress, and then its own."""
MAX_BATCH: Final = 100
"""Clients in one exchange, which keeps Redis busy for less than a millisecond."""
TRANSIT_S: Final = 0.5
"""More than an exchange takes; known debts below this are not restored.

If they were, each exchange would add its own duration to the debt.
"""
MAX_DEBT: Final = 4
"""Maximum age of a bucket in bursts: a clock of Redis may have been set back."""
MAX_KEPT_S: Final = 86_400
CLIENT_BYTES: Final = 16

UNDECIDED: Final = (False, 0, 0)
"""The client is too far ahead of Redis: `decide` waits for it. A refusal has a wait."""

# One sorted set: the score of a client is the time at which its bucket will be full, so
# buckets that are full come first. They mean nothing, and are removed.
_EXCHANGE: Final = """
local per_s, max_s, max_clients = ARGV[1], ARGV[2], ARGV[3]
local time = redis.call('time')
local now = time[1] + time[2] / 1e6
local full = redis.call('zcount', KEYS[1], '-inf', now)
if full > 0 then
  redis.call('zremrangebyrank', KEYS[1], 0, math.min(full, 1000) - 1)
end
local left = {}
for i = 5, #ARGV, 3 do
  local full_at = tonumber(redis.call('zscore', KEYS[1], ARGV[i]) or 0)
  full_at = math.max(now + ARGV[i + 2], math.min(full_at, now + max_s))
  full_at = full_at + ARGV[i + 1] / per_s
  if full_at > now then redis.call('zadd', KEYS[1], full_at, ARGV[i]) end
  left[#left + 1] = string.format('%.6f', full_at - now)
end
local excess = redis.call('zcard', KEYS[1]) - max_clients
if excess > 0 then redis.call('zremrangebyrank', KEYS[1], 0, excess - 1) end
redis.call('pexpire', KEYS[1], ARGV[4])
return left
"""


class _Taken(NamedTuple):
    """Permits that a process has taken from its copy of a client's bucket."""

    client: str | bytes
    bucket: Bucket
    permits: int
    debt_s: float
    """What Redis must know already: time for the bucket to be full without them."""

    @property
    def later(self) -> int:
        """Permits that were taken after these."""
        # An outage that begins during the exchange ends the count of both.
        return max(0, self.bucket.pending - self.permits)


class SharedBuckets(TokenBuckets):
    """A token bucket for each client, of which other processes have copies."""

    def __init__(
        self,
        limits: LimitsSettings,
        store: RedisStore,
        secret: bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(limits, clock)
        per_s, burst = self._rate
        slack = min(burst, max(burst * SLACK_SHARE, per_s * SLACK_S))
        self.slack = max(1, round(slack))
        """Maximum permits of a client that Redis does not know of."""
        self._early = (self.slack + 1) // 2
        self._store = store
        self._secret = secret
        self._key = store.key("client-rates")
        self._unsent: dict[str | bytes, Bucket] = {}
        self._sending: asyncio.Task[None] | None = None
        self._is_urgent = asyncio.Event()
        self._exchanged = asyncio.Event()
        self._begun_at: float | None = None

    def charge(
        self, client: str | bytes, rate: Rate | None = None
    ) -> tuple[bool, int, int]:
        """Take a token if there is one; `UNDECIDED` if only Redis can tell."""
        # As in `TokenBuckets`. A call of it would cost a quarter of a microsecond.
        per_s, burst = rate or self._rate
        now = self._clock()
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._add(client, now)
        pending = bucket.pending
        if pending >= self.slack and self._can_ask():
            return UNDECIDED
        full_at = bucket.full_at
        if full_at < now:  # noqa: PLR1730 - a call of `max` costs more
            full_at = now
        tokens = burst - (full_at - now) * per_s
        if tokens < 1:
            return False, 0, ceil((1 - tokens) / per_s)
        bucket.full_at = full_at = full_at + 1 / per_s
        bucket.pending = pending = pending + 1
        self._buckets.move_to_end(client)
        # A bucket that is nearly empty has to be exact.
        if pending >= self._early or tokens <= self._early:
            self._send(client, bucket)
        return True, int(tokens - 1), ceil(full_at - now)

    async def decide(self, client: str | bytes) -> Quota:
        """Take a token, after Redis knows of the former ones if it has to."""
        loop = asyncio.get_running_loop()
        # Also if many clients are sent before: they must not delay this one for longer.
        give_up_at = loop.time() + 2 * MAX_WAIT_S
        while (answer := self.charge(client)) == UNDECIDED:
            wait_s = min(self._patience_s(), give_up_at - loop.time())
            if wait_s <= 0:
                answer = self._charge_alone(client)
                break
            self._send(client, self._buckets[client])
            self._is_urgent.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._exchanged.wait()
        return Quota(*answer)

    def _charge_alone(self, client: str | bytes) -> tuple[bool, int, int]:
        """Take a token of which Redis learns later, as all that are not sent yet."""
        answer = super().charge(client)
        self._buckets[client].pending += answer[0]
        return answer

    def refund(self, client: str | bytes) -> None:
        """Give a token back that was just taken."""
        super().refund(client)
        self._buckets[client].pending -= 1

    async def close(self) -> None:
        """Cancel what still waits for Redis."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    def _can_ask(self) -> bool:
        """Return whether Redis is there, and answers in time."""
        return not self._store.is_away and self._patience_s() > 0

    def _patience_s(self) -> float:
        """Return the time for which a request waits for the exchange in progress."""
        if self._begun_at is None:
            return MAX_WAIT_S
        return self._begun_at + MAX_WAIT_S - self._clock()

    def _send(self, client: str | bytes, bucket: Bucket) -> None:
        """Let Redis know of a client's permits soon."""
        if self._store.is_away:
            # The copy of the bucket has them, and Redis learns from it later.
            bucket.pending = 0
            return
        self._unsent[client] = bucket
        if self._sending is None:
            # Without the context of the request, whose id would be in its log lines.
            self._sending = asyncio.create_task(self._send_all(), context=Context())

    async def _send_all(self) -> None:
        try:
            while self._unsent:
                batch = list(islice(self._unsent.items(), MAX_BATCH))
                for client, _ in batch:
                    del self._unsent[client]
                self._is_urgent.clear()
                await self._exchange(batch)
                if len(batch) == MAX_BATCH:
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(SEND_EVERY_S):
                        await self._is_urgent.wait()
        finally:
            self._sending = None

    async def _exchange(self, batch: list[tuple[str | bytes, Bucket]]) -> None:
        """Send the permits of clients, and get the state of their buckets."""
        self._begun_at = begun_at = self._clock()
        taken = [self._taken(client, each, begun_at) for client, each in batch]
        try:
            left_s = await self._ask(taken)
            limit_metrics.exchanged("late" if self._patience_s() <= 0 else "done")
            for each, left in zip(taken, left_s, strict=True):
                full_at = begun_at + left + each.later / self._rate.per_s
                each.bucket.full_at = full_at
        except RedisUnavailable:
            limit_metrics.exchanged("unavailable")
        finally:
            # What Redis does not know now, it learns from the copy of the bucket.
            for each in taken:
                each.bucket.pending = each.later
            self._begun_at = None
            # Wakes all that wait now, and none that begins to wait later.
            self._exchanged.set()
            self._exchanged = asyncio.Event()

    def _taken(self, client: str | bytes, bucket: Bucket, now: float) -> _Taken:
        permits = bucket.pending
        debt_s = bucket.full_at - now - permits / self._rate.per_s - TRANSIT_S
        return _Taken(client, bucket, permits, max(0.0, debt_s))

    async def _ask(self, taken: list[_Taken]) -> list[float]:
        """Return the time for each bucket to be full; raise `RedisUnavailable`."""
        per_s, burst = self._rate
        max_s = MAX_DEBT * burst / per_s
        kept_ms = round(min(max_s + 1, MAX_KEPT_S) * 1_000)
        arguments: list[str | bytes | float] = [
            per_s,
            max_s,
            self._max_clients,
            kept_ms,
        ]
        for each in taken:
            arguments += [self._id_of(each.client), each.permits, f"{each.debt_s:.6f}"]

        def exchange(pipeline: "Pipeline") -> object:
            return pipeline.eval(_EXCHANGE, 1, self._key, *arguments)

        (answer,) = await self._store.run(exchange)
        return [float(left_s) for left_s in answer]

    def _id_of(self, client: str | bytes) -> bytes:
        """Return an id that is the same in all processes, and reveals no address."""
        kind, content = (
            (b"key", client)
            if isinstance(client, bytes)
            else (b"address", client.encode("utf-8", "surrogateescape"))
        )
        return blake2b(
            content, key=self._secret, person=kind, digest_size=CLIENT_BYTES
        ).digest()
