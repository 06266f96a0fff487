"""Sums by quarter of an hour, of which the usage of days in any time zone is made.

A refresh changes few messages. So it takes over the sums of the previous snapshot, and
the first query on days after a refresh reads thousands of sums instead of all messages.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.instants import US_PER_S
from service.usage.pricing.plans import Hundredths
from service.usage.pricing.timestamps import Instants

QUARTER_S: Final = 900

QUARTER_US: Final = QUARTER_S * US_PER_S


class QuarterSums(NamedTuple):
    """Columns of shape `(n_quarters,)`, int64."""

    quarters: NDArray[np.int64]
    """Quarters of an hour since 1970-01-01T00:00:00Z with messages, in their order."""
    messages: NDArray[np.int64]
    hundredths: Hundredths

    def replace(self, gone: "QuarterSums", new: "QuarterSums") -> "QuarterSums":
        """Return the sums without messages that are gone, and with new ones."""
        return _add_up(
            np.concatenate([self.quarters, gone.quarters, new.quarters]),
            np.concatenate([self.messages, -gone.messages, new.messages]),
            np.concatenate([self.hundredths, -gone.hundredths, new.hundredths]),
        )


def sum_up(instants: Instants, hundredths: Hundredths) -> QuarterSums:
    """Return the sums of messages with these instants and prices."""
    return _add_up(instants // QUARTER_US, np.ones(len(instants), np.int64), hundredths)


def add_at(
    places: NDArray[np.int64], values: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Return the sum of the values at each place below `count`: `(count,)` int64."""
    sums = np.zeros(count, np.int64)
    np.add.at(sums, places, values)
    return sums


def unique(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sorted unique values, and the place of each value among them."""
    if not len(values):
        return values, values
    first, span = values.min(), int(values.max()) - int(values.min()) + 1
    if span > len(values):
        found, places = np.unique(values, return_inverse=True)
        return found, places
    # A table of the span takes a fraction of the time of sorting.
    is_used = np.zeros(span, np.bool_)
    is_used[values - first] = True
    place_of = np.cumsum(is_used) - 1
    return np.flatnonzero(is_used) + first, place_of[values - first]


def _add_up(
    quarters: NDArray[np.int64],
    messages: NDArray[np.int64],
    hundredths: Hundredths,
) -> QuarterSums:
    """Return the sums of equal quarters, without those that have no message."""
    found, place_of = unique(quarters)
    counts = add_at(place_of, messages, len(found))
    amounts = add_at(place_of, hundredths, len(found))
    used = np.flatnonzero(counts)
    return QuarterSums(found[used], counts[used], amounts[used])
