"""The retry budget: a share of the recent calls, a floor, and a window that moves."""

from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.settings import Upstream, load
from service.upstream.retries import SLICES, RetryBudget

WINDOW_S: Final = 10.0
SLICE_S: Final = WINDOW_S / SLICES


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def budgeted(rate: float, floor: int) -> Upstream:
    return msgspec.structs.replace(
        load().settings.upstream,
        retry_rate=rate,
        retry_floor=floor,
        retry_window_s=WINDOW_S,
    )


@pytest.mark.parametrize(
    "rate, floor, calls, retries",
    [
        (0.2, 0, 0, 0),
        (0.2, 0, 4, 0),
        (0.2, 0, 5, 1),
        (0.2, 0, 9, 1),
        (0.2, 0, 100, 20),
        (0.2, 10, 0, 10),
        (0.2, 10, 50, 10),
        (0.2, 10, 55, 11),
        (0.2, 10, 1000, 200),
        (0.0, 0, 1000, 0),
        (0.0, 3, 1000, 3),
        (1.0, 0, 7, 7),
    ],
)
def test_so_many_retries_are_allowed(
    rate: float, floor: int, calls: int, retries: int
) -> None:
    """The larger of the share and the floor is what calls may be retried."""
    budget = RetryBudget(budgeted(rate, floor), Clock())
    for _ in range(calls):
        budget.record_call()

    taken = [budget.take_retry() for _ in range(calls + floor + 1)]

    assert taken == sorted(taken, reverse=True)
    assert sum(taken) == retries


def test_calls_and_retries_are_forgotten() -> None:
    """What is older than the window neither gives retries nor takes them."""
    clock = Clock()
    budget = RetryBudget(budgeted(0.5, 1), clock)
    for _ in range(4):
        budget.record_call()
    assert [budget.take_retry() for _ in range(3)] == [True, True, False]

    clock.now_s += WINDOW_S - SLICE_S
    assert not budget.take_retry()

    clock.now_s += SLICE_S
    assert [budget.take_retry() for _ in range(2)] == [True, False]


def test_memory_does_not_grow_with_calls() -> None:
    """However long it runs, only the counts of one window are kept."""
    clock = Clock()
    budget = RetryBudget(budgeted(0.2, 10), clock)
    for _ in range(10_000):
        budget.record_call()
        clock.now_s += SLICE_S / 3

    assert len(budget._slices) <= SLICES


@given(
    rate=st.sampled_from([0.0, 0.2, 0.5]),
    floor=st.integers(0, 3),
    steps=st.lists(st.sampled_from(["call", "retry", "tenth", "window"]), max_size=80),
)
def test_it_allows_what_a_list_of_all_would(
    rate: float, floor: int, steps: list[str]
) -> None:
    """Counting everything anew at each retry gives the same answers."""
    clock = Clock()
    budget = RetryBudget(budgeted(rate, floor), clock)
    calls: list[int] = []
    retries: list[int] = []
    now = 0  # in tenths of a window
    for step in steps:
        if step == "call":
            budget.record_call()
            calls.append(now)
        elif step == "retry":
            recent = [
                sum(at > now - SLICES for at in each) for each in (calls, retries)
            ]
            allowed = recent[1] + 1 <= max(floor, rate * recent[0])
            assert budget.take_retry() is allowed
            retries += [now] * allowed
        else:
            now += 1 if step == "tenth" else SLICES
            clock.now_s = 1000.0 + now * SLICE_S
