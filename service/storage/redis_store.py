"""Client of Redis or Valkey, which processes share, and which may be unavailable.

No request waits long for it. A command that fails or times out raises
`RedisUnavailable`. Then every further command does so at once, until the server accepts
a write again. With Sentinels, the client follows the master.
Values are sealed with a digest, and a value that does not match its seal is ignored.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import structlog

from service.settings.redis_urls import is_sentinel_url, parse_sentinel_url
from service.storage import metrics
from service.storage.redis_sentinels import ASK_S, Login, Sentinels

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import Pipeline
    from redis.exceptions import ResponseError

CONNECT_S: Final = 0.25
COMMAND_S: Final = 0.5
PING_EVERY_S: Final = 1.0
SEAL_BYTES: Final = 16
PROBE_MS: Final = 1_000
"""Expiry of the key that a client writes to find out whether Redis is back."""
NO_REPLICAS: Final = "NOREPLICAS"
"""The error of a master that has lost its replicas, if `min-replicas-to-write` is set:
it may have been replaced."""

Command = Callable[["Pipeline"], object]
"""Adds commands to a pipeline."""

log = structlog.get_logger()


class RedisUnavailable(Exception):
    """Redis is unavailable; the caller continues without it."""


class RedisStore:
    """Runs commands on the keys of one namespace; fails fast during an outage."""

    def __init__(self, url: str, namespace: str, login: Login | None = None) -> None:
        self._namespace = namespace
        self._reconnecting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._logged: set[str] = set()
        metrics.redis_changed(is_available=True)
        self._sentinels: Sentinels | None = None
        self._redis: Redis | None = None
        self._url = url
        self._finding = asyncio.Lock()
        if is_sentinel_url(url):
            sentinels = parse_sentinel_url(url)
            self._sentinels, self._url = Sentinels(sentinels, login or Login()), ""
        else:
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

        Raises `RedisUnavailable` unless all were executed, and `CancelledError` if the
        task was cancelled meanwhile, also where all were.
        """
        from redis.exceptions import RedisError, ResponseError

        if self._reconnecting is not None:
            raise RedisUnavailable
        redis = self._redis
        try:
            with _cancellable():
                async with asyncio.timeout(COMMAND_S):
                    redis = redis or await self._first_master()
                    return await _run(redis, commands)
        except ResponseError as error:
            if _is_no_master(error):
                self._note_outage(error, redis)
            else:
                self.log_once("cache.shared.refused", _explain(error))
            raise RedisUnavailable from error
        except (RedisError, OSError, TimeoutError) as error:
            self._note_outage(error, redis)
            raise RedisUnavailable from error

    async def close(self) -> None:
        """Close the connections."""
        for task in (self._reconnecting, self._watching):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if self._redis is not None:
            await self._redis.aclose()
        if self._sentinels is not None:
            await self._sentinels.close()

    def log_once(self, event: str, reason: str) -> None:
        """Log a warning, but each event only once."""
        if event not in self._logged:
            self._logged.add(event)
            log.warning(event, reason=reason)

    def _note_outage(self, error: Exception, redis: "Redis | None") -> None:
        # A command that a former master has not answered says nothing about the new.
        if self._reconnecting is not None or redis is not self._redis:
            return
        log.warning(
            "cache.shared.lost",
            reason=_explain(error),
            **{"error.type": type(error).__name__},
        )
        metrics.redis_changed(is_available=False)
        self._reconnecting = asyncio.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        """Try until Redis accepts a write, so that no request waits for it."""
        lost_at = time.monotonic()
        while True:
            await asyncio.sleep(PING_EVERY_S)
            # Whatever fails: if this task ended, Redis would never be used again.
            with suppress(Exception), _cancellable():
                async with asyncio.timeout(ASK_S + COMMAND_S):
                    await self._probe()
                break
        self._reconnecting = None
        metrics.redis_changed(is_available=True)
        log.info("cache.shared.restored", away_s=round(time.monotonic() - lost_at, 3))

    async def _probe(self) -> None:
        """Raise an error unless Redis is there, and not a replica.

        A replica answers a ping, so this is a write.
        """
        from redis.exceptions import ResponseError

        await self._follow_master()
        key = self.key("probe")
        assert self._redis is not None  # noqa: S101 - there is a master
        try:
            await _run(
                self._redis, (lambda pipeline: pipeline.set(key, b"", px=PROBE_MS),)
            )
        except ResponseError as error:
            # A full Redis, for one, still answers: commands decide what they can do.
            if _is_no_master(error):
                raise

    async def _first_master(self) -> "Redis":
        """Return a client of the master, whom the first commands find."""
        async with self._finding:
            if self._redis is None:
                await self._follow_master()
        assert self._redis is not None  # noqa: S101 - there is a master
        return self._redis

    async def _follow_master(self) -> None:
        """Find the master, and use it from now on; raises an error if there is none."""
        if self._sentinels is None:
            return
        url = await self._sentinels.master_url()
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(self._sentinels))
        if url == self._url:
            return
        former, self._redis = self._redis, _connect(url)
        before, self._url = self._url, url
        if former is not None:
            metrics.redis_moved()
            log.info("cache.shared.moved", **_places(before, url))
            await former.aclose()

    async def _watch(self, sentinels: Sentinels) -> None:
        """Follow the master while the former one still answers.

        It does where only the Sentinels cannot reach it.
        """
        while True:
            await asyncio.sleep(PING_EVERY_S)
            # Without Sentinels, the master that is known is used on.
            with suppress(Exception), _cancellable():
                if self._reconnecting is None:
                    await self._follow_master()


@contextmanager
def _cancellable() -> Iterator[None]:
    """Raise `CancelledError` if the task is cancelled meanwhile, whatever happens.

    The client swallows cancellations: it writes with `asyncio.wait_for`, which returns
    normally in Python 3.11 if the write has just ended. A loop that only a cancellation
    ends would go on for ever.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - commands are run in tasks only
    before = task.cancelling()
    try:
        yield
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError


async def _run(redis: "Redis", commands: tuple[Command, ...]) -> list[Any]:
    async with redis.pipeline(transaction=len(commands) > 1) as pipeline:
        for command in commands:
            command(pipeline)
        return await pipeline.execute()


def _is_no_master(error: "ResponseError") -> bool:
    """Return whether the server refuses writes because it is not the master now."""
    from redis.exceptions import MasterDownError, ReadOnlyError

    return isinstance(error, ReadOnlyError | MasterDownError) or (
        NO_REPLICAS in str(error)
    )


def _explain(error: Exception) -> str:
    from redis.exceptions import AskError, ClusterCrossSlotError, ClusterError

    # `MovedError` is an `AskError`.
    if isinstance(error, AskError | ClusterCrossSlotError | ClusterError):
        return f"Redis Cluster is not supported: {error}"
    return str(error)


def _places(before: str, after: str) -> dict[str, str]:
    """Return the addresses in two URLs, without their passwords."""
    former, new = (
        each.rpartition("@")[2].rpartition("//")[2] for each in (before, after)
    )
    return {"former": former.partition("/")[0], "master": new.partition("/")[0]}


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
