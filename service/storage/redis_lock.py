"""Named locks in Redis: one owner at a time, with an expiry.

A lock is a key with the token of its owner (`SET NX PX`). An owner whose lock has
expired does not release the lock of the next one: the release compares the token.
`RenewedLock` renews a short expiry for as long as its owner runs.
"""

import asyncio
import math
import random
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from service.storage.redis_store import RedisStore, RedisUnavailable

if TYPE_CHECKING:
    from redis.asyncio.client import Pipeline

FAILED: Final = b"failed"
FAILED_MS: Final = 500
"""Time for which waiting processes can see that the owner of a lock has failed."""
POLL_MS: Final = (25, 50)
RENEWED_S: Final = 3.0
"""Expiry of a renewed lock: time until the work of a dead owner is taken over.

An owner whose event loop is blocked for longer loses it.
"""
RENEW_EVERY_S: Final = 0.75
TOKEN_BYTES: Final = 16

_RELEASE: Final = """
for _, key in ipairs(KEYS) do
  if redis.call('get', key) == ARGV[1] then
    if ARGV[2] == '' then redis.call('del', key)
    else redis.call('set', key, ARGV[2], 'PX', ARGV[3]) end
  end
end
"""
_RENEW: Final = """
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('pexpire', KEYS[1], ARGV[2])
"""


class RedisLocks:
    """Locks of one process; each expires after `ttl_s` if it is not released."""

    def __init__(self, store: RedisStore, ttl_s: float) -> None:
        self._store = store
        self._ttl_ms = math.ceil(ttl_s * 1_000)
        self._token = secrets.token_hex(TOKEN_BYTES).encode()

    async def try_acquire(self, names: Sequence[str]) -> set[str]:
        """Lock the names that are free, and return them; raise `RedisUnavailable`."""

        def acquire(pipeline: "Pipeline") -> None:
            for name in names:
                key = self._store.key(name)
                pipeline.set(key, self._token, nx=True, px=self._ttl_ms)

        acquired = await self._store.run(acquire)
        return {name for name, is_ours in zip(names, acquired, strict=True) if is_ours}

    async def acquire(self, name: str, wait_s: float) -> bool:
        """Lock a name, after its release if it is locked; return False after `wait_s`.

        Raises `RedisUnavailable`.
        """
        give_up_at = asyncio.get_running_loop().time() + wait_s
        while not await self.try_acquire([name]):
            if asyncio.get_running_loop().time() >= give_up_at:
                return False
            await _pause()
        return True

    async def renew(self, name: str) -> bool:
        """Renew the expiry of a lock; return False if this process has lost it.

        Raises `RedisUnavailable`.
        """
        key = self._store.key(name)
        (renewed,) = await self._store.run(
            lambda pipeline: pipeline.eval(_RENEW, 1, key, self._token, self._ttl_ms)
        )
        return bool(renewed)

    async def release(self, names: Sequence[str], *, failed: bool = False) -> None:
        """Release the names that this process has locked; leave the others alone.

        With `failed`, a mark stands in their place for `FAILED_MS`, and no process can
        lock them. While Redis is unavailable the locks expire by themselves.
        """
        if not names:
            return
        keys = self._keys(names)
        mark = FAILED if failed else b""

        def release(pipeline: "Pipeline") -> Any:
            return pipeline.eval(
                _RELEASE, len(keys), *keys, self._token, mark, FAILED_MS
            )

        with suppress(RedisUnavailable):
            await self._store.run(release)

    async def wait(self, names: Sequence[str]) -> set[str]:
        """Wait until no name is locked; return those whose owner has failed.

        The wait ends where Redis becomes unavailable.
        """
        keys, failed = self._keys(names), set[str]()
        while True:
            try:
                (values,) = await self._store.run(lambda pipeline: pipeline.mget(keys))
            except RedisUnavailable:
                return failed
            # A mark may expire while other names are still locked, so collect them.
            pairs = zip(names, values, strict=True)
            failed |= {name for name, value in pairs if value == FAILED}
            if all(value in {None, FAILED} for value in values):
                return failed
            await _pause()

    def _keys(self, names: Sequence[str]) -> list[str]:
        return [self._store.key(name) for name in names]


class RenewedLock:
    """A lock of one process, which is renewed until it is released or lost."""

    def __init__(self, store: RedisStore, name: str) -> None:
        self._locks = RedisLocks(store, RENEWED_S)
        self._name = name
        self._renewing: asyncio.Task[None] | None = None

    async def acquire(self, wait_s: float) -> bool:
        """Lock, after the release if it is locked; return False after `wait_s`.

        Raises `RedisUnavailable`.
        """
        if not await self._locks.acquire(self._name, wait_s):
            return False
        self._renewing = asyncio.create_task(self._renew())
        return True

    async def confirm(self) -> bool:
        """Return whether this process still has the lock; raises `RedisUnavailable`.

        A process that was stopped for a while may have lost it without knowing.
        """
        return self._renewing is not None and await self._locks.renew(self._name)

    async def release(self) -> None:
        """Release the lock, if this process has it."""
        renewing, self._renewing = self._renewing, None
        if renewing is None:
            return
        renewing.cancel()
        await asyncio.wait([renewing])
        await self._locks.release([self._name])

    async def _renew(self) -> None:
        """Renew the lock, as long as it is not lost; then nothing is left to do."""
        is_owner = True
        while is_owner:
            await asyncio.sleep(RENEW_EVERY_S)
            with suppress(RedisUnavailable):
                is_owner = await self._locks.renew(self._name)


async def _pause() -> None:
    # At random, so that processes that wait for the same lock do not poll together.
    await asyncio.sleep(random.uniform(*POLL_MS) / 1_000)  # noqa: S311
