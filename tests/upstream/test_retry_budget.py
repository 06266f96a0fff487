"""The retry budget: a share of the recent calls, a floor, and a window that moves."""

from typing import Final

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from service.settings import UpstreamSettings, load
from service.upstream.retries import SLICES, RetryBudget
from tests.clock import Clock

WINDOW_S: Final = 10.0
SLICE_S: Final = WINDOW_S / SLICES


def budgeted(rate: float, floor: int) -> UpstreamSettings:
    return msgspec.structs.replace(
        load().settings.upstream,
        retry_rate=rate,
        retry_floor=floor,
        retry_window_s=WINDOW_S,
    )


@given(
    rate=st.sampled_from([0.0, 0.2, 0.5]),
    floor=st.integers(0, 3),
    steps=st.lists(st.sampled_from(["call", "retry", "tenth", "window"]), max_size=80),
)
def test_counts_equal_those_of_a_full_list(
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
