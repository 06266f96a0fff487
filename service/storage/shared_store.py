"""The store that processes share: Redis or Valkey, which may be away at any time.

Nobody waits long for it. The first command that fails, or takes too long, ends with
`StoreAway`; so does every further one, at once, until a ping beside them succeeds.
Values are sealed with a digest, and what does not match its seal is not believed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from typing import Any, Final, TypeVar

import structlog
from redis import asyncio as redis
from redis.asyncio.client import Pipeline
from redis.asyncio.lock import Lock
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import LockError, RedisError, ResponseError

T = TypeVar("T")

CONNECT_S: Final = 0.25
COMMAND_S: Final = 0.5
LOCK_POLL_S: Final = 0.05
PING_EVERY_S: Final = 1.0
SEAL_BYTES: Final = 16

Command = Callable[[Pipeline], object]
"""Adds one or several commands to those that are sent together."""

log = structlog.get_logger()


class StoreAway(Exception):
    """The store cannot be used now; whoever wanted it does without."""


class SharedStore:
    """Commands for the keys of one namespace; fails fast while the store is away."""

    def __init__(self, url: str, namespace: str) -> None:
        self._namespace = namespace
        self._healing: asyncio.Task[None] | None = None
        self._told: set[str] = set()
        self._redis = redis.Redis.from_url(
            url,
            socket_connect_timeout=CONNECT_S,
            socket_timeout=COMMAND_S,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

    def key(self, *parts: object) -> str:
        """A key of this namespace."""
        return ":".join([self._namespace, *map(str, parts)])

    async def run(self, *commands: Command) -> list[Any]:
        """Send commands together, executed as one; their answers, in order.

        Raises `StoreAway` where they were not all executed.
        """
        return await self._guard(lambda: self._run(commands))

    async def _guard(self, call: Callable[[], Awaitable[T]], wait_s: float = 0.0) -> T:
        """Await a call in bounded time; raises `StoreAway` where it fails."""
        if self._healing is not None:
            raise StoreAway
        try:
            async with asyncio.timeout(wait_s + COMMAND_S):
                return await call()
        except LockError:
            raise
        except ResponseError as error:
            self.log_once("cache.shared.refused", str(error))
            raise StoreAway from error
        except (RedisError, OSError, TimeoutError) as error:
            self._lose(error)
            raise StoreAway from error

    async def lock(self, name: str, ttl_s: float, wait_s: float) -> Lock | None:
        """Take the lock of this name, or wait for it; None if that takes too long.

        The lock expires after `ttl_s`. Raises `StoreAway`.
        """
        lock = self._redis.lock(
            self.key(name), timeout=ttl_s, sleep=LOCK_POLL_S, thread_local=False
        )
        acquire = partial(lock.acquire, blocking_timeout=wait_s)
        return lock if await self._guard(acquire, wait_s) else None

    async def release(self, lock: Lock) -> None:
        """Release a lock, unless it has expired; raises `StoreAway`."""
        with suppress(LockError):
            await self._guard(lock.release)

    async def close(self) -> None:
        """Close the connections."""
        if self._healing is not None:
            self._healing.cancel()
            await asyncio.wait([self._healing])
        await self._redis.aclose()

    def log_once(self, event: str, reason: str) -> None:
        """Log that something is wrong with the store, the first time it is seen."""
        if event not in self._told:
            self._told.add(event)
            log.warning(event, reason=reason)

    async def _run(self, commands: tuple[Command, ...]) -> list[Any]:
        async with self._redis.pipeline(transaction=len(commands) > 1) as pipeline:
            for command in commands:
                command(pipeline)
            return await pipeline.execute()

    def _lose(self, error: Exception) -> None:
        if self._healing is None:
            log.warning(
                "cache.shared.lost",
                reason=str(error),
                **{"error.type": type(error).__name__},
            )
            self._healing = asyncio.create_task(self._heal())

    async def _heal(self) -> None:
        """Ping until somebody answers: no request waits to find out."""
        lost = time.monotonic()
        while True:
            await asyncio.sleep(PING_EVERY_S)
            try:
                async with asyncio.timeout(COMMAND_S):
                    await self._run((lambda pipeline: pipeline.ping(),))
            except (RedisError, OSError, TimeoutError):
                continue
            break
        self._healing = None
        log.info("cache.shared.restored", away_s=round(time.monotonic() - lost, 3))


def seal(key: str, payload: bytes) -> bytes:
    """A payload with a digest of it and of the key where it belongs."""
    return _digest(key, payload) + payload


def unseal(key: str, sealed: bytes | None) -> bytes | None:
    """The payload of a sealed value; None where it is missing, broken or displaced."""
    if sealed is None:
        return None
    payload = sealed[SEAL_BYTES:]
    return payload if sealed[:SEAL_BYTES] == _digest(key, payload) else None


def server_time(answer: tuple[int, int]) -> float:
    """The answer of TIME in seconds. No other clock is the same for all processes."""
    seconds, microseconds = answer
    return seconds + microseconds / 1e6


def _digest(key: str, payload: bytes) -> bytes:
    digest = blake2b(key.encode(), digest_size=SEAL_BYTES)
    digest.update(b"\0")
    digest.update(payload)
    return digest.digest()
