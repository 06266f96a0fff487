"""Search for ids that several units have, in bounded memory.

Each unit has stored its ids in order. The ids are compared range by range, so that a
worker has only those of one range in memory. Ids that increase from unit to unit, as
those of most exports do, need no comparison.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.usage.bulk.model import (
    FENCE_IDS,
    IdSlice,
    RangeRecord,
    RangeTask,
    UnitRecord,
)
from service.usage.bulk.units import IDS, REPEATED, Job
from service.usage.bulk.workspace import Workspace
from service.usage.pricing.text import Flags

IDS_AT_ONCE: Final = 4 * 1024 * 1024
"""Ids of a range, about: 32 MiB."""
ID_BYTES: Final = 8

REPEATS: Final = "repeated"
"""Suffix of the file of a unit's repeated ids."""
NO_PIECE: Final = -1
"""The piece of an id that an earlier unit has: no row of the unit is kept."""

Ids = NDArray[np.int64]


def plan_ranges(records: Sequence[UnitRecord]) -> list[RangeTask]:
    """Return the ranges of ids that several units may have."""
    tasks: list[RangeTask] = []
    for group in _overlapping(records):
        for low, high in _ranges(group):
            slices = tuple(filter(None, (_find(each, low, high) for each in group)))
            if len(slices) > 1:
                tasks.append(RangeTask(len(tasks), low, high, slices))
    return tasks


def compare_ids(job: Job, task: RangeTask) -> RangeRecord:
    """Compare the ids of a range."""
    own = {each.unit: _load(job.workspace, each, task) for each in task.slices}
    joined = np.sort(np.concatenate(list(own.values())))
    common = np.unique(joined[1:][joined[1:] == joined[:-1]])
    found: dict[int, bytes] = {}
    seen = np.zeros(len(common), np.bool_)
    for unit in sorted(own):
        has = np.isin(common, own[unit], assume_unique=True)
        if (has & seen).any():
            found[unit] = common[has & seen].tobytes()
        seen |= has
    return RangeRecord(task.number, found)


def store_repeated(
    job: Job, records: Sequence[UnitRecord], ranges: Sequence[RangeRecord]
) -> frozenset[int]:
    """Store the ids that units have several times, or that an earlier unit has.

    Returns the units that have some. Workers read them: tasks stay small.
    """
    earlier: dict[int, list[bytes]] = {}
    for unit, ids in ((u, ids) for each in ranges for u, ids in each.ids.items()):
        earlier.setdefault(unit, []).append(ids)
    stored = set()
    for each in records:
        own = np.frombuffer(each.repeated, REPEATED)
        found = np.frombuffer(b"".join(earlier.get(each.number, ())), np.int64)
        if len(own) or len(found):
            path = job.workspace.of_unit(each.number, REPEATS)
            with job.workspace.writing(path) as sink:
                sink.write(_join(own, found).tobytes())
            stored.add(each.number)
    return frozenset(stored)


def _join(own: NDArray[np.void], earlier: Ids) -> NDArray[np.void]:
    """Return the repeated ids of a unit in order; no row of earlier ones is kept."""
    added = np.zeros(len(earlier), REPEATED)
    added["id"], added["piece"] = earlier, NO_PIECE
    joined = np.concatenate([own[np.isin(own["id"], earlier, invert=True)], added])
    return joined[np.argsort(joined["id"])]


class RepeatedIds:
    """The repeated ids of a unit; not empty."""

    def __init__(self, space: Workspace, unit: int) -> None:
        with space.system.open_input_stream(space.of_unit(unit, REPEATS)) as source:
            stored = np.frombuffer(source.read(), REPEATED)
        names = ("id", "piece", "row")
        self._columns = tuple(np.ascontiguousarray(stored[name]) for name in names)

    def find_kept(self, ids: Ids, pieces: NDArray[np.int32], rows: Ids) -> Flags:
        """Return which messages have no repeated id, or are the first with theirs."""
        own, own_pieces, own_rows = self._columns
        at = np.minimum(np.searchsorted(own, ids), len(own) - 1)
        is_first = (own_pieces[at] == pieces) & (own_rows[at] == rows)
        kept: Flags = (own[at] != ids) | is_first
        return kept


def _overlapping(records: Sequence[UnitRecord]) -> Iterator[list[UnitRecord]]:
    """Yield groups of units whose ids may be the same."""
    group: list[UnitRecord] = []
    last = 0
    for each in sorted((r for r in records if r.ids), key=lambda r: r.first_id):
        if group and each.first_id > last:
            if len(group) > 1:
                yield sorted(group, key=lambda r: r.number)
            group = []
        last = max(last, each.last_id) if group else each.last_id
        group.append(each)
    if len(group) > 1:
        yield sorted(group, key=lambda r: r.number)


def _ranges(group: Sequence[UnitRecord]) -> Iterator[tuple[int, int]]:
    """Yield ranges that have about the same number of ids, however these lie."""
    fences = sorted(fence for each in group for fence in each.fences)
    begins = sorted(set(fences[:: IDS_AT_ONCE // FENCE_IDS]))
    last = max(each.last_id for each in group)
    yield from zip(begins, [*(each - 1 for each in begins[1:]), last], strict=True)


def _find(record: UnitRecord, low: int, high: int) -> IdSlice | None:
    """Return the part of a unit's ids that has those of a range, and few others."""
    begin = max(int(np.searchsorted(record.fences, low, "right")) - 1, 0) * FENCE_IDS
    end = int(np.searchsorted(record.fences, high, "right")) * FENCE_IDS
    end = min(end, record.ids)
    return IdSlice(record.number, begin, end) if begin < end else None


def _load(space: Workspace, part: IdSlice, task: RangeTask) -> Ids:
    path = space.of_unit(part.unit, IDS)
    with space.system.open_input_file(path) as source:
        size = (part.end - part.begin) * ID_BYTES
        ids = np.frombuffer(source.read_at(size, part.begin * ID_BYTES), np.int64)
    return ids[(ids >= task.low) & (ids <= task.high)]
