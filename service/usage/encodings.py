"""Encoded answers: the same bytes as identity, gzip and zstd, each with its own ETag.

An answer is made once for each refresh, and sent as it is from then on. A large one is
compressed when somebody first wants that, in a thread beside the serving of requests;
until it is done, callers get it plain.
"""

import asyncio
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import zstandard

from service.usage.snapshots.columns import Buffer, Summary

REVISION_HEADER: Final = "Usage-Revision"

Coding = str
"""A content coding of HTTP."""

IDENTITY: Final = "identity"
GZIP: Final = "gzip"
ZSTD: Final = "zstd"
CODINGS: Final = (ZSTD, GZIP, IDENTITY)
"""What is offered, best first."""

LARGE_BYTES: Final = 256 * 1024
SMALLEST_COMPRESSED_BYTES: Final = 256

_GZIP_WINDOW: Final = 31  # zlib's way to ask for a gzip header
_ETAG_BYTES: Final = 12


CONTENT_TYPES: Final = {
    "application/json": "application/json",
    "application/x-ndjson": "application/x-ndjson; charset=utf-8",
    "text/csv": "text/csv; charset=utf-8",
}
"""How each format is declared; JSON is UTF-8 by definition."""


class Variant(NamedTuple):
    """One representation of an answer: its bytes, and the tag that names them."""

    coding: Coding
    body: Buffer
    etag: str


class Answer:
    """An encoded answer in the codings that are ready, and what its headers tell."""

    def __init__(self, body: Buffer, media_type: str, headers: dict[str, str]) -> None:
        self.content_type = CONTENT_TYPES[media_type]
        self.headers = headers
        self._digest = hashlib.blake2b(body, digest_size=_ETAG_BYTES).hexdigest()
        self._variants = {IDENTITY: self._variant(IDENTITY, body)}
        self._compressing: asyncio.Task[None] | None = None

    @classmethod
    async def of(
        cls, body: Buffer, media_type: str, headers: dict[str, str]
    ) -> "Answer":
        """An answer; a small one is compressed at once, a large one when asked for."""
        if len(body) >= LARGE_BYTES:
            return await asyncio.to_thread(cls, body, media_type, headers)
        answer = cls(body, media_type, headers)
        if len(body) >= SMALLEST_COMPRESSED_BYTES:
            answer.compress()
        return answer

    @classmethod
    def restored(
        cls, bodies: Mapping[Coding, bytes], media_type: str, headers: dict[str, str]
    ) -> "Answer":
        """An answer out of what `compressed` gave; it may have been sent far."""
        plain = bodies.get(IDENTITY)
        if plain is None:
            plain = zstandard.ZstdDecompressor().decompress(bodies[ZSTD])
        answer = cls(plain, media_type, headers)
        for coding, body in bodies.items():
            answer._variants[coding] = answer._variant(coding, body)
        return answer

    @property
    def body(self) -> Buffer:
        """The plain bytes."""
        return self._variants[IDENTITY].body

    def best(self, codings: Sequence[Coding]) -> Variant:
        """The first of these that is ready; a wish for others is kept for next time."""
        for coding in codings:
            if coding in self._variants:
                return self._variants[coding]
            self._compress_soon()
        return self._variants[IDENTITY]

    def compress(self) -> None:
        """Make the other codings; quick rather than thorough for a large answer."""
        is_large = len(self.body) >= LARGE_BYTES
        compressor = zlib.compressobj(1 if is_large else 6, wbits=_GZIP_WINDOW)
        gzip = compressor.compress(self.body) + compressor.flush()
        zstd = zstandard.ZstdCompressor(level=1 if is_large else 3).compress(
            memoryview(self.body)
        )
        for coding, body in ((GZIP, gzip), (ZSTD, zstd)):
            self._variants[coding] = self._variant(coding, body)

    async def compressed(self) -> dict[Coding, Buffer]:
        """The codings that tell everything, made now where nobody wanted them yet."""
        self._compress_soon()
        if self._compressing is not None:
            await asyncio.shield(self._compressing)
        bodies = {coding: variant.body for coding, variant in self._variants.items()}
        if ZSTD in bodies:
            del bodies[IDENTITY]
        return bodies

    def _compress_soon(self) -> None:
        if self._compressing is None and len(self.body) >= LARGE_BYTES:
            self._compressing = asyncio.create_task(asyncio.to_thread(self.compress))

    def _variant(self, coding: Coding, body: Buffer) -> Variant:
        suffix = "" if coding == IDENTITY else f"-{coding}"
        return Variant(coding, body, f'"{self._digest}{suffix}"')


def answer_headers(summary: Summary, revision: str) -> dict[str, str]:
    """Return the headers that every answer of a snapshot has."""
    headers = {"Usage-Plan": summary.plan, REVISION_HEADER: revision}
    if summary.degraded:
        headers["Usage-Degraded"] = str(summary.degraded)
    return headers
