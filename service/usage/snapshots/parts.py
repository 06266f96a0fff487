"""A sequence in parts, which the columns of successive snapshots share."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class Parts(Sequence[T]):
    """An immutable sequence in lists, which must not change either.

    To take parts over copies no element. A copy would touch each of a million objects
    to count its references, and so would its end.
    """

    __slots__ = ("_begins", "lists")

    def __init__(self, lists: Sequence[list[T]]) -> None:
        self.lists = [each for each in lists if each]
        self._begins = [0, *accumulate(map(len, self.lists))]

    def __len__(self) -> int:
        return self._begins[-1]

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(self.lists)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        """Return an element, or those of a slice as a list."""
        if isinstance(index, slice):
            return self._cut(*index.indices(len(self)))
        at = range(len(self))[index]
        part = bisect_right(self._begins, at) - 1
        return self.lists[part][at - self._begins[part]]

    def take(self, indexes: NDArray[np.intp]) -> list[T]:
        """Return the elements at these indexes, which must not be negative."""
        lists, begins = self.lists, np.array(self._begins)
        part_of = np.searchsorted(begins, indexes, "right") - 1
        places = (indexes - begins[part_of]).tolist()
        pairs = zip(part_of.tolist(), places, strict=True)
        return [lists[part][place] for part, place in pairs]

    def count_shared(self, other: "Parts[T]") -> int:
        """Return how many of the first elements are in parts that both have."""
        pairs = zip(self.lists, other.lists, strict=False)
        shared = next(
            (at for at, (mine, others) in enumerate(pairs) if mine is not others),
            min(len(self.lists), len(other.lists)),
        )
        return self._begins[shared]

    def lists_until(self, count: int) -> list[list[T]]:
        """Return the lists of the first elements; `count` must be the end of a list."""
        return self.lists[: self._begins.index(count)]

    def _cut(self, start: int, stop: int, step: int) -> list[T]:
        if step != 1 or start >= stop:
            return [self[at] for at in range(start, stop, step)]
        first = bisect_right(self._begins, start) - 1
        last = bisect_right(self._begins, stop - 1) - 1
        begin = self._begins[first]
        cut = list(chain.from_iterable(self.lists[first : last + 1]))
        return cut[start - begin : stop - begin]
