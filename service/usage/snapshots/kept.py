"""Chunks of a kept period: runs of priced messages as compressed columns.

`chunking` decides which messages are a chunk. Texts are not kept. A hash
of each text shows whether it has changed.
"""

import zlib
from collections.abc import Iterable, Sequence
from hashlib import blake2b, sha256
from typing import Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray

from service.usage.snapshots.columns import BY_TEXT, PricedMessages
from service.usage.snapshots.errors import ChunkDamaged
from service.usage.snapshots.messages import NO_REPORT, Message
from service.usage.snapshots.parts import Parts
from service.usage.snapshots.sharing import PackedColumns

DIGEST_BYTES: Final = 16
TEXT_HASH_BYTES: Final = 8
HASHED_ROWS: Final = 16_384
COMPRESSION: Final = 1
"""Higher levels of zlib take a multiple of the time for a few percent of the size."""

Rows = NDArray[np.intp]

TextHashes = NDArray[np.uint64]
"""Hashes of the messages' texts: `(n_messages,)` uint64."""


StoredChunk = tuple[bytes, bytes]
"""The digest and the compressed content of a chunk."""


class ChunkRef(NamedTuple):
    """The digest of a chunk's content, and its rows in a snapshot."""

    digest: bytes
    begin: int
    end: int


class KeptColumns(Struct, frozen=True, array_like=True):
    """The columns of one chunk; arrays are little-endian bytes."""

    plan: str
    ids: bytes
    timestamps: list[str]
    hundredths: bytes
    steps: bytes
    """int64, `(n_steps, n_messages)`."""
    names: list[str]
    """The names of the reports that priced messages, in the order of first use."""
    name_of: bytes
    reports: list[str]
    """The ids of the reports that messages refer to, in the order of first use."""
    report_of: bytes
    texts: bytes
    """uint64: hashes of the texts."""


_decoder: Final = msgspec.msgpack.Decoder(KeptColumns)


def hash_texts(sent: Parts[Message], known: TextHashes) -> TextHashes:
    """Return the hash of each text; those of the first messages are `known`."""
    hashes = bytearray()
    # By blocks: the memory of a million small objects would not be returned afterwards.
    for begin in range(len(known), len(sent), HASHED_ROWS):
        block = sent[begin : begin + HASHED_ROWS]
        texts = (each.text.encode("utf-8", "surrogatepass") for each in block)
        hashes += b"".join(map(hash_text, texts))
    return np.concatenate([known, np.frombuffer(hashes, "<u8")])


def hash_text(text: bytes) -> bytes:
    """Return the hash of a text in UTF-8."""
    return blake2b(text, digest_size=TEXT_HASH_BYTES).digest()


def encode_chunk(
    priced: PricedMessages, texts: TextHashes, begin: int, end: int
) -> bytes:
    """Return the compressed columns of one chunk."""
    return zlib.compress(encode(priced, texts, begin, end), COMPRESSION)


def decode_chunk(content: bytes, digest: bytes | None = None) -> KeptColumns:
    """Return the columns of a chunk; raises `ChunkDamaged`.

    The content is compared with its digest, if that is given.
    """
    try:
        encoded = zlib.decompress(content)
        if digest is not None and digest_of(encoded) != digest:
            raise ChunkDamaged(f"chunk {digest.hex()} has another content")
        return _decoder.decode(encoded)
    except (zlib.error, msgspec.DecodeError) as error:
        name = digest.hex() if digest else ""
        raise ChunkDamaged(f"chunk {name} is damaged: {error}") from error


def decode_chunks(chunks: Iterable[StoredChunk]) -> list[KeptColumns]:
    """Return the columns of chunks; raises `ChunkDamaged`."""
    return [decode_chunk(content, digest) for digest, content in chunks]


def take_rows(chunk: KeptColumns, rows: Rows) -> KeptColumns:
    """Return some rows of a chunk: `(n_rows,)` indexes, ascending."""
    steps = np.frombuffer(chunk.steps, "<i8").reshape(-1, len(chunk.timestamps))
    return structs.replace(
        chunk,
        ids=_take(chunk.ids, "<i8", rows),
        timestamps=[chunk.timestamps[each] for each in rows.tolist()],
        hundredths=_take(chunk.hundredths, "<i8", rows),
        steps=steps[:, rows].tobytes(),
        name_of=_take(chunk.name_of, "<i4", rows),
        report_of=_take(chunk.report_of, "<i4", rows),
        texts=_take(chunk.texts, "<u8", rows),
    )


