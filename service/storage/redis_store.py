"""Client of Redis or Valkey, which processes share, and which may be unavailable.

No request waits long for it. A command that fails or times out raises
`RedisUnavailable`. Then every further command does so at once, until a ping succeeds.
Values are sealed with a digest, and a value that does not match its seal is ignored.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import structlog

from service.storage import metrics

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import Pipeline

CONNECT_S: Final = 0.25
COMMAND_S: Final = 0.5
PING_EVERY_S: Final = 1.0
SEAL_BYTES: Final = 16

Command = Callable[["Pipeline"], object]
"""Adds commands to a pipeline."""

log = structlog.get_logger()


class RedisUnavailable(Exception):
    """Redis is unavailable; the caller continues without it."""


class RedisStore:
    """Runs commands on the keys of one namespace; fails fast during an outage."""

    def __init__(self, url: str, namespace: str) -> None:
        self._namespace = namespace
        self._reconnecting: asyncio.Task[None] | None = None
        self._logged: set[str] = set()
        metrics.redis_changed(is_available=True)
        self._redis = _connect(url)

    @property
    def is_away(self) -> bool:
        """Return whether Redis was unavailable when it was last asked."""
        return self._reconnecting is not None

    def key(self, *parts: object) -> str:
        """Return a key of this namespace."""
        return ":".join([self._namespace, *map(str, parts)])

    async def run(self, *commands: Command) -> list[Any]:
        """Run commands in one transaction, and return their answers in order.

        Raises `RedisUnavailable` unless all were executed.
        """
        from redis.exceptions import RedisError, ResponseError

        if self._reconnecting is not None:
            raise RedisUnavailable
        try:
            async with asyncio.timeout(COMMAND_S):
                return await self._run(commands)
        except ResponseError as error:
            self.log_once("cache.shared.refused", str(error))
            raise RedisUnavailable from error
        except (RedisError, OSError, TimeoutError) as error:
            self._note_outage(error)
            raise RedisUnavailable from error

    async def close(self) -> None:
        """Close the connections."""
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.wait([self._reconnecting])
        await self._redis.aclose()

    def log_once(self, event: str, reason: str) -> None:
        """Log a warning, but each event only once."""
        if event not in self._logged:
            self._logged.add(event)
            log.warning(event, reason=reason)

    async def _run(self, commands: tuple[Command, ...]) -> list[Any]:
        async with self._redis.pipeline(transaction=len(commands) > 1) as pipeline:
            for command in commands:
                command(pipeline)
            return await pipeline.execute()

    def _note_outage(self, error: Exception) -> None:
        if self._reconnecting is None:
            log.warning(
                "cache.shared.lost",
                reason=str(error),
                **{"error.type": type(error).__name__},
            )
            metrics.redis_changed(is_available=False)
            self._reconnecting = asyncio.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        """Ping until Redis answers, so that no request waits for it."""
        lost_at = time.monotonic()
        while True:
            await asyncio.sleep(PING_EVERY_S)
            # Whatever fails: if this task ended, Redis would never be used again.
            with suppress(Exception):
                async with asyncio.timeout(COMMAND_S):
                    await self._run((lambda pipeline: pipeline.ping(),))
                break
        self._reconnecting = None
        metrics.redis_changed(is_available=True)
        log.info("cache.shared.restored", away_s=round(time.monotonic() - lost_at, 3))


def _connect(url: str) -> "Redis":
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return Redis.from_url(
        url,
        socket_connect_timeout=CONNECT_S,
        socket_timeout=COMMAND_S,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )


def seal(key: str, payload: bytes) -> bytes:
    """Return a payload after a digest of the payload and of its key."""
    return _digest(key, payload) + payload


def unseal(key: str, sealed: bytes | None) -> bytes | None:
    """Return the payload; None if it is missing, broken, or of another key."""
    if sealed is None:
        return None
    payload = sealed[SEAL_BYTES:]
    return payload if sealed[:SEAL_BYTES] == _digest(key, payload) else None


def server_time(answer: tuple[int, int]) -> float:
    """Return an answer of TIME in seconds: a clock that all processes share."""
    seconds, microseconds = answer
    return seconds + microseconds / 1e6


def _digest(key: str, payload: bytes) -> bytes:
    digest = blake2b(key.encode(), digest_size=SEAL_BYTES)
    digest.update(b"\0")
    digest.update(payload)
    return digest.digest()
