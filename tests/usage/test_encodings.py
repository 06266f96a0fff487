"""Encoded answers: the same bytes in each coding, and tags that tell them apart."""

import asyncio
import gzip
import mmap
import re
import zlib
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from service.usage.encodings import (
    CODINGS,
    GZIP,
    IDENTITY,
    LARGE_BYTES,
    SMALLEST_COMPRESSED_BYTES,
    ZSTD,
    Answer,
    Variant,
)
from service.usage.snapshots.columns import Buffer
from service.usage.snapshots.formats import JSON

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


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_small_answer_is_ready_in_every_coding(coding: str) -> None:
    """It is compressed when it is made, and decodes to what it was made of."""
    answer = await Answer.of(SMALL, JSON, {})
    variant = answer.best((coding, IDENTITY))

    assert variant.coding == coding
    assert decoded(variant) == SMALL
    assert (len(variant.body) < len(SMALL)) is (coding != IDENTITY)


@pytest.mark.parametrize("size", [0, 1, SMALLEST_COMPRESSED_BYTES - 1])
async def test_a_tiny_answer_stays_plain(size: int) -> None:
    """Below the size of a packet's corner, compressing gains nothing."""
    answer = await Answer.of(b"x" * size, JSON, {})

    assert answer.best(CODINGS).coding == IDENTITY
    assert answer.body == b"x" * size


@pytest.mark.parametrize("as_buffer", [bytes, bytearray], ids=["bytes", "mapped"])
@pytest.mark.parametrize("coding", [GZIP, ZSTD])
async def test_a_large_answer_is_compressed_when_first_wanted(
    until: Until, coding: str, as_buffer: type[bytes | bytearray]
) -> None:
    """Nobody waits for it: callers get it plain until the coding is ready."""
    body = LARGE if as_buffer is bytes else mapped(LARGE)
    answer = await Answer.of(body, JSON, {})
    assert answer.best((IDENTITY,)).coding == IDENTITY
    before = len(asyncio.all_tasks())

    wishes = [answer.best((coding, IDENTITY)) for _ in range(3)]
    assert {each.coding for each in wishes} == {IDENTITY}
    assert len(asyncio.all_tasks()) == before + 1
    await until(lambda: answer.best((coding, IDENTITY)).coding == coding)

    assert decoded(answer.best((coding, IDENTITY))) == LARGE


def mapped(body: bytes) -> Buffer:
    """Memory as the process of a large period shares it."""
    memory = mmap.mmap(-1, len(body))
    memory.write(body)
    return memory


async def test_the_first_coding_wished_for_wins() -> None:
    """Whoever likes gzip better gets gzip."""
    answer = await Answer.of(SMALL, JSON, {})

    assert [answer.best(wish).coding for wish in ((GZIP, ZSTD), (ZSTD, GZIP))] == [
        GZIP,
        ZSTD,
    ]
    assert answer.best(("br", IDENTITY)).coding == IDENTITY


async def test_each_coding_has_a_strong_tag_of_its_own() -> None:
    """Tags name bytes: they are strong, well formed, and differ by coding."""
    answer = await Answer.of(SMALL, JSON, {})
    tags = [answer.best((coding,)).etag for coding in CODINGS]

    assert len(set(tags)) == len(CODINGS)
    for tag in tags:
        assert re.fullmatch(r'"[!#-~]+"', tag)


@given(st.binary(max_size=2000), st.binary(max_size=2000))
def test_tags_are_equal_where_bytes_are(one: bytes, other: bytes) -> None:
    """A refresh that finds the same keeps the tag, and only that."""
    tags = [Answer(body, JSON, {}).best((IDENTITY,)).etag for body in (one, other)]

    assert (tags[0] == tags[1]) is (one == other)
    assert Answer(one, JSON, {}).best((IDENTITY,)).etag == tags[0]


async def test_gzip_is_the_same_bytes_at_any_time() -> None:
    """No time of day is in it, or equal tags would name different bytes."""
    answer = await Answer.of(SMALL, JSON, {})
    body = bytes(answer.best((GZIP,)).body)

    assert body[4:8] == bytes(4)
    assert zlib.decompress(body, wbits=31) == SMALL
