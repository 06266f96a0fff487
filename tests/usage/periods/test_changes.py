"""Changes between two sets of chunks."""

import random
import zlib
from typing import Final

import msgspec
import numpy as np
import pytest

from service.usage.periods.changes import (
    PAGE_CHANGES,
    find_changes,
    find_packed_changes,
    is_message_shared,
    unpack_page,
)
from service.usage.periods.model import ChangeKind
from service.usage.pricing.plans import TEXT_RULES
from service.usage.snapshots.errors import ChunkDamaged
from service.usage.snapshots.kept import KeptColumns, StoredChunk, digest_of

Row = tuple[int, str, int]
APRIL: Final = "2024-04-29T00:00:00Z"


def chunk_of(rows: list[Row]) -> KeptColumns:
    """Return a chunk of messages priced by their texts: id, timestamp, hundredths."""
    ids, timestamps, hundredths = zip(*rows, strict=True) if rows else ((), (), ())
    none = np.full(len(rows), -1, "<i4").tobytes()
    return KeptColumns(
        plan=TEXT_RULES.id,
        ids=np.array(ids, "<i8").tobytes(),
        timestamps=list(timestamps),
        hundredths=np.array(hundredths, "<i8").tobytes(),
        steps=np.array([hundredths], "<i8").tobytes(),
        names=[],
        name_of=none,
        reports=[],
        report_of=none,
        texts=np.array(hundredths, "<u8").tobytes(),
    )


@pytest.mark.parametrize("seed", range(20))
def test_changes_turn_one_list_into_the_other(seed: int) -> None:
    """Duplicates are matched one by one, whatever their chunks and their order."""
    chosen = random.Random(seed)
    before, after = ([_row(chosen) for _ in range(60)] for _ in range(2))
    changes = find_changes(
        *([chunk_of(each[:20]), chunk_of(each[20:])] for each in (before, after))
    )
    counts = {key: _count(before, key) for key in {each[:2] for each in before + after}}
    added = [each.message_id for each in changes if each.kind is ChangeKind.ADDED]
    removed = [each.message_id for each in changes if each.kind is ChangeKind.REMOVED]
    for identity in range(5):
        grown = sum(
            _count(after, key) - counts[key] for key in counts if key[0] == identity
        )
        assert added.count(identity) - removed.count(identity) == grown
    assert sum(each.after - each.before for each in changes) == _sum(after) - _sum(
        before
    )
    assert len(added) == sum(max(0, _count(after, key) - counts[key]) for key in counts)


def _row(chosen: random.Random) -> Row:
    at = f"2024-04-{chosen.randrange(1, 4):02}"
    return chosen.randrange(5), at, chosen.randrange(3) * 100


def _count(rows: list[Row], key: tuple[int, str]) -> int:
    return sum(each[:2] == key for each in rows)


def _sum(rows: list[Row]) -> int:
    return sum(hundredths for _, _, hundredths in rows)


def test_packed_changes_are_those_of_the_chunks() -> None:
    """Pages are bounded, and in the same order."""
    count = PAGE_CHANGES + 10
    rows = [(each, APRIL, each) for each in range(count)]
    packed = find_packed_changes((), _contents(chunk_of(rows)))
    assert packed.changes == count
    pages = [unpack_page(each) for each in packed.pages]
    assert [len(each) for each in pages] == [PAGE_CHANGES, 10]
    assert [each for page in pages for each in page] == find_changes(
        (), [chunk_of(rows)]
    )


@pytest.mark.parametrize(
    "other, is_shared",
    [((1, APRIL, 5), True), ((1, "2024-04-29", 5), False), ((2, APRIL, 5), False)],
)
def test_a_message_is_shared_by_its_id_and_its_time(
    other: Row, *, is_shared: bool
) -> None:
    """Its price may differ."""
    chunks = _contents(chunk_of([(1, APRIL, 100)])), _contents(chunk_of([other]))
    assert is_message_shared(*chunks) is is_shared


def test_a_chunk_with_another_content_is_damaged() -> None:
    """The digest tells that it is not what was stored."""
    ((_, content),) = _contents(chunk_of([(1, APRIL, 100)]))
    with pytest.raises(ChunkDamaged):
        find_packed_changes((), [(b"other", content)])


def _contents(*chunks: KeptColumns) -> list[StoredChunk]:
    encoded = map(msgspec.msgpack.encode, chunks)
    return [(digest_of(each), zlib.compress(each)) for each in encoded]
