"""The days of a period and of those before it, as the estimate needs them. No I/O."""

from calendar import monthrange
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta, tzinfo
from typing import Final, NamedTuple

import numpy as np

from service.instants import US_PER_S
from service.settings import PERIOD_LENGTH
from service.usage.forecast.estimate import Rest, estimate_rest

MAX_DAYS: Final = 400
"""Days before a period that can tell something about it."""
MAX_IDLE_DAYS: Final = 14
"""Earlier days without any usage, after which the days before them tell nothing."""
MONTHS: Final = 12

Days = Mapping[date, float]
"""The credits of each day; those without usage may be missing."""


class Bounds(NamedTuple):
    """The first day of a period, and the day after its last one."""

    begin: date
    end: date


def end_of(begin: date, length: str) -> date | None:
    """Return the day after the last one of a period; `length` is such as `P1M`.

    None without a length, and after the last year that has dates. A month that is too
    short ends a period on its last day.
    """
    parts = PERIOD_LENGTH.fullmatch(length)
    if parts is None:
        return None
    count, unit = int(parts["count"]), parts["unit"]
    years, month = divmod(begin.month - 1 + count, MONTHS)
    year, month = begin.year + years, month + 1
    try:
        if unit == "M":
            return date(year, month, min(begin.day, monthrange(year, month)[1]))
        return begin + timedelta(days=count if unit == "D" else 7 * count)
    except (ValueError, OverflowError):
        return None


def estimate_days(
    days: Days, earlier: Sequence[Days], bounds: Bounds, now: datetime
) -> Rest | None:
    """Return the credits from `now` to the end; None if it is too early for that.

    `earlier` has the days of periods before this one. `now` has the time zone in which
    the days are days. Raises nothing: days outside of the bounds are ignored.
    """
    today = max(now.date(), bounds.begin)
    if today >= bounds.end:
        return Rest(0.0, 0.0, 0.0)
    credits_of = {
        day: used
        for each in earlier
        for day, used in each.items()
        if day < bounds.begin
    }
    credits_of |= {day: used for day, used in days.items() if day >= bounds.begin}
    first = _first_day(credits_of, bounds.begin)
    known = [
        credits_of.get(first + timedelta(days=day), 0.0)
        for day in range((today - first).days)
    ]
    left = np.ones((bounds.end - today).days)
    if now.date() == today:
        left[0] = 1 - _passed(now)
    return estimate_rest(np.array(known), first.weekday(), left)


def _first_day(credits_of: Days, begin: date) -> date:
    """Return the first day before the period after which no long time was idle."""
    first = begin
    for day in sorted((each for each in credits_of if each < begin), reverse=True):
        is_idle = (first - day).days > MAX_IDLE_DAYS
        if is_idle or (begin - day).days > MAX_DAYS:
            break
        first = day
    return first


def _passed(now: datetime) -> float:
    """Return the part of the day that has passed."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return (now - midnight) / timedelta(days=1)


def local_time(instant: int, zone: tzinfo) -> datetime:
    """Return an instant in microseconds as a time in a zone."""
    return datetime.fromtimestamp(instant / US_PER_S, zone)
