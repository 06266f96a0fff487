"""Estimates of the rest of a period, in cases that are known and in generated ones."""

from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.forecast import (
    COVERED_OTHERS,
    HALF,
    MAX_ERROR,
    TENTHS,
    Backtest,
    backtest,
)
from benchmarks.forecast_periods import offices, others
from service.usage.forecast.estimate import MIN_DAYS, Floats, Rest, estimate_rest

PERIODS: Final = 120
SEED: Final = 7
MONDAY: Final = 0
WEEK: Final = [10.0, 12, 11, 13, 9, 0, 0]
CREDITS: Final = arrays(
    np.float64,
    st.integers(MIN_DAYS, 40),
    elements=st.just(0.0) | st.floats(0.01, 1e9),
)


def rest_of(credits_of: list[float], left: int) -> Rest:
    """Estimate the credits of whole days, after days that begin on a Monday."""
    rest = estimate_rest(np.array(credits_of), MONDAY, np.ones(left))
    assert rest is not None
    return rest


@pytest.fixture(scope="module")
def of_offices() -> Backtest:
    """Return the forecasts of the first periods of the benchmark's generator."""
    return backtest(offices(PERIODS, SEED))


@pytest.fixture(scope="module")
def of_others() -> Backtest:
    """Return the forecasts of periods whose patterns the model does not know."""
    return backtest(others(PERIODS, SEED))


def test_offices_are_forecast_well(of_offices: Backtest) -> None:
    """At half-time the median error is at most an eighth, and the band holds."""
    assert of_offices.error(HALF) <= MAX_ERROR
    assert 0.74 <= of_offices.covered() <= 0.86


def test_other_patterns_are_forecast_too(of_others: Backtest) -> None:
    """The model does not only fit the generator of offices."""
    low, high = COVERED_OTHERS
    assert of_others.error(HALF) <= MAX_ERROR
    assert low <= of_others.covered() <= high


def test_a_straight_line_is_worse(of_offices: Backtest, of_others: Backtest) -> None:
    """In each tenth of a period, except for unknown patterns at its end."""
    assert all(of_offices.ratio(tenth) < 1 for tenth in TENTHS)
    assert all(of_others.ratio(tenth) < 1 for tenth in TENTHS if tenth <= HALF)


def test_weekdays_repeat() -> None:
    """After three equal weeks, the next one is expected to be about as they were."""
    rest = rest_of(WEEK * 3, 7)
    # A part is expected to be a holiday.
    assert 0.93 * sum(WEEK) < rest.expected < sum(WEEK)
    weekend = rest_of([*WEEK * 3, *WEEK[:5]], 2)
    assert weekend.expected < 1


def test_growth_continues() -> None:
    """Weeks that grow by a tenth of a percent a day are followed by a larger one."""
    growing = [10 * 1.003**day for day in range(84)]
    assert rest_of(growing, 28).expected > sum(growing[-28:])


def test_a_holiday_does_not_lower_what_is_expected() -> None:
    """One day without usage changes the expected sum by a few percent only."""
    usual = WEEK * 4
    with_holiday = [*usual[:8], 0.0, *usual[9:]]
    before, after = rest_of(usual, 14).expected, rest_of(with_holiday, 14).expected
    assert after == pytest.approx(before, rel=0.06)


def test_days_without_usage_are_no_holidays_if_they_are_usual() -> None:
    """The days left are as empty as those that are known."""
    rest = rest_of([0, 30.0, 0, 0, 0, 30.0, 0] * 4, 28)
    assert rest.expected == pytest.approx(8 * 30, rel=0.15)


def test_one_large_day_is_not_taken_for_the_usual() -> None:
    """A day of a hundred times the usual credits does not make the others holidays."""
    credits_of = [*[1.0] * 13, 100.0]
    rest = rest_of(credits_of, 14)
    assert 14 < rest.expected < 1.5 * sum(credits_of)


def test_a_part_of_a_day_counts_in_part() -> None:
    """Half of a day that is left has half of its credits."""
    known = np.array(WEEK * 3)
    half = estimate_rest(known, MONDAY, np.array([0.5]))
    assert half is not None
    assert half.expected == pytest.approx(rest_of(WEEK * 3, 1).expected / 2)


def test_the_band_narrows() -> None:
    """The more days are known, the narrower the band is, relative to the sum."""
    source = np.random.default_rng(SEED)
    credits_of = list(source.gamma(8, 1, 84))
    widths = [
        (rest.high - rest.low) / rest.expected
        for rest in (rest_of(credits_of[:known], 14) for known in (7, 21, 84))
    ]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize(
    "credits_of", [[5.0] * (MIN_DAYS - 1), [0.0] * 30], ids=["six days", "no usage"]
)
def test_too_little_is_known(credits_of: list[float]) -> None:
    """Without each weekday, or without any usage, there is no estimate."""
    assert estimate_rest(np.array(credits_of), MONDAY, np.ones(14)) is None


def test_nothing_is_left() -> None:
    """At the end of a period, its credits are certain."""
    assert estimate_rest(np.array(WEEK), MONDAY, np.zeros(0)) == (0, 0, 0)


@given(CREDITS, st.integers(0, 6), st.integers(1, 40))
def test_estimates_are_ordered_and_finite(
    credits_of: Floats, weekday: int, left: int
) -> None:
    """Whatever the days are, the band is around the expected sum, and not below 0."""
    rest = estimate_rest(credits_of, weekday, np.ones(left))
    if rest is not None:
        assert np.isfinite(rest).all()
        assert 0 <= rest.low <= rest.expected <= rest.high


@given(CREDITS, st.floats(0.001, 1000))
def test_the_unit_does_not_matter(credits_of: Floats, factor: float) -> None:
    """Twice the credits on each day lead to twice the estimate."""
    once = estimate_rest(credits_of, MONDAY, np.ones(14))
    scaled = estimate_rest(credits_of * factor, MONDAY, np.ones(14))
    if once is not None and scaled is not None:
        assert np.allclose(scaled, np.array(once) * factor, rtol=1e-4)
