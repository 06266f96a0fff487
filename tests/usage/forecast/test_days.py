"""The days that a forecast needs: bounds of periods, gaps, and the day that is now."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from service.usage.forecast.days import Bounds, Days, end_of, estimate_days, local_time

APRIL = date(2024, 4, 1)
MAY = date(2024, 5, 1)


def days_from(first: date, count: int, used: float = 10.0) -> dict[date, float]:
    """Return days of equal usage."""
    return {first + timedelta(days=day): used for day in range(count)}


def expected(days: Days, earlier: list[Days], now: datetime) -> float | None:
    """Return what is expected from now to the end of April."""
    rest = estimate_days(days, earlier, Bounds(APRIL, MAY), now)
    return None if rest is None else rest.expected


def at(day: int, hour: int = 0) -> datetime:
    """Return a time in April."""
    return datetime(2024, 4, day, hour, tzinfo=UTC)


@pytest.mark.parametrize(
    "begin, length, end",
    [
        ("2024-04-29", "P1M", "2024-05-29"),
        ("2024-01-31", "P1M", "2024-02-29"),
        ("2023-12-15", "P3M", "2024-03-15"),
        ("2024-11-30", "P14M", "2026-01-30"),
        ("2024-02-26", "P4W", "2024-03-25"),
        ("2024-02-26", "P30D", "2024-03-27"),
    ],
)
def test_a_period_ends_after_its_length(begin: str, length: str, end: str) -> None:
    """Months end on the same day of the month, or on the last one."""
    assert end_of(date.fromisoformat(begin), length) == date.fromisoformat(end)


@pytest.mark.parametrize("length", ["P1M", "P4W", "P30D"])
def test_the_last_year_has_no_end(length: str) -> None:
    """A message may have any time, so the calendar may end before the period."""
    assert end_of(date(9999, 12, 15), length) is None


def test_without_a_length_no_end_is_known() -> None:
    """The setting is empty by default."""
    assert end_of(APRIL, "") is None


def test_days_of_earlier_periods_count() -> None:
    """On the first days of a period, only earlier ones tell what is usual."""
    days = days_from(APRIL, 2)
    assert expected(days, [], at(3)) is None
    march = days_from(date(2024, 3, 1), 31, used=20.0)
    found = expected(days, [march], at(3))
    assert found == pytest.approx(28 * 19, rel=0.1)


def test_days_without_usage_are_known_too() -> None:
    """A day that no message has counts as a day of 0 credits."""
    workdays = {
        day: used for day, used in days_from(APRIL, 21).items() if day.weekday() < 5
    }
    found = expected(workdays, [], at(22))
    # Seven workdays are left: 22 to 26, 29 and 30.
    assert found == pytest.approx(70, rel=0.1)


def test_a_long_idle_time_ends_what_is_known() -> None:
    """Days before it may be those of other users."""
    march = days_from(date(2024, 3, 1), 31)
    long_ago = days_from(date(2023, 11, 1), 30, used=1_000.0)
    days = days_from(APRIL, 10)
    assert expected(days, [march, long_ago], at(11)) == expected(days, [march], at(11))


def test_the_rest_of_today_counts_in_part() -> None:
    """At noon, half of a day is left of today."""
    days = days_from(APRIL, 28)
    midnight, noon = (expected(days, [], at(29, hour)) for hour in (0, 12))
    assert midnight is not None
    assert noon is not None
    assert noon / midnight == pytest.approx(1.5 / 2, rel=0.05)


@pytest.mark.parametrize(
    "now", [at(30, 23) + timedelta(hours=1), at(30) + timedelta(9)]
)
def test_after_its_end_a_period_has_no_rest(now: datetime) -> None:
    """Nothing more is expected."""
    assert expected(days_from(APRIL, 30), [], now) == 0


def test_days_outside_of_the_bounds_are_ignored() -> None:
    """A message with a wrong year changes nothing."""
    days = days_from(APRIL, 14)
    wrong = days | {date(1970, 1, 1): 1e6, date(2199, 1, 1): 1e6}
    assert expected(wrong, [], at(15)) == expected(days, [], at(15))
    assert expected(days, [{date(1970, 1, 1): 1e6}], at(15)) == expected(
        days, [], at(15)
    )


def test_a_period_that_begins_in_the_future_is_forecast_as_a_whole() -> None:
    """Clocks differ: now may be before the first message."""
    march = days_from(date(2024, 3, 1), 31)
    before = datetime(2024, 3, 31, 23, tzinfo=UTC)
    assert expected({}, [march], before) == expected({}, [march], at(1))


def test_the_day_is_that_of_the_zone() -> None:
    """At 23:00 UTC, the next day has begun in Berlin."""
    instant = int(at(10, 23).timestamp() * 1e6)
    assert local_time(instant, ZoneInfo("Europe/Berlin")).date() == date(2024, 4, 11)
