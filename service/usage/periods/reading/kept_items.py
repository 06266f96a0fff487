"""The items of a closed period: read chunk by chunk, so that any size fits memory."""

import asyncio
from collections.abc import AsyncIterator

from service.usage.periods.model import KeptPeriod
from service.usage.periods.reading.chunk_cache import ChunkCache
from service.usage.periods.store import CHUNKS_AT_ONCE
from service.usage.snapshots.item_rows import ItemRows, rows_of_chunk
from service.usage.snapshots.kept import decode_chunk


async def read_items(chunks: ChunkCache, period: KeptPeriod) -> AsyncIterator[ItemRows]:
    """Yield the items of a closed period, the rows of one chunk at a time.

    Raises `ChunkDamaged`, and as `read_contents`.
    """
    async for digest, content in read_contents(chunks, period):
        decoding = asyncio.to_thread(_decode, content, digest)
        yield await chunks.checked(period, decoding)


async def read_contents(
    chunks: ChunkCache, period: KeptPeriod
) -> AsyncIterator[tuple[bytes, bytes]]:
    """Yield the digest and the content of each chunk of a closed period.

    Nothing is added to the cache. Raises `StorageError`, and `PeriodReplaced` for a
    chunk that is missing.
    """
    digests = period.digests
    for begin in range(0, len(digests), CHUNKS_AT_ONCE):
        some = digests[begin : begin + CHUNKS_AT_ONCE]
        contents = await chunks.contents(period, some)
        for digest in some:
            yield digest, contents[digest]


def _decode(content: bytes, digest: bytes) -> ItemRows:
    return rows_of_chunk(decode_chunk(content, digest))
