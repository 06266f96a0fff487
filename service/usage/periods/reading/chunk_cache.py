"""Decoded chunks and outlines of kept periods, cached within bounds of memory."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

import structlog

from service.storage.lru_cache import LruCache
from service.usage.periods import metrics
from service.usage.periods.errors import PeriodReplaced
from service.usage.periods.model import KeptPeriod
from service.usage.periods.store import PeriodStore
from service.usage.snapshots.errors import ChunkDamaged
from service.usage.snapshots.kept import KeptColumns, decode_chunk
from service.usage.snapshots.outline import Outline, decode_outline

MAX_CHUNK_BYTES: Final = 32 * 1024 * 1024
MAX_OUTLINE_BYTES: Final = 16 * 1024 * 1024
BYTES_PER_TIMESTAMP: Final = 80
"""A string of Python with the 20 to 30 characters of a timestamp."""
MAX_LOGGED: Final = 1_000

T = TypeVar("T")

log = structlog.get_logger()


class ChunkCache:
    """Reads and checks parts of periods.

    All methods raise `StorageError`, `ChunkDamaged`, and `PeriodReplaced` for a part
    that is gone.
    """

    def __init__(self, store: PeriodStore) -> None:
        self._store = store
        self._chunks = LruCache[bytes, KeptColumns](
            max_bytes=MAX_CHUNK_BYTES, size_of=_size_of
        )
        self._outlines = LruCache[tuple[int, int], Outline](
            max_bytes=MAX_OUTLINE_BYTES, size_of=lambda outline: outline.size_bytes
        )
        self._logged = LruCache[str, str](MAX_LOGGED)

    async def outline(self, period: KeptPeriod) -> Outline | None:
        """Return the outline of a period; None if it was kept without one."""
        key = period.number, period.revision
        outline = self._outlines.get(key)
        if outline is None:
            content = await self._store.read_outline(*key)
            if content is None:
                return None
            decoding = asyncio.to_thread(decode_outline, content)
            outline = await self.checked(period, decoding)
            self._outlines.put(key, outline)
        return outline

    async def chunks(
        self, period: KeptPeriod, digests: Sequence[bytes]
    ) -> list[KeptColumns]:
        """Return some chunks of a period, in their order."""
        found = {each: self._chunks.get(each) for each in digests}
        missing = [digest for digest, chunk in found.items() if chunk is None]
        contents = await self.contents(period, missing)
        for digest in missing:
            decoding = asyncio.to_thread(decode_chunk, contents[digest], digest)
            chunk = await self.checked(period, decoding)
            self._chunks.put(digest, chunk)
            found[digest] = chunk
        return [each for digest in digests if (each := found[digest]) is not None]

    async def contents(
        self, period: KeptPeriod, digests: Sequence[bytes]
    ) -> dict[bytes, bytes]:
        """Return the stored contents of some chunks, by their digests."""
        if not digests:
            return {}
        contents = await self._store.read_chunks(period.number, digests)
        if not contents.keys() >= set(digests):
            raise PeriodReplaced(
                f"period {period.period} has another revision, or lacks a chunk"
            )
        return contents

    async def checked(self, period: KeptPeriod, decoding: Awaitable[T]) -> T:
        """Return what is decoded; log and count what is damaged."""
        try:
            return await decoding
        except ChunkDamaged as error:
            self.damaged(period, str(error))
            raise

    def damaged(self, period: KeptPeriod, reason: str) -> ChunkDamaged:
        """Log and count a damaged part; return the error."""
        metrics.damaged()
        key = f"{period.period}: {reason}"
        # Requests may come by the thousand, and an operator needs one line.
        if self._logged.get(key) is None:
            self._logged.put(key, key)
            log.error("usage.period_damaged", period=period.period, reason=reason)
        return ChunkDamaged(reason)


def _size_of(chunk: KeptColumns) -> int:
    arrays = chunk.ids, chunk.hundredths, chunk.steps, chunk.name_of, chunk.report_of
    sizes = sum(map(len, arrays)) + len(chunk.texts)
    return sizes + BYTES_PER_TIMESTAMP * len(chunk.timestamps)
