"""Changes between two revisions of a period, found in the chunks that differ.

A message is the same in both if its id and its timestamp are. The credits after all
changes minus those before them are the difference of the two totals.
"""

import zlib
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from service.usage.periods.model import Change, ChangeKind
from service.usage.snapshots.columns import BY_TEXT
from service.usage.snapshots.kept import COMPRESSION, KeptColumns

PAGE_CHANGES: Final = 4_096

_Flags = NDArray[np.bool_]
_Indexes = NDArray[np.int64]


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


def find_changes(
    before: Sequence[KeptColumns], after: Sequence[KeptColumns]
) -> list[Change]:
    """Return the changes of messages, in the order after; removed messages come last.

    `before` and `after` are the chunks that only one of both revisions has.
    """
    old, new = _join(before), _join(after)
    of_old, of_new = _match(old, new)
    found = [
        (int(row), _change_of(old, int(old_row), new, int(row)))
        for old_row, row in _differing(old, of_old, new, of_new)
    ]
    found += [
        (row, _change(ChangeKind.ADDED, 0, new, row))
        for row in _others(len(new.ids), of_new)
    ]
    found.sort(key=itemgetter(0))
    removed = [
        _change(ChangeKind.REMOVED, int(old.hundredths[row]), old, row)
        for row in _others(len(old.ids), of_old)
    ]
    return [each for _, each in found] + removed


def shares_message(before: Sequence[KeptColumns], after: Sequence[KeptColumns]) -> bool:
    """Return whether a message, by its id and timestamp, is in both."""
    of_old, _ = _match(_join(before), _join(after))
    return bool(len(of_old))


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
    """Return the changes of a page."""
    page = _decoder.decode(zlib.decompress(content))
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
    keys: dict[tuple[int, str, int], int] = {}
    old_keys = _keys(old, keys)
    new_keys = _keys(new, keys)
    _, of_old, of_new = np.intersect1d(old_keys, new_keys, return_indices=True)
    return of_old, of_new


def _keys(columns: _Columns, known: dict[tuple[int, str, int], int]) -> _Indexes:
    """Return a number for each message: equal ones for equal ids and timestamps."""
    # Upstream may list a message twice; the second one has another number.
    counts: dict[tuple[int, str], int] = {}
    numbers = []
    for message in zip(columns.ids.tolist(), columns.timestamps, strict=True):
        count = counts[message] = counts.get(message, 0) + 1
        numbers.append(known.setdefault((*message, count), len(known)))
    return np.array(numbers, np.int64)


def _differing(
    old: _Columns, of_old: _Indexes, new: _Columns, of_new: _Indexes
) -> Iterator[tuple[np.int64, np.int64]]:
    """Yield the old and the new row of each message that is not the same in both."""
    is_same: _Flags = old.hundredths[of_old] == new.hundredths[of_new]
    for one, other in ((old.names, new.names), (old.reports, new.reports)):
        is_same &= one[of_old] == other[of_new]
    is_same &= old.texts[of_old] == new.texts[of_new]
    different = np.flatnonzero(~is_same)
    yield from zip(of_old[different], of_new[different], strict=True)


def _others(count: int, matched: _Indexes) -> list[int]:
    is_other = np.ones(count, np.bool_)
    is_other[matched] = False
    rows: list[int] = np.flatnonzero(is_other).tolist()
    return rows


def _change(kind: ChangeKind, before: int, columns: _Columns, row: int) -> Change:
    """Return the change of a message that only one of both revisions has."""
    after = int(columns.hundredths[row]) - before
    message_id = int(columns.ids[row])
    return Change(kind, message_id, before, after, _priced_by(columns, row))


def _change_of(old: _Columns, old_row: int, new: _Columns, row: int) -> Change:
    kind, reason = _kind_of(old, old_row, new, row)
    return Change(
        kind,
        int(new.ids[row]),
        int(old.hundredths[old_row]),
        int(new.hundredths[row]),
        reason,
    )


def _kind_of(
    old: _Columns, old_row: int, new: _Columns, row: int
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


def _priced_by(columns: _Columns, row: int) -> str:
    name = columns.names[row]
    return "text" if name is None else f"report {name}"
