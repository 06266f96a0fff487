"""Generated billing periods, with a fixed seed, on which forecasts are tried out.

`offices` has what the model knows: weekdays, holidays and growth. `others` has patterns
that it does not know, to see whether it only fits the first.
"""

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAX_EARLIER: Final = 6
MONTH: Final = 30.4375
FIRST_DAY: Final = date(2023, 1, 1)


class Generated(NamedTuple):
    """The credits of each day of a last period, and of earlier ones before it."""

    credits_of: Floats
    """`(n_days,)`"""
    first_weekday: int
    begin: int
    """The index of the first day of the last period."""

    @property
    def days(self) -> int:
        """The days of the last period."""
        return len(self.credits_of) - self.begin

    @property
    def total(self) -> float:
        """The credits of the last period."""
        return float(self.credits_of[self.begin :].sum())


def offices(periods: int, seed: int) -> Iterator[Generated]:
    """Yield periods of offices: each has its own pattern, growth and noise."""
    return _generate(periods, seed, _office)


def others(periods: int, seed: int) -> Iterator[Generated]:
    """Yield periods with patterns that the model has no term for."""
    return _generate(periods, seed, _other)


def _generate(
    periods: int, seed: int, use: Callable[[Generator, list[date]], Floats]
) -> Iterator[Generated]:
    source = np.random.default_rng(seed)
    while periods:
        begins = _begins(source)
        credits_of = use(source, begins).round(2)
        begin = (begins[-2] - begins[0]).days
        generated = Generated(credits_of, begins[0].weekday(), begin)
        if generated.total:
            periods -= 1
            yield generated


def _begins(source: Generator) -> list[date]:
    """Return the first days of up to seven months, and of the one after them."""
    day = FIRST_DAY + timedelta(days=int(source.integers(365)))
    begins = [day.replace(day=int(source.integers(1, 29)))]
    for _ in range(int(source.integers(MAX_EARLIER + 1)) + 1):
        later = begins[-1].replace(day=1) + timedelta(days=32)
        begins.append(later.replace(day=begins[0].day))
    return begins


def _days(begins: list[date]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of each day, and its weekday."""
    days = np.arange((begins[-1] - begins[0]).days)
    return days, (begins[0].weekday() + days) % 7


def _office(source: Generator, begins: list[date]) -> Floats:
    days, weekdays = _days(begins)
    count = len(days)
    pattern = np.exp(source.normal(0, 0.2, 7))
    pattern[5:] = _weekend(source)
    growth = np.exp(source.normal(0.02, 0.06) * days / MONTH)
    variance = np.log1p(source.uniform(0.2, 0.7) ** 2)
    noise = np.exp(source.normal(-variance / 2, np.sqrt(variance), count))
    of_week = np.exp(source.normal(0, 0.1, count // 7 + 1))[days // 7]
    level = np.exp(source.normal(5, 1.2))
    credits_of: Floats = level * pattern[weekdays] * growth * noise * of_week
    is_holiday = source.random(count) < 0.03
    if source.random() < 0.04 * len(begins):
        first = int(source.integers(count))
        is_holiday[first : first + int(source.integers(3, 8))] = True
    credits_of[is_holiday] *= source.uniform(0, 0.06, is_holiday.sum())
    return credits_of


def _weekend(source: Generator) -> Floats:
    """Return the factors of Saturday and Sunday: closed, quiet or busy."""
    kind = source.random()
    if kind < 0.3:
        return np.zeros(2)
    return source.uniform(0.02, 0.4, 2) if kind < 0.85 else source.uniform(0.7, 1.3, 2)


def _other(source: Generator, begins: list[date]) -> Floats:
    days, weekdays = _days(begins)
    count = len(days)
    patterns = _step, _heavy_tail, _few_messages, _rush, _two_weeks
    pattern = patterns[int(source.integers(len(patterns)))]
    week = np.where(weekdays < 5, 1.0, source.uniform(0, 0.6))
    walk = np.exp(source.normal(0, 0.02, count).cumsum())
    level = np.exp(source.normal(4.5, 1))
    credits_of: Floats = level * week * pattern(source, begins, walk)
    credits_of[source.random(count) < 0.02] = 0
    return credits_of


def _step(source: Generator, _begins: list[date], walk: Floats) -> Floats:
    """Return a level that changes once, for ever."""
    level = np.ones(len(walk))
    level[int(source.integers(len(walk))) :] = np.exp(source.normal(0, 0.5))
    return level * source.gamma(8, 1 / 8, len(walk))


def _heavy_tail(source: Generator, _begins: list[date], walk: Floats) -> Floats:
    """Return days of which single ones have ten times the usual credits."""
    return walk * (source.pareto(3, len(walk)) + 0.3)


def _few_messages(source: Generator, _begins: list[date], walk: Floats) -> Floats:
    """Return days of no, one or few messages, of very different costs."""
    messages = source.poisson(source.uniform(1, 6), len(walk))
    costs: Floats = np.array([source.gamma(2, 1 / 8, each).sum() for each in messages])
    return costs


def _rush(source: Generator, begins: list[date], walk: Floats) -> Floats:
    """Return a rush at the end of each month."""
    parts = [
        np.arange((after - before).days) / (after - before).days
        for before, after in pairwise(begins)
    ]
    rush = source.uniform(0.2, 1) * (np.concatenate(parts) > 0.85)
    return walk * (1 + rush) * source.gamma(10, 0.1, len(walk))


def _two_weeks(source: Generator, _begins: list[date], walk: Floats) -> Floats:
    """Return a rhythm of two weeks, as that of sprints."""
    phases = 2 * np.pi * np.arange(len(walk)) / 14 + source.uniform(0, 6)
    rhythm = 1 + source.uniform(0, 0.5) * np.sin(phases)
    return walk * rhythm * source.gamma(10, 0.1, len(walk))