def _take(column: bytes, dtype: str, rows: Rows) -> bytes:
    taken: bytes = np.frombuffer(column, dtype)[rows].tobytes()
    return taken


class StoredChunks(Struct, frozen=True, array_like=True):
    """The chunks of a revision of a period, as the database has them."""

    plan: str
    revision: str
    chunks: list[StoredChunk]
    texts: list[StoredChunk]
    """The texts of each chunk, or none."""


def pack_chunks(stored: StoredChunks) -> bytes:
    """Return chunks as bytes, for `kept_texts.restore` in a worker."""
    return msgspec.msgpack.encode(stored)


def join_chunks(chunks: Sequence[KeptColumns], plan: str, revision: str) -> bytes:
    """Return the columns of a whole period, as a worker adopts them."""
    names: dict[str, int] = {}
    name_of = [renumber(each.names, each.name_of, names, BY_TEXT) for each in chunks]
    count = sum(len(each.timestamps) for each in chunks)
    steps = [
        np.frombuffer(each.steps, "<i8").reshape(-1, len(each.timestamps))
        for each in chunks
    ]
    return msgspec.msgpack.encode(
        PackedColumns(
            plan=plan,
            digest=revision,
            ids=b"".join(each.ids for each in chunks),
            timestamps=[at for each in chunks for at in each.timestamps],
            hundredths=b"".join(each.hundredths for each in chunks),
            steps=np.concatenate(steps, axis=1).tobytes() if steps else b"",
            names=list(names),
            name_of=b"".join(name_of),
            refresh_ids=[revision],
            refresh_of=np.zeros(count, "<i4").tobytes(),
            degraded=0,
            values_since=revision,
            order_since=revision,
        )
    )


def renumber(
    values: Sequence[str], indexes: bytes, known: dict[str, int], none: int
) -> bytes:
    """Return a chunk's indexes of values as indexes into the values of all chunks.

    `known` has the place of each value, and gets those of new ones. `none` is the
    index of no value.
    """
    places = [known.setdefault(value, len(known)) for value in values]
    places.append(none)  # the last one, which -1 selects
    renumbered: NDArray[np.int32] = np.array(places, "<i4")[
        np.frombuffer(indexes, "<i4")
    ]
    return renumbered.tobytes()


def encode(priced: PricedMessages, texts: TextHashes, begin: int, end: int) -> bytes:
    """Return the columns of one chunk, in MessagePack."""
    rows, messages = slice(begin, end), priced.messages
    names, name_of = _used(priced.name_of[rows], priced.names)
    reports, report_of = _used(messages.report_of[rows], messages.report_keys)
    return msgspec.msgpack.encode(
        KeptColumns(
            plan=priced.plan.id,
            ids=messages.ids[rows].astype("<i8", copy=False).tobytes(),
            timestamps=messages.timestamps[rows],
            hundredths=priced.hundredths[rows].astype("<i8", copy=False).tobytes(),
            steps=priced.steps[:, rows].astype("<i8", copy=False).tobytes(),
            names=names,
            name_of=name_of,
            reports=reports,
            report_of=report_of,
            texts=texts[rows].astype("<u8", copy=False).tobytes(),
        )
    )


def _used(indexes: NDArray[np.int32], listed: Sequence[str]) -> tuple[list[str], bytes]:
    """Return the used values in the order of first use, and the indexes into them."""
    used, first, place_of = np.unique(indexes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    order = order[used[order] >= 0]  # `BY_TEXT` and `NO_REPORT` stay -1
    places = np.full(len(used), NO_REPORT, np.int32)
    places[order] = np.arange(len(order))
    values = [listed[each] for each in used[order].tolist()]
    return values, places[place_of].astype("<i4", copy=False).tobytes()


def digest_of(encoded: bytes) -> bytes:
    """Return the digest that names a chunk."""
    return sha256(encoded).digest()[:DIGEST_BYTES]
