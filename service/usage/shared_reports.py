"""Fetched reports that processes share through Redis.

Before a process resolves reports, it reads those of other processes into its cache.
Afterwards it writes the reports that it has fetched, even if the refresh has failed.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from service.settings import Settings
from service.storage.redis_store import (
    RedisStore,
    RedisUnavailable,
    seal,
    server_time,
    unseal,
)
from service.upstream.client import UpstreamClient
from service.usage.reports import Report, ReportCache, ReportResolver
from service.usage.snapshots.messages import ReportKey

if TYPE_CHECKING:
    from redis.asyncio.client import Pipeline

KEYS_AT_ONCE: Final = 200
"""Reports in one command, so that packing does not block the event loop."""

_KEY_BYTES: Final = 16


class SharedReport(Struct, frozen=True, array_like=True):
    """A report, None for a 404, and the time of the upstream's answer."""

    report: Report | None
    fetched_at: float
    """In seconds, by the clock of the store."""


_decoder: Final = msgspec.msgpack.Decoder(SharedReport)
_encoder: Final = msgspec.msgpack.Encoder()


class RedisReports:
    """Reads reports of other processes into a cache, and writes fetched ones."""

    def __init__(self, cache: ReportCache, store: RedisStore) -> None:
        self._cache = cache
        self._store = store

    async def read(self, keys: Collection[ReportKey]) -> None:
        """Put the reports of other processes into the cache."""
        try:
            for batch in _batches(list(keys)):
                await self._read_batch(batch)
        except RedisUnavailable:
            return

    async def write(self, fetched: Mapping[ReportKey, Report | None]) -> None:
        """Share fetched reports."""
        try:
            for batch in _batches(list(fetched)):
                await self._write_batch({key: fetched[key] for key in batch})
        except RedisUnavailable:
            return

    async def _read_batch(self, keys: Sequence[str]) -> None:
        addresses = [self._address(key) for key in keys]
        time, found = await self._store.run(
            lambda pipeline: pipeline.time(), lambda pipeline: pipeline.mget(addresses)
        )
        now = server_time(time)
        for key, sealed in zip(keys, found, strict=True):
            shared = self._read(key, sealed)
            if shared is not None:
                # The clock of Redis may have been set back.
                age_s = max(0.0, now - shared.fetched_at)
                self._cache.put(key, shared.report, age_s)

    def _read(self, key: str, sealed: Any) -> SharedReport | None:
        if sealed is None:
            return None
        try:
            payload = unseal(key, sealed)
            if payload is not None:
                return _decoder.decode(payload)
        except msgspec.DecodeError:
            pass
        self._store.log_once("cache.shared.ignored", "a report is broken")
        return None

    async def _write_batch(self, reports: dict[str, Report | None]) -> None:
        (time,) = await self._store.run(lambda pipeline: pipeline.time())
        now = server_time(time)

        def write(pipeline: "Pipeline") -> None:
            for key, report in reports.items():
                if ttl_ms := int(self._cache.ttl_s(report) * 1000):
                    value = seal(key, _encoder.encode(SharedReport(report, now)))
                    pipeline.set(self._address(key), value, px=ttl_ms)

        await self._store.run(write)

    def _address(self, key: str) -> str:
        digest = blake2b(key.encode(), digest_size=_KEY_BYTES).hexdigest()
        return self._store.key("report", digest)


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(keys), KEYS_AT_ONCE):
        yield keys[at : at + KEYS_AT_ONCE]


def make_resolver(
    settings: Settings,
    client: UpstreamClient,
    clock: Callable[[], float],
    store: RedisStore | None,
) -> ReportResolver:
    """Return a resolver with its cache, which shares reports through a store."""
    reports = ReportCache(settings.cache, clock)
    return ReportResolver(
        client,
        reports,
        RedisReports(reports, store) if store else None,
        concurrency=settings.upstream.concurrency,
        on_error=settings.usage.on_report_error,
    )
