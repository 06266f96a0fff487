"""The times of the attempts."""

import pytest

from service.usage.budgets.retries import (
    JITTER,
    MAX_ATTEMPTS,
    MAX_WAIT_S,
    wait_after,
)

DAY_S = 86_400.0


def test_attempts_are_spread_over_three_days() -> None:
    """The first ones follow each other soon."""
    waits = [wait_after(attempt) for attempt in range(1, MAX_ATTEMPTS)]
    assert waits[0] <= 6.0
    assert sum(waits[:4]) <= 250.0
    assert 3 * DAY_S * (1 - JITTER) <= sum(waits) <= 4 * DAY_S
    assert max(waits) <= MAX_WAIT_S * (1 + JITTER)


def test_waits_differ_by_chance() -> None:
    """Firings that fail together are not attempted together again."""
    assert len({wait_after(3) for _ in range(50)}) > 1


@pytest.mark.parametrize(
    "asked_s, least_s, most_s",
    [(0.0, 4.0, 6.0), (600.0, 600.0, 600.0), (1e300, MAX_WAIT_S, MAX_WAIT_S)],
    ids=["none", "longer", "too long"],
)
def test_a_receiver_may_ask_for_a_longer_wait(
    asked_s: float, least_s: float, most_s: float
) -> None:
    """It is obeyed up to a bound."""
    assert least_s <= wait_after(1, asked_s) <= most_s


def test_many_attempts_overflow_nothing() -> None:
    """Retries by hand can make the number high."""
    assert wait_after(1_000_000) <= MAX_WAIT_S * (1 + JITTER)
