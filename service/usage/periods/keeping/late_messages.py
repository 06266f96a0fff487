"""Messages that a closed period lacks, as chunks of their own."""

import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from service.usage.periods.changes import (
    Contents,
    PackedChanges,
    find_added,
    find_changes,
    pack_pages,
)
from service.usage.periods.model import ChangeKind
from service.usage.snapshots.kept import (
    COMPRESSION,
    KeptColumns,
    decode_chunks,
    digest_of,
    take_rows,
)


class LateMessages(NamedTuple):
    """Chunks of late messages, and the adjustments that they are."""

    chunks: dict[bytes, bytes]
    """Compressed, by their digests."""
    changes: PackedChanges
    hundredths: int


def find_late(before: Contents, after: Contents) -> LateMessages:
    """Return the messages that only `after` has; a worker runs this.

    `before` and `after` are the chunks that only one of a closed period and a snapshot
    has, and those of earlier adjustments. Raises `ChunkDamaged`.
    """
    late = list(_take_added(*map(decode_chunks, (before, after))))
    changes = [
        each._replace(kind=ChangeKind.ADJUSTMENT, reason=f"late: {each.reason}")
        for each in find_changes((), late)
    ]
    encoded = [msgspec.msgpack.encode(each) for each in late]
    return LateMessages(
        {digest_of(each): zlib.compress(each, COMPRESSION) for each in encoded},
        PackedChanges(list(pack_pages(changes)), len(changes)),
        sum(each.after for each in changes),
    )


def _take_added(
    before: Sequence[KeptColumns], after: Sequence[KeptColumns]
) -> Iterator[KeptColumns]:
    added, begin = find_added(before, after), 0
    for chunk in after:
        end = begin + len(chunk.timestamps)
        rows = added[(added >= begin) & (added < end)] - begin
        if len(rows):
            yield take_rows(chunk, rows)
        begin = end
