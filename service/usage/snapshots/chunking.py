"""Division of a period into chunks, and search for those that are not new.

The ids of messages decide where chunks end. So an added or removed message changes only
the chunk that it belongs to, and equal chunks of successive snapshots are stored once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.usage.snapshots.cancellation import check_cancelled
from service.usage.snapshots.columns import BY_TEXT, PricedMessages
from service.usage.snapshots.kept import ChunkRef, TextHashes, digest_of, encode

MEAN_ROWS: Final = 4_096
MIN_ROWS: Final = 256
"""Ids that all end a chunk would make a chunk of each message."""
MAX_ROWS: Final = 4 * MEAN_ROWS
NOT_LISTED: Final = -2
"""Marks a name of the snapshot before that this one has not."""

# Fibonacci hashing: the high bits of the product depend on all bits of the id.
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_SHIFT: Final = np.uint64(64 - (MEAN_ROWS - 1).bit_length())


class Chunked(NamedTuple):
    """The chunks of a snapshot, and the columns that they were made of."""

    priced: PricedMessages
    """Without its answer and its texts, which the next snapshot needs no more."""
    texts: TextHashes
    chunks: list[ChunkRef]


def find_chunks(
    priced: PricedMessages, texts: TextHashes, before: Chunked | None = None
) -> Chunked:
    """Return the chunks of a snapshot, in the order of its messages.

    Chunks that the snapshot before has too are compared, but not encoded again.
    """
    slim = replace(
        priced, messages=priced.messages._replace(sent=None), answer=b"", hashed=None
    )
    comparison = None if before is None else _Comparison(before, slim, texts)
    chunks = []
    for begin, end in cut(priced.messages.ids):
        check_cancelled()
        digest = comparison.find(begin, end) if comparison else None
        if digest is None:
            digest = digest_of(encode(priced, texts, begin, end))
        chunks.append(ChunkRef(digest, begin, end))
    return Chunked(slim, texts, chunks)


def cut(ids: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield the bounds of chunks: `begin` and `end` of rows."""
    ends = np.flatnonzero((ids.astype(np.uint64) * _MULTIPLIER) >> _SHIFT == 0) + 1
    begin = 0
    for end in [*ends.tolist(), len(ids)]:
        if end - begin < MIN_ROWS and end < len(ids):
            continue
        while end - begin > MAX_ROWS:
            yield begin, begin + MAX_ROWS
            begin += MAX_ROWS
        if end > begin:
            yield begin, end
            begin = end


class _Comparison:
    """Finds chunks of the snapshot before that are equal to rows of this one."""

    def __init__(
        self, before: Chunked, priced: PricedMessages, texts: TextHashes
    ) -> None:
        self._before, self._old = before, before.priced
        self._priced, self._texts = priced, texts
        ids = self._old.messages.ids
        self._by_first_id = {int(ids[each.begin]): each for each in before.chunks}
        self._names = _places(self._old.names, priced.names)
        reports = self._old.messages.report_keys, priced.messages.report_keys
        self._reports = _places(*reports)

    def find(self, begin: int, end: int) -> bytes | None:
        """Return the digest of an equal chunk of the snapshot before, or None."""
        each = self._by_first_id.get(int(self._priced.messages.ids[begin]))
        if each is None or self._old.plan is not self._priced.plan:
            return None
        old, new = slice(each.begin, each.end), slice(begin, end)
        return each.digest if self._is_same(old, new) else None

    def _is_same(self, old_rows: slice, rows: slice) -> bool:
        old, new = self._old, self._priced
        of_old, of_new = old.messages, new.messages
        pairs = (
            (of_old.ids[old_rows], of_new.ids[rows]),
            (old.hundredths[old_rows], new.hundredths[rows]),
            (old.steps[:, old_rows], new.steps[:, rows]),
            (self._names[old.name_of[old_rows]], new.name_of[rows]),
            (self._reports[of_old.report_of[old_rows]], of_new.report_of[rows]),
            (self._before.texts[old_rows], self._texts[rows]),
        )
        return (
            all(np.array_equal(one, other) for one, other in pairs)
            and of_old.timestamps[old_rows] == of_new.timestamps[rows]
        )


def _places(old: Sequence[str], new: Sequence[str]) -> NDArray[np.int64]:
    """Return the place in `new` of each value of `old`; the last one is that of -1."""
    place_of = {value: place for place, value in enumerate(new)}
    places = [place_of.get(value, NOT_LISTED) for value in old]
    return np.array([*places, BY_TEXT], np.int64)
