"""Reports that one process has settled, for all that share a store.

It stands around a process's own `ReportCache`: before settling, what others have been
told is put into it; after settling, what is new is told to them.
"""

from collections.abc import Collection, Iterator, Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec
from msgspec import Struct
from redis.asyncio.client import Pipeline

from service.storage.shared_store import (
    SharedStore,
    StoreAway,
    seal,
    server_time,
    unseal,
)
from service.usage.model import Report
from service.usage.report_cache import CachedReport, ReportCache, Reported

KEYS_AT_ONCE: Final = 200
"""Reports in one command, so that packing them holds up nobody."""

_KEY_BYTES: Final = 16


class SharedReport(Struct, frozen=True, array_like=True):
    """A report, or None where there is none, and when upstream said so."""

    report: Report | None
    settled_at: float
    """In seconds, by the clock of the store."""


_decoder: Final = msgspec.msgpack.Decoder(SharedReport)
_encoder: Final = msgspec.msgpack.Encoder()


class SharedReportCache:
    """A report cache that also knows what other processes have been told."""

    def __init__(self, cache: ReportCache, store: SharedStore) -> None:
        self._cache = cache
        self._store = store
        self._untold: dict[str, Report | None] = {}

    def young(self, key: str) -> CachedReport | None:
        """As `ReportCache.young`."""
        return self._cache.young(key)

    def last_known(self, key: str) -> Report | None:
        """As `ReportCache.last_known`."""
        return self._cache.last_known(key)

    def put(self, key: str, report: Report | None) -> None:
        """As `ReportCache.put`; others learn of it by the next `tell`."""
        self._cache.put(key, report)
        self._untold[key] = report

    async def recall(self, keys: Collection[str]) -> None:
        """Take over what others know of the keys that are not known here."""
        try:
            unknown = [key for key in keys if self._cache.young(key) is None]
            for batch in _batches(unknown):
                await self._recall(batch)
        except StoreAway:
            return

    async def tell(self) -> None:
        """Let others know what was settled here since the last time."""
        untold, self._untold = self._untold, {}
        try:
            for batch in _batches(list(untold)):
                await self._tell({key: untold[key] for key in batch})
        except StoreAway:
            return

    async def _recall(self, keys: Sequence[str]) -> None:
        places = [self._place(key) for key in keys]
        time, found = await self._store.run(
            lambda pipeline: pipeline.time(), lambda pipeline: pipeline.mget(places)
        )
        now = server_time(time)
        for key, sealed in zip(keys, found, strict=True):
            shared = self._read(key, sealed)
            if shared is not None:
                age_s = max(0.0, now - shared.settled_at)
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

    async def _tell(self, reports: dict[str, Report | None]) -> None:
        (time,) = await self._store.run(lambda pipeline: pipeline.time())
        now = server_time(time)

        def write(pipeline: Pipeline) -> None:
            for key, report in reports.items():
                if ttl_ms := int(self._cache.ttl_s(report) * 1000):
                    value = seal(key, _encoder.encode(SharedReport(report, now)))
                    pipeline.set(self._place(key), value, px=ttl_ms)

        await self._store.run(write)

    def _place(self, key: str) -> str:
        digest = blake2b(key.encode(), digest_size=_KEY_BYTES).hexdigest()
        return self._store.key("report", digest)


def share_reports(cache: ReportCache, store: SharedStore | None) -> Reported:
    """The cache by itself, or with what others know where there is a store."""
    return cache if store is None else SharedReportCache(cache, store)


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(keys), KEYS_AT_ONCE):
        yield keys[at : at + KEYS_AT_ONCE]
