"""Changes between two revisions of a period, found in the chunks that differ.

A message is the same in both if its id and its timestamp are. The credits after all
changes minus those before them are the difference of the two totals.
"""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from service.usage.periods.model import Change, ChangeKind
from service.usage.snapshots.cancellation import check_cancelled
from service.usage.snapshots.columns import BY_TEXT
from service.usage.snapshots.errors import ChunkDamaged
from service.usage.snapshots.kept import (
    COMPRESSION,
    KeptColumns,
    StoredChunk,
    decode_chunk,
    decode_chunks,
)
from service.usage.snapshots.matching import NO_ROW

PAGE_CHANGES: Final = 4_096

_Flags = NDArray[np.bool_]
_Indexes = NDArray[np.int64]
Contents = Sequence[StoredChunk]


class ChangesPage(Struct, frozen=True, array_like=True):
    """Changes as they are stored: lists of equal length, credits in hundredths."""

    kinds: list[ChangeKind]
    message_ids: list[int]
    before: list[int]
    after: list[int]
    reasons: list[str]


_decoder: Final = msgspec.msgpack.Decoder(ChangesPage)


class _Columns(NamedTuple):
    """The messages of some chunks of one revision, as `(n_messages,)` columns."""

    ids: _Indexes
    timestamps: list[str]
    hundredths: NDArray[np.int64]
    names: NDArray[np.object_]
    """The names of reports; None where the text priced the message."""
    reports: NDArray[np.object_]
    """The ids of reports; None without one."""
    texts: NDArray[np.uint64]
    plans: NDArray[np.object_]


class PackedChanges(NamedTuple):
    """Changes in compressed pages."""

    pages: list[bytes]
    changes: int


def find_packed_changes(before: Contents, after: Contents) -> PackedChanges:
    """Return the changes of messages in pages; a worker runs this.

    `before` and `after` are the chunks that only one of both revisions has. Raises
    `ChunkDamaged`.
    """
    changes = iter_changes(*map(decode_chunks, (before, after)))
    pages: list[bytes] = []
    count = 0
    while some := list(islice(changes, PAGE_CHANGES)):
        check_cancelled()
        pages += pack_pages(some)
        count += len(some)
    return PackedChanges(pages, count)


def find_readable(contents: Contents) -> set[bytes]:
    """Return the digests of chunks that are not damaged; a worker runs this."""
    readable = set()
    for digest, content in contents:
        with suppress(ChunkDamaged):
            decode_chunk(content, digest)
            readable.add(digest)
    return readable


def is_message_shared(before: Contents, after: Contents) -> bool:
    """Return whether a message is in both; a worker runs this.

    Raises `ChunkDamaged`.
    """
    return shares_message(*map(decode_chunks, (before, after)))


def find_changes(
    before: Sequence[KeptColumns], after: Sequence[KeptColumns]
) -> list[Change]:
    """Return the changes of messages, in the order after; removed messages come last.

    `before` and `after` are the chunks that only one of both revisions has.
    """
    return list(iter_changes(before, after))


def iter_changes(
    before: Sequence[KeptColumns], after: Sequence[KeptColumns]
) -> Iterator[Change]:
    """Yield what `find_changes` returns."""
    old, new = _join(before), _join(after)
    of_old, of_new = _match(old, new)
    differing = _differing(old, of_old, new, of_new)
    added = _others(len(new.ids), of_new)
    rows = np.concatenate([of_new[differing], added])
    old_rows = np.concatenate([of_old[differing], np.full(len(added), NO_ROW)])
    order = np.argsort(rows)
    for old_row, row in zip(old_rows[order], rows[order], strict=True):
        if old_row == NO_ROW:
            yield _change(ChangeKind.ADDED, 0, new, row)
        else:
            yield _change_of(old, old_row, new, row)
    for row in _others(len(old.ids), of_old):
        yield _change(ChangeKind.REMOVED, int(old.hundredths[row]), old, row)


def shares_message(before: Sequence[KeptColumns], after: Sequence[KeptColumns]) -> bool:
    """Return whether a message, by its id and timestamp, is in both."""
    of_old, _ = _match(_join(before), _join(after))
    return bool(len(of_old))


def find_added(
    before: Sequence[KeptColumns], after: Sequence[KeptColumns]
) -> NDArray[np.int64]:
    """Return the rows of `after` whose messages are not in `before`, ascending."""
    new = _join(after)
    _, of_new = _match(_join(before), new)
    return _others(len(new.ids), of_new)


def pack_pages(changes: Sequence[Change]) -> Iterator[bytes]:
    """Yield the changes in compressed pages."""
    for begin in range(0, len(changes), PAGE_CHANGES):
        kinds, ids, before, after, reasons = (
            list(column)
            for column in zip(*changes[begin : begin + PAGE_CHANGES], strict=True)
        )
        page = ChangesPage(kinds, ids, before, after, reasons)
        yield zlib.compress(msgspec.msgpack.encode(page), COMPRESSION)


def unpack_page(content: bytes) -> list[Change]:
    """Return the changes of a page; raises `ChunkDamaged`."""
    try:
        page = _decoder.decode(zlib.decompress(content))
    except (zlib.error, msgspec.MsgspecError) as error:
        raise ChunkDamaged(f"the kept changes are damaged: {error}") from error
    columns = page.kinds, page.message_ids, page.before, page.after, page.reasons
    return [Change(*row) for row in zip(*columns, strict=True)]


