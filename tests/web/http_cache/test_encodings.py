"""Encoded answers: the same bytes in each coding, each with its own ETag."""

import asyncio
import gzip
import mmap
import zlib
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from service.usage.snapshots.columns import Buffer
from service.usage.snapshots.formats import JSON
from service.web.http_cache.encodings import (
    CODINGS,
    GZIP,
    IDENTITY,
    LARGE_BYTES,
    MIN_COMPRESSED_BYTES,
    ZSTD,
    Answer,
    Variant,
)

Until = Callable[[Callable[[], bool]], Awaitable[None]]

DECODERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    IDENTITY: lambda body: body,
    GZIP: gzip.decompress,
    ZSTD: lambda body: zstandard.ZstdDecompressor().decompress(body),
}
SMALL: Final = b'{"usage":[' + b"1," * 500 + b"1]}"
LARGE: Final = Random(7).randbytes(1000) * (LARGE_BYTES // 1000 + 1)


def decoded(variant: Variant) -> bytes:
    return DECODERS[variant.coding](bytes(variant.body))


@pytest.mark.parametrize("size", [0, 1, MIN_COMPRESSED_BYTES - 1])
async def test_a_tiny_answer_stays_plain(size: int) -> None:
    """Compression would save nothing."""
    answer = await Answer.of(b"x" * size, JSON, {})

    assert answer.best(CODINGS).coding == IDENTITY
    assert answer.body == b"x" * size


@pytest.mark.parametrize("as_buffer", [bytes, bytearray], ids=["bytes", "mapped"])
@pytest.mark.parametrize("coding", [GZIP, ZSTD])
async def test_a_large_answer_is_compressed_on_first_use(
    until: Until, coding: str, as_buffer: type[bytes | bytearray]
) -> None:
    """Clients get the identity coding until it is ready."""
    body = LARGE if as_buffer is bytes else mapped(LARGE)
    answer = await Answer.of(body, JSON, {})
    assert answer.best((IDENTITY,)).coding == IDENTITY
    before = len(asyncio.all_tasks())

    variants = [answer.best((coding, IDENTITY)) for _ in range(3)]
    assert {each.coding for each in variants} == {IDENTITY}
    assert len(asyncio.all_tasks()) == before + 1
    await until(lambda: answer.best((coding, IDENTITY)).coding == coding)

    assert decoded(answer.best((coding, IDENTITY))) == LARGE


def mapped(body: bytes) -> Buffer:
    """Shared memory, as of the pricing process."""
    memory = mmap.mmap(-1, len(body))
    memory.write(body)
    return memory


@given(st.binary(max_size=2000), st.binary(max_size=2000))
def test_tags_are_equal_where_bytes_are(one: bytes, other: bytes) -> None:
    """Equal bodies have equal tags, different ones different tags."""
    tags = [Answer(body, JSON, {}).best((IDENTITY,)).etag for body in (one, other)]

    assert (tags[0] == tags[1]) is (one == other)
    assert Answer(one, JSON, {}).best((IDENTITY,)).etag == tags[0]


async def test_gzip_is_the_same_bytes_at_any_time() -> None:
    """It contains no timestamp, so that equal tags mean equal bytes."""
    answer = await Answer.of(SMALL, JSON, {})
    body = bytes(answer.best((GZIP,)).body)

    assert body[4:8] == bytes(4)
    assert zlib.decompress(body, wbits=31) == SMALL
