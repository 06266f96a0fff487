"""Texts of a kept period, in chunks of their own, and snapshots that have them.

A chunk of texts is named by the hashes of its texts, which the columns have too. So a
chunk is stored once, whatever the prices of its messages are.
"""

import zlib
from collections.abc import Sequence
from itertools import chain

import msgspec
import numpy as np

from service.usage.snapshots.build import ReportPrice, ResolvedReports
from service.usage.snapshots.columns import PricedMessages
from service.usage.snapshots.errors import ChunkDamaged
from service.usage.snapshots.kept import (
    COMPRESSION,
    ChunkRef,
    KeptColumns,
    StoredChunk,
    StoredChunks,
    TextHashes,
    decode_chunks,
    digest_of,
    hash_text,
    join_chunks,
    renumber,
)
from service.usage.snapshots.messages import NO_REPORT, Message, Messages
from service.usage.snapshots.parts import Parts
from service.usage.snapshots.sharing import unpack

_decoder = msgspec.msgpack.Decoder(list[bytes])
_stored_decoder = msgspec.msgpack.Decoder(StoredChunks)


def find_text_digests(chunks: Sequence[ChunkRef], texts: TextHashes) -> list[bytes]:
    """Return the digest of the texts of each chunk."""
    return [_digest(texts[each.begin : each.end].tobytes()) for each in chunks]


def encode_texts(sent: Parts[Message], begin: int, end: int) -> bytes:
    """Return the compressed texts of some messages."""
    # As bytes, since a text may have lone surrogates, which MessagePack refuses.
    texts = [each.text.encode("utf-8", "surrogatepass") for each in sent[begin:end]]
    return zlib.compress(msgspec.msgpack.encode(texts), COMPRESSION)


def decode_texts(content: bytes, digest: bytes) -> list[str]:
    """Return the texts of a chunk; raises `ChunkDamaged`."""
    try:
        encoded = _decoder.decode(zlib.decompress(content))
    except (zlib.error, msgspec.DecodeError) as error:
        raise ChunkDamaged(f"chunk {digest.hex()} is damaged: {error}") from error
    if _digest(b"".join(map(hash_text, encoded))) != digest:
        raise ChunkDamaged(f"chunk {digest.hex()} has another content")
    return [each.decode("utf-8", "surrogatepass") for each in encoded]


def restore(packed: bytes) -> tuple[PricedMessages, ResolvedReports]:
    """Return the messages of a kept period, and the reports that priced them.

    `packed` are `StoredChunks`. With texts, another plan can price the messages. Raises
    `ChunkDamaged`.
    """
    stored = _stored_decoder.decode(packed)
    chunks = decode_chunks(stored.chunks)
    priced = unpack(join_chunks(chunks, stored.plan, stored.revision))
    if not stored.texts:
        return priced, ResolvedReports((), ())
    priced.messages = _with_texts(priced.messages, chunks, stored.texts)
    return priced, _reports_of(priced)


def _digest(hashes: bytes) -> bytes:
    return digest_of(b"texts" + hashes)


def _with_texts(
    messages: Messages, chunks: Sequence[KeptColumns], texts: Sequence[StoredChunk]
) -> Messages:
    listed = [decode_texts(content, digest) for digest, content in texts]
    rows = zip(
        messages.ids.tolist(),
        chain.from_iterable(listed),
        messages.timestamps,
        strict=True,
    )
    keys: dict[str, int] = {}
    report_of = [
        renumber(each.reports, each.report_of, keys, NO_REPORT) for each in chunks
    ]
    return messages._replace(
        sent=Parts([[Message(*row) for row in rows]]),
        report_of=np.frombuffer(b"".join(report_of), "<i4"),
        report_keys=list(keys),
    )


def _reports_of(priced: PricedMessages) -> ResolvedReports:
    """Return the price of each report, which each message of it has."""
    messages = priced.messages
    prices: list[ReportPrice | None] = [None] * len(messages.report_keys)
    used, rows = np.unique(messages.report_of, return_index=True)
    for report, row in zip(used.tolist(), rows.tolist(), strict=True):
        if report != NO_REPORT and not priced.by_text[row]:
            name = priced.names[priced.name_of[row]]
            prices[report] = ReportPrice(name, int(priced.hundredths[row]))
    return ResolvedReports(prices, ())
