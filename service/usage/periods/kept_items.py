"""The items of a closed period: read chunk by chunk, so that any size fits memory."""

import asyncio
from collections.abc import AsyncIterator

from service.usage.periods.chunk_cache import ChunkCache
from service.usage.periods.model import KeptPeriod
from service.usage.periods.store import CHUNKS_AT_ONCE
from service.usage.snapshots.item_rows import ItemRows, rows_of_chunk
from service.usage.snapshots.kept import decode_chunk


async def read_items(chunks: ChunkCache, period: KeptPeriod) -> AsyncIterator[ItemRows]:
    """Yield the items of a closed period, the rows of one chunk at a time.

    Nothing is added to the cache. Raises `StorageError`, `ChunkDamaged`, and
    `PeriodReplaced` for a chunk that is missing.
    """
    digests = period.digests
    for begin in range(0, len(digests), CHUNKS_AT_ONCE):
        some = digests[begin : begin + CHUNKS_AT_ONCE]
        contents = await chunks.contents(period, some)
        for digest in some:
            decoding = asyncio.to_thread(_decode, contents[digest], digest)
            yield await chunks.checked(period, decoding)


def _decode(content: bytes, digest: bytes) -> ItemRows:
    return rows_of_chunk(decode_chunk(content, digest))
