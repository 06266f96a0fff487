"""Encoded answers: one body as identity, gzip and zstd, each with its own ETag.

An answer is encoded once for each refresh. A large one is compressed in a thread when a
client first accepts a coding; until that is done, clients get the identity coding.
"""

import asyncio
import hashlib
import mmap
import zlib
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import zstandard

BodyBytes = bytes | mmap.mmap
"""A body; a large one may be a memory-mapped file."""

Coding = str
"""A content coding of HTTP."""

IDENTITY: Final = "identity"
GZIP: Final = "gzip"
ZSTD: Final = "zstd"
CODINGS: Final = (ZSTD, GZIP, IDENTITY)
"""The available codings, best first."""

# Smaller answers are compressed in the event loop, when they are made.
LARGE_BYTES: Final = 256 * 1024
MIN_COMPRESSED_BYTES: Final = 256

GZIP_WINDOW: Final = 31  # zlib writes a gzip header for windows above 15
_ETAG_BYTES: Final = 12


CONTENT_TYPES: Final = {
    "application/json": "application/json",
    "application/x-ndjson": "application/x-ndjson; charset=utf-8",
    "text/csv": "text/csv; charset=utf-8",
}
"""`Content-Type` by media type; JSON is UTF-8 by definition."""


class Variant(NamedTuple):
    """A representation of an answer in one coding, and its ETag."""

    coding: Coding
    body: BodyBytes
    etag: str


class Answer:
    """An encoded answer in the codings that are ready, and its headers.

    `digest` is that of the body, if it is known; to hash a large body takes long.
    """

    def __init__(
        self,
        body: BodyBytes,
        media_type: str,
        headers: dict[str, str],
        digest: str | None = None,
    ) -> None:
        self.content_type = CONTENT_TYPES[media_type]
        self.headers = headers
        self._digest = digest or digest_of(body)
        self._variants = {IDENTITY: self._variant(IDENTITY, body)}
        self._compressing: asyncio.Task[None] | None = None

    @classmethod
    async def of(
        cls,
        body: BodyBytes,
        media_type: str,
        headers: dict[str, str],
        digest: str | None = None,
    ) -> "Answer":
        """Return an answer; a small one is compressed now, a large one on first use."""
        if len(body) >= LARGE_BYTES:
            return await asyncio.to_thread(cls, body, media_type, headers, digest)
        answer = cls(body, media_type, headers, digest)
        if len(body) >= MIN_COMPRESSED_BYTES:
            answer.compress()
        return answer

    @classmethod
    def restored(
        cls, bodies: Mapping[Coding, bytes], media_type: str, headers: dict[str, str]
    ) -> "Answer":
        """Return an answer from the bodies that `compressed` returned."""
        plain = bodies.get(IDENTITY)
        if plain is None:
            plain = zstandard.ZstdDecompressor().decompress(bodies[ZSTD])
        answer = cls(plain, media_type, headers)
        for coding, body in bodies.items():
            answer._variants[coding] = answer._variant(coding, body)
        return answer

    @property
    def body(self) -> BodyBytes:
        """The body without a coding."""
        return self._variants[IDENTITY].body

    def best(self, codings: Sequence[Coding]) -> Variant:
        """Return the first of these codings that is ready; start to make the others."""
        for coding in codings:
            if coding in self._variants:
                return self._variants[coding]
            self._compress_soon()
        return self._variants[IDENTITY]

    def compress(self) -> None:
        """Make the other codings, at the fastest level for a large answer."""
        is_large = len(self.body) >= LARGE_BYTES
        compressor = zlib.compressobj(1 if is_large else 6, wbits=GZIP_WINDOW)
        gzip = compressor.compress(self.body) + compressor.flush()
        zstd = zstandard.ZstdCompressor(level=1 if is_large else 3).compress(
            memoryview(self.body)
        )
        for coding, body in ((GZIP, gzip), (ZSTD, zstd)):
            self._variants[coding] = self._variant(coding, body)

    async def compressed(self) -> dict[Coding, BodyBytes]:
        """Return the bodies from which `restored` can make the answer, by coding."""
        self._compress_soon()
        if self._compressing is not None:
            # The task is shared: one cancelled waiter must not cancel it.
            await asyncio.shield(self._compressing)
        bodies = {coding: variant.body for coding, variant in self._variants.items()}
        # The identity coding can be restored from zstd, and is the largest.
        if ZSTD in bodies:
            del bodies[IDENTITY]
        return bodies

    def _compress_soon(self) -> None:
        if self._compressing is None and len(self.body) >= LARGE_BYTES:
            self._compressing = asyncio.create_task(asyncio.to_thread(self.compress))

    def _variant(self, coding: Coding, body: BodyBytes) -> Variant:
        suffix = "" if coding == IDENTITY else f"-{coding}"
        return Variant(coding, body, f'"{self._digest}{suffix}"')


def digest_of(body: BodyBytes) -> str:
    """Return the digest of a body, of which its ETags are made."""
    return hashlib.blake2b(body, digest_size=_ETAG_BYTES).hexdigest()
