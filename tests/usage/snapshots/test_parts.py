"""Sequences in parts equal the lists that they are made of."""

from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.usage.snapshots.parts import Parts

LISTS = st.lists(st.lists(st.integers(), max_size=4), max_size=6)
BOUNDS = st.none() | st.integers(-30, 30)


@given(LISTS, BOUNDS, BOUNDS, st.sampled_from([None, 1, 2, -1]))
def test_parts_are_read_like_one_list(
    lists: list[list[int]], start: int | None, stop: int | None, step: int | None
) -> None:
    """Length, order, elements, slices and equality are those of one list."""
    parts, whole = Parts(lists), list(chain.from_iterable(lists))
    assert (len(parts), list(parts), parts == whole) == (len(whole), whole, True)
    assert [parts[at] for at in range(-len(whole), len(whole))] == 2 * whole
    assert parts[start:stop:step] == whole[start:stop:step]


@given(LISTS, st.data())
def test_elements_are_taken_by_their_indexes(
    lists: list[list[int]], data: st.DataObject
) -> None:
    """Indexes may repeat, and come in any order."""
    whole = list(chain.from_iterable(lists))
    places = st.integers(0, len(whole) - 1)
    rows = data.draw(st.lists(places)) if whole else []
    taken = Parts(lists).take(np.array(rows, np.intp))
    assert taken == [whole[row] for row in rows]


@given(LISTS, LISTS)
def test_shared_lists_are_counted_by_their_elements(
    first: list[list[int]], others: list[list[int]]
) -> None:
    """Lists are shared if they are the same object, until the first that is not."""
    before = Parts(first)
    for until in range(len(before.lists) + 1):
        count = sum(map(len, before.lists[:until]))
        taken = before.lists_until(count)
        copies = [list(each) for each in others]
        assert Parts([*taken, *copies]).count_shared(before) == count