def _join(chunks: Sequence[KeptColumns]) -> _Columns:
    return _Columns(
        ids=_concatenated([np.frombuffer(each.ids, "<i8") for each in chunks], "<i8"),
        timestamps=[at for each in chunks for at in each.timestamps],
        hundredths=_concatenated(
            [np.frombuffer(each.hundredths, "<i8") for each in chunks], "<i8"
        ),
        names=_concatenated(
            [_values(each.name_of, each.names) for each in chunks], "O"
        ),
        reports=_concatenated(
            [_values(each.report_of, each.reports) for each in chunks], "O"
        ),
        texts=_concatenated(
            [np.frombuffer(each.texts, "<u8") for each in chunks], "<u8"
        ),
        plans=_concatenated(
            [np.full(len(each.timestamps), each.plan, "O") for each in chunks], "O"
        ),
    )


def _concatenated(parts: list[NDArray[Any]], dtype: str) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts])


def _values(indexes: bytes, listed: list[str]) -> NDArray[np.object_]:
    """Return the value of each index; None for -1, which is `BY_TEXT`."""
    values: NDArray[np.object_] = np.array([*listed, None], "O")
    assert BY_TEXT == -1  # noqa: S101 - the last value is that of -1
    found: NDArray[np.object_] = values[np.frombuffer(indexes, "<i4")]
    return found


def _match(old: _Columns, new: _Columns) -> tuple[_Indexes, _Indexes]:
    """Return the old row and the new row of each message that is in both."""
    count = len(old.ids)
    ids = np.concatenate([old.ids, new.ids])
    # Equal strings have equal hashes. Other timestamps of the same id have others, but
    # for one case in 2**64.
    hashes = map(hash, chain(old.timestamps, new.timestamps))
    times = np.fromiter(hashes, np.int64, len(ids))
    side = np.arange(len(ids)) >= count
    order = np.lexsort((side, times, ids))
    is_other = np.diff(ids[order]) != 0
    is_other |= np.diff(times[order]) != 0
    message = np.concatenate([[0], np.cumsum(is_other)])[: len(ids)]
    # Upstream may list a message twice; the second one is matched with the second one.
    copy = _count_within(message * 2 + side[order])
    key = np.empty(len(ids), np.int64)
    key[order] = message * (len(ids) + 1) + copy
    _, of_old, of_new = np.intersect1d(
        key[:count], key[count:], assume_unique=True, return_indices=True
    )
    return of_old, of_new


def _count_within(groups: _Indexes) -> _Indexes:
    """Return the place of each element among the adjacent ones of its group."""
    places = np.arange(len(groups))
    begins = np.concatenate([[True], np.diff(groups) != 0])[: len(groups)]
    return places - np.maximum.accumulate(np.where(begins, places, 0))


def _differing(
    old: _Columns, of_old: _Indexes, new: _Columns, of_new: _Indexes
) -> _Indexes:
    """Return the places of the matched messages that are not the same in both."""
    is_same: _Flags = old.hundredths[of_old] == new.hundredths[of_new]
    for one, other in ((old.names, new.names), (old.reports, new.reports)):
        is_same &= one[of_old] == other[of_new]
    is_same &= old.texts[of_old] == new.texts[of_new]
    return np.flatnonzero(~is_same)


def _others(count: int, matched: _Indexes) -> _Indexes:
    is_other = np.ones(count, np.bool_)
    is_other[matched] = False
    return np.flatnonzero(is_other)


def _change(kind: ChangeKind, before: int, columns: _Columns, row: np.int64) -> Change:
    """Return the change of a message that only one of both revisions has."""
    after = int(columns.hundredths[row]) - before
    message_id = int(columns.ids[row])
    return Change(kind, message_id, before, after, _priced_by(columns, row))


def _change_of(
    old: _Columns, old_row: np.int64, new: _Columns, row: np.int64
) -> Change:
    kind, reason = _kind_of(old, old_row, new, row)
    return Change(
        kind,
        int(new.ids[row]),
        int(old.hundredths[old_row]),
        int(new.hundredths[row]),
        reason,
    )


def _kind_of(
    old: _Columns, old_row: np.int64, new: _Columns, row: np.int64
) -> tuple[ChangeKind, str]:
    """Return what explains the change; reports are decisive where they price."""
    name_before, name = old.names[old_row], new.names[row]
    is_same_report = old.reports[old_row] == new.reports[row]
    moved = f"{_priced_by(old, old_row)} → {_priced_by(new, row)}"
    if is_same_report and name_before is None and name is not None:
        return ChangeKind.REPORT_FOUND, moved
    if is_same_report and name_before is not None and name is None:
        return ChangeKind.REPORT_MISSING, moved
    if name != name_before or not is_same_report:
        return ChangeKind.REPORT_CHANGED, moved
    if old.texts[old_row] != new.texts[row]:
        return ChangeKind.TEXT_CHANGED, "the text differs"
    if name is not None:
        return ChangeKind.REPORT_CHANGED, moved
    return ChangeKind.PLAN_CHANGED, f"{old.plans[old_row]} → {new.plans[row]}"


def _priced_by(columns: _Columns, row: np.int64) -> str:
    name = columns.names[row]
    return "text" if name is None else f"report {name}"
