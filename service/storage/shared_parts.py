"""Bytes of any size in the shared store: in chunks, under the digest of the whole.

The same content has the same keys, so it is stored once, and whoever reads it knows
whether it is what was meant. Chunks keep each command short: neither end is busy with
one of them for longer than a few milliseconds.
"""

import asyncio
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from msgspec import Struct
from redis.asyncio.client import Pipeline

from service.storage.shared_store import SharedStore

CHUNK_BYTES: Final = 1024 * 1024
MAX_PART_BYTES: Final = 512 * 1024 * 1024
SUPERSEDED_MS: Final = 60_000
"""How long what nobody needs any more stays for those who are reading it."""

_DIGEST_BYTES: Final = 16


class Unreadable(Exception):
    """A part is gone, or is not what it should be."""


class Part(Struct, frozen=True, array_like=True):
    """Where some bytes are."""

    digest: str
    size: int


class Packed(NamedTuple):
    """Bytes with the part that they are."""

    part: Part
    stored: bytes

    @classmethod
    def of(cls, stored: bytes) -> "Packed":
        """These bytes as a part."""
        return cls(Part(_digest(stored), len(stored)), stored)


class Parts:
    """Stores and loads parts; raises `StoreAway` where the store cannot be used."""

    def __init__(self, store: SharedStore, kept_s: float) -> None:
        self._store = store
        self._kept_ms = int(kept_s * 1000)

    async def store(self, packed: Packed) -> None:
        """Store a part for its time, as far as it is not there yet."""
        keys = list(self._keys(packed.part))
        are_there = await self._expire(keys, self._kept_ms)
        for number, (key, is_there) in enumerate(zip(keys, are_there, strict=True)):
            if not is_there:
                at = number * CHUNK_BYTES
                await self._set(key, packed.stored[at : at + CHUNK_BYTES])

    async def renew(self, parts: Iterable[Part]) -> bool:
        """Keep parts for their whole time again; False where one is gone."""
        keys = [key for part in parts for key in self._keys(part)]
        return all(await self._expire(keys, self._kept_ms))

    async def load(self, part: Part) -> bytes:
        """The bytes of a part; `Unreadable` where they are not all there and sound."""
        if part.size > MAX_PART_BYTES:
            raise Unreadable
        chunks = [await self._get(key) for key in self._keys(part)]
        stored = await asyncio.to_thread(_join, chunks, part)
        if stored is None:
            self._store.log_once("cache.shared.ignored", "a part is broken")
            raise Unreadable
        return stored

    async def drop(self, parts: Iterable[Part]) -> None:
        """Let parts go soon that belong to nothing any more."""
        keys = [key for part in parts for key in self._keys(part)]
        await self._expire(keys, SUPERSEDED_MS)

    async def remove(self, parts: Iterable[Part]) -> None:
        """Remove parts at once; while one is there, nobody would store it again."""
        keys = [key for part in parts for key in self._keys(part)]
        if keys:
            await self._store.run(lambda pipeline: pipeline.unlink(*keys))

    async def _set(self, key: str, chunk: bytes) -> None:
        await self._store.run(
            lambda pipeline: pipeline.set(key, chunk, px=self._kept_ms)
        )

    async def _get(self, key: str) -> bytes:
        (chunk,) = await self._store.run(lambda pipeline: pipeline.get(key))
        if chunk is None:
            raise Unreadable
        return bytes(chunk)

    async def _expire(self, keys: list[str], after_ms: int) -> list[Any]:
        """Set when keys expire; whether each was there."""
        if not keys:
            return []

        def expire(pipeline: Pipeline) -> None:
            for key in keys:
                pipeline.pexpire(key, after_ms)

        return await self._store.run(expire)

    def _keys(self, part: Part) -> Iterator[str]:
        for number in range(-(-part.size // CHUNK_BYTES)):
            yield self._store.key("part", part.digest, number)


def _join(chunks: list[bytes], part: Part) -> bytes | None:
    joined = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    return joined if _digest(joined) == part.digest else None


def _digest(stored: bytes) -> str:
    return blake2b(stored, digest_size=_DIGEST_BYTES).hexdigest()
