"""Thresholds that a figure has reached, compared with exact fractions."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from service.usage.budgets.model import Budget, Kind
from service.usage.budgets.thresholds import Threshold, find_reached

PERCENTS = st.sets(st.integers(1, 1_000), max_size=20)


def budget(hundredths: int, percents: set[int]) -> Budget:
    """Return a budget with these thresholds of used credits."""
    return Budget(
        id="a",
        name="office",
        hundredths=hundredths,
        thresholds=tuple(percents),
        forecast_thresholds=(),
        webhook_url=None,
        webhook_host=None,
        disabled_at=None,
        created_at=0,
        checked_at=0,
    )


@given(st.integers(1, 10**14), st.integers(-(10**14), 10**17), PERCENTS, PERCENTS)
def test_each_reached_threshold_is_found_once(
    credits_: int, used: int, percents: set[int], before: set[int]
) -> None:
    """To the hundredth of a credit, in ascending order, without those that fired."""
    fired = {Threshold("a", Kind.USED, each) for each in before}
    found = find_reached([budget(credits_, percents)], Kind.USED, used, fired)
    share = Fraction(100 * used, credits_)
    expected = sorted(each for each in percents - before if share >= each)
    assert [each.threshold.percent for each in found] == expected


def test_thresholds_of_the_forecast_are_others() -> None:
    """The same percentage of used credits has fired alone."""
    found = find_reached([budget(100, {50})], Kind.FORECAST, 100, set())
    assert list(found) == []
