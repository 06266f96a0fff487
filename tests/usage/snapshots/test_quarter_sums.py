"""Sums by quarter of an hour, which a refresh changes instead of adding up again."""

from typing import Any, Final

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.usage.snapshots.quarter_sums import QUARTER_US, QuarterSums, sum_up
from tests.reference import message, priced_of

DECADES_US: Final = 10**15

rows = st.lists(
    st.tuples(
        st.one_of(
            st.integers(-4 * QUARTER_US, 4 * QUARTER_US),
            st.integers(-DECADES_US, DECADES_US),
        ),
        st.integers(0, 2**40),
    ),
    max_size=8,
)


def sums_of(some: list[tuple[int, int]]) -> QuarterSums:
    columns = np.array(some, np.int64).reshape(-1, 2)
    return sum_up(columns[:, 0], columns[:, 1])


def stamped(number: int, timestamp: str) -> dict[str, Any]:
    return message(number, timestamp=timestamp)


def as_lists(sums: QuarterSums) -> list[list[int]]:
    return [column.tolist() for column in sums]


@given(rows)
def test_sums_are_those_of_each_quarter(some: list[tuple[int, int]]) -> None:
    """Each quarter with messages is listed once, with their number and prices."""
    quarters = sorted({at // QUARTER_US for at, _ in some})
    prices = [[used for at, used in some if at // QUARTER_US == q] for q in quarters]
    expected = [quarters, [len(each) for each in prices], [sum(p) for p in prices]]
    assert as_lists(sums_of(some)) == expected


@given(kept=rows, gone=rows, new=rows)
def test_replaced_sums_are_those_of_the_present_messages(
    kept: list[tuple[int, int]],
    gone: list[tuple[int, int]],
    new: list[tuple[int, int]],
) -> None:
    """Sums with other messages are equal to sums of all present messages."""
    replaced = sums_of(kept + gone).replace(sums_of(gone), sums_of(new))
    assert as_lists(replaced) == as_lists(sums_of(kept + new))


def test_refresh_takes_over_the_sums_of_unchanged_messages() -> None:
    """After a refresh with a new message, no query has to add up all of them."""
    sent = [stamped(number, f"2024-04-29T0{number}:00:00Z") for number in range(4)]
    before = priced_of(sent)
    grown = priced_of([*sent, stamped(9, "2024-05-01T00:00:00Z")], before=before)
    assert "quarter_sums" in vars(grown)
    assert grown.quarter_sums.messages.tolist() == [1] * 5
