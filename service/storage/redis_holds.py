"""Waits that an upstream has asked for by `Retry-After`, shared through Redis.

A wait is a key with the moment of its end, by the clock of Redis. While Redis is
unavailable, each process knows only its own waits.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

from service.storage.redis_store import RedisStore, RedisUnavailable, server_time

READ_EVERY_S: Final = 0.05
"""Time between two reads for an endpoint: parallel calls share one."""


class Sharer(Protocol):
    """The limits of an upstream."""

    def share(self, holds: "RedisHolds") -> None:
        """Share its waits with other processes."""


def share_holds(sharer: Sharer, store: RedisStore | None, upstream: str) -> None:
    """Let processes share the waits of an upstream, if they share Redis."""
    if store is not None:
        sharer.share(RedisHolds(store, upstream))


class _Read(NamedTuple):
    """A read of a wait: when it began, and the end of the wait, both by our clock."""

    at: float
    end: asyncio.Task[float]


class RedisHolds:
    """The waits of one upstream, by endpoint."""

    def __init__(
        self,
        store: RedisStore,
        upstream: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._upstream = upstream
        self._clock = clock
        self._endpoints: set[str] = set()
        self._reads: dict[str, _Read] = {}
        self._clearing: asyncio.Task[None] | None = None

    async def read(self, endpoint: str) -> float:
        """Return the seconds left of the wait of an endpoint; 0 for none."""
        read, now = self._reads.get(endpoint), self._clock()
        if read is None or now >= read.at + READ_EVERY_S:
            read = _Read(now, asyncio.create_task(self._read_end(endpoint)))
            self._endpoints.add(endpoint)
            self._reads[endpoint] = read
        # Parallel calls wait for the same read: none must overtake it.
        end = await asyncio.shield(read.end)
        return max(0.0, end - self._clock())

    async def _read_end(self, endpoint: str) -> float:
        """Return the end of a wait by our clock; a past moment for none."""
        with suppress(RedisUnavailable):
            left_s, _ = await self._left_s(endpoint)
            return self._clock() + left_s
        return self._clock()

    async def write(self, endpoint: str, wait_s: float) -> None:
        """Let the other processes wait too, unless they wait for longer already."""
        key, wait_ms = self._key(endpoint), max(1, round(wait_s * 1_000))
        with suppress(RedisUnavailable):
            left_s, now_s = await self._left_s(endpoint)
            if wait_s > left_s:
                until = repr(now_s + wait_s)
                await self._store.run(
                    lambda pipeline: pipeline.set(key, until, px=wait_ms)
                )

    async def _left_s(self, endpoint: str) -> tuple[float, float]:
        """Return the seconds left of a wait, and the time of Redis."""
        key = self._key(endpoint)
        time_, until = await self._store.run(
            lambda pipeline: pipeline.time(), lambda pipeline: pipeline.get(key)
        )
        now_s = server_time(time_)
        return max(0.0, float(until or 0) - now_s), now_s

    def clear(self) -> None:
        """End all waits, in the background."""
        self._reads.clear()
        keys = list(map(self._key, self._endpoints))
        self._clearing = asyncio.create_task(self._clear(keys))

    async def _clear(self, keys: list[str]) -> None:
        if keys:
            with suppress(RedisUnavailable):
                await self._store.run(lambda pipeline: pipeline.unlink(*keys))

    def _key(self, endpoint: str) -> str:
        return self._store.key("hold", self._upstream, endpoint)
