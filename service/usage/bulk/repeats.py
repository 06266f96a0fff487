"""Search for ids that several units have, in bounded memory.

Each unit has stored its ids in order. The ids are compared range by range, so that only
those of one range are in memory.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.usage.bulk.model import Repeated, UnitRecord
from service.usage.bulk.units import IDS
from service.usage.bulk.workspace import Workspace

IDS_AT_ONCE: Final = 4 * 1024 * 1024

Ids = NDArray[np.int64]
RepeatedIds = dict[int, tuple[Repeated, ...]]
"""The repeated ids of units, by the number of the unit."""


def find_repeated(space: Workspace, records: Sequence[UnitRecord]) -> RepeatedIds:
    """Return the ids that units have several times, or that an earlier unit has."""
    repeated = {each.number: {r.id: r for r in each.repeated} for each in records}
    for unit, ids in _find_common(space, records):
        own = repeated.setdefault(unit, {})
        own.update((each, Repeated(each, None)) for each in ids.tolist())
    return {unit: tuple(own.values()) for unit, own in repeated.items() if own}


def _find_common(
    space: Workspace, records: Sequence[UnitRecord]
) -> Iterator[tuple[int, Ids]]:
    """Yield units with those of their ids that an earlier unit has too."""
    for group in _overlapping(records):
        stored = {each.number: _Ids(space, each) for each in group}
        for low, high in _ranges(group):
            slices = {unit: ids.between(low, high) for unit, ids in stored.items()}
            yield from _compare(slices)


def _overlapping(records: Sequence[UnitRecord]) -> Iterator[list[UnitRecord]]:
    """Yield groups of units whose ids may be the same; ids in order make no group."""
    group: list[UnitRecord] = []
    last = 0
    for each in sorted((r for r in records if r.ids), key=lambda r: r.first_id):
        if group and each.first_id > last:
            if len(group) > 1:
                yield group
            group = []
        last = max(last, each.last_id) if group else each.last_id
        group.append(each)
    if len(group) > 1:
        yield group


def _ranges(group: Sequence[UnitRecord]) -> Iterator[tuple[int, int]]:
    """Yield ranges of ids that have about the same number of ids."""
    count = sum(each.ids for each in group)
    low = min(each.first_id for each in group)
    high = max(each.last_id for each in group)
    parts = -(-count // IDS_AT_ONCE)
    step = -(-(high - low + 1) // parts)
    for begin in range(low, high + 1, step):
        yield begin, min(begin + step - 1, high)


class _Ids:
    """The ids of a unit, in order, in a file."""

    def __init__(self, space: Workspace, record: UnitRecord) -> None:
        with space.reading(space.of_unit(record.number, IDS)) as source:
            self._ids = np.frombuffer(source.read_buffer(), np.int64)

    def between(self, low: int, high: int) -> Ids:
        """Return the ids from `low` to `high`, both included."""
        begin = np.searchsorted(self._ids, low, "left")
        end = np.searchsorted(self._ids, high, "right")
        return self._ids[begin:end]


def _compare(slices: dict[int, Ids]) -> Iterator[tuple[int, Ids]]:
    """Yield units with those of these ids that an earlier unit has too."""
    joined = np.sort(np.concatenate(list(slices.values())))
    common = np.unique(joined[1:][joined[1:] == joined[:-1]])
    if not len(common):
        return
    seen = np.zeros(len(common), np.bool_)
    found: dict[int, Ids] = defaultdict()
    for unit in sorted(slices):
        has = np.isin(common, slices[unit], assume_unique=True)
        if (has & seen).any():
            found[unit] = common[has & seen]
        seen |= has
    yield from found.items()
