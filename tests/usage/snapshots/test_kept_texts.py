"""Chunks of texts: what they are named for, and damaged ones."""

import zlib
from typing import Final

import msgspec
import numpy as np
import pytest

from service.usage.snapshots.errors import ChunkDamaged
from service.usage.snapshots.kept import ChunkRef, hash_texts
from service.usage.snapshots.kept_texts import (
    decode_texts,
    encode_texts,
    find_text_digests,
)
from service.usage.snapshots.messages import Message
from service.usage.snapshots.parts import Parts

TEXTS: Final = ["", "a word", "\U0001f600", "a lone \ud83d surrogate"]
SENT: Final = Parts([[Message(1, each, "2024-04-29") for each in TEXTS]])
HASHES: Final = hash_texts(SENT, np.zeros(0, np.uint64))
CHUNKS: Final = [ChunkRef(b"", 0, 2), ChunkRef(b"", 2, 4)]


def test_texts_of_all_characters_are_kept() -> None:
    """A surrogate without its pair, which an upstream may send, is kept too."""
    digests = find_text_digests(CHUNKS, HASHES)
    for digest, (_, begin, end) in zip(digests, CHUNKS, strict=True):
        content = encode_texts(SENT, begin, end)
        assert decode_texts(content, digest) == TEXTS[begin:end]


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense",
        zlib.compress(b"nonsense"),
        zlib.compress(msgspec.msgpack.encode([b"other", b"texts"])),
        encode_texts(SENT, 1, 2),
    ],
    ids=["no zlib", "no list", "other texts", "fewer texts"],
)
def test_damaged_texts_are_refused(content: bytes) -> None:
    """Each text is compared with its hash."""
    with pytest.raises(ChunkDamaged):
        decode_texts(content, find_text_digests(CHUNKS, HASHES)[0])
