"""Blobs of any size in Redis, in chunks, under the digest of their content.

Equal content has the same keys, so it is stored once, and readers verify it. With
chunks, no command blocks Redis or this process for more than a few milliseconds.
"""

import asyncio
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import Struct

from service.storage.redis_store import RedisStore

if TYPE_CHECKING:
    from redis.asyncio.client import Pipeline

CHUNK_BYTES: Final = 1024 * 1024
MAX_BLOB_BYTES: Final = 512 * 1024 * 1024
SUPERSEDED_MS: Final = 60_000
"""Expiry of superseded blobs, which other processes may still be reading."""

_DIGEST_BYTES: Final = 16


class BlobUnreadable(Exception):
    """A blob is missing or broken."""


class Blob(Struct, frozen=True, array_like=True):
    """Reference to a blob."""

    digest: str
    size: int


class BlobContent(NamedTuple):
    """Content of a blob, with its reference."""

    blob: Blob
    stored: bytes

    @classmethod
    def of(cls, stored: bytes) -> "BlobContent":
        """Return bytes with their reference."""
        return cls(Blob(_digest(stored), len(stored)), stored)


class Blobs:
    """Stores and loads blobs; each method may raise `RedisUnavailable`."""

    def __init__(self, store: RedisStore, ttl_s: float) -> None:
        self._store = store
        self._ttl_ms = int(ttl_s * 1000)

    async def store(self, content: BlobContent) -> None:
        """Store the missing chunks of a blob, and renew the others."""
        keys = list(self._keys(content.blob))
        exist = await self._expire(keys, self._ttl_ms)
        for number, (key, exists) in enumerate(zip(keys, exist, strict=True)):
            if not exists:
                start = number * CHUNK_BYTES
                await self._set(key, content.stored[start : start + CHUNK_BYTES])

    async def renew(self, blobs: Iterable[Blob]) -> bool:
        """Renew the expiry of blobs; return False if a chunk is missing."""
        keys = [key for blob in blobs for key in self._keys(blob)]
        return all(await self._expire(keys, self._ttl_ms))

    async def load(self, blob: Blob) -> bytes:
        """Return the bytes of a blob; raise `BlobUnreadable`."""
        if blob.size > MAX_BLOB_BYTES:
            raise BlobUnreadable
        chunks = [await self._get(key) for key in self._keys(blob)]
        stored = await asyncio.to_thread(_join, chunks, blob)
        if stored is None:
            self._store.log_once("cache.shared.ignored", "a part is broken")
            raise BlobUnreadable
        return stored

    async def drop(self, blobs: Iterable[Blob]) -> None:
        """Let superseded blobs expire soon."""
        keys = [key for blob in blobs for key in self._keys(blob)]
        await self._expire(keys, SUPERSEDED_MS)

    async def remove(self, blobs: Iterable[Blob]) -> None:
        """Remove broken blobs at once, so that they can be stored again."""
        keys = [key for blob in blobs for key in self._keys(blob)]
        if keys:
            await self._store.run(lambda pipeline: pipeline.unlink(*keys))

    async def _set(self, key: str, chunk: bytes) -> None:
        await self._store.run(
            lambda pipeline: pipeline.set(key, chunk, px=self._ttl_ms)
        )

    async def _get(self, key: str) -> bytes:
        (chunk,) = await self._store.run(lambda pipeline: pipeline.get(key))
        if chunk is None:
            raise BlobUnreadable
        return bytes(chunk)

    async def _expire(self, keys: list[str], after_ms: int) -> list[Any]:
        """Set the expiry of keys; return for each whether it exists."""
        if not keys:
            return []

        def expire(pipeline: "Pipeline") -> None:
            for key in keys:
                pipeline.pexpire(key, after_ms)

        return await self._store.run(expire)

    def _keys(self, blob: Blob) -> Iterator[str]:
        for number in range(-(-blob.size // CHUNK_BYTES)):
            yield self._store.key("part", blob.digest, number)


def _join(chunks: list[bytes], blob: Blob) -> bytes | None:
    joined = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    return joined if _digest(joined) == blob.digest else None


def _digest(stored: bytes) -> str:
    return blake2b(stored, digest_size=_DIGEST_BYTES).hexdigest()
