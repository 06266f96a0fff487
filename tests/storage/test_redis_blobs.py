"""Blobs in Redis: large values, which are stored in chunks."""

import os

import pytest

from service.storage.redis_blobs import (
    CHUNK_BYTES,
    Blob,
    BlobContent,
    Blobs,
    BlobUnreadable,
)
from service.storage.redis_store import RedisStore
from tests.redis_servers import RedisDouble, SharedRedis


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES]
)
async def test_blob_of_any_size_can_be_loaded(shared: SharedRedis, size: int) -> None:
    """A blob is stored in chunks, and loaded as one."""
    store = RedisStore(shared.url, "test")
    blobs = Blobs(store, ttl_s=60.0)
    packed = BlobContent.of(os.urandom(size))

    await blobs.store(packed)
    await blobs.store(packed)

    assert await blobs.load(packed.blob) == packed.stored
    assert all(len(value) <= CHUNK_BYTES for value in shared.values().values())
    await store.close()


async def test_blob_of_impossible_size_is_not_read(double: RedisDouble) -> None:
    """A broken manifest cannot cause a read without end."""
    with pytest.raises(BlobUnreadable):
        await Blobs(RedisStore("redis://a.test", "test"), 60.0).load(
            Blob("digest", 2**60)
        )
    assert double.asked == 0
