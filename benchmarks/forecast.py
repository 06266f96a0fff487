"""Forecasts against what generated periods have used, at each tenth of a period."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final, NamedTuple

import numpy as np

from benchmarks.forecast_periods import Generated, offices, others
from benchmarks.report import Result, maximum
from service.usage.forecast.estimate import estimate_rest

PERIODS: Final = 2_000
SEED: Final = 19
TENTHS: Final = range(1, 10)
HALF: Final = 5
MAX_ERROR: Final = 0.12
COVERED: Final = 0.77, 0.83
COVERED_OTHERS: Final = 0.70, 0.90


class Trial(NamedTuple):
    """One forecast in a generated period; errors are parts of the period's total."""

    tenth: int
    error: float
    linear_error: float
    """That of the credits so far, divided by the part of the period that is over."""
    is_covered: bool


class Backtest(NamedTuple):
    """All forecasts in some periods, and how often it was too early for one."""

    trials: list[Trial]
    too_early: int

    def error(self, tenth: int) -> float:
        """Return the median error at a tenth of the period."""
        return median(each.error for each in self.trials if each.tenth == tenth)

    def ratio(self, tenth: int) -> float:
        """Return the median error at a tenth, divided by that of a straight line."""
        linear = (each.linear_error for each in self.trials if each.tenth == tenth)
        return self.error(tenth) / median(linear)

    def covered(self, tenths: Iterable[int] = TENTHS) -> float:
        """Return the part of the totals that are inside of the band."""
        inside = [each.is_covered for each in self.trials if each.tenth in tenths]
        return sum(inside) / len(inside)


def backtest(periods: Iterable[Generated]) -> Backtest:
    """Forecast each period at each tenth."""
    tried = [_try(each, tenth) for each in periods for tenth in TENTHS]
    trials = [each for each in tried if each is not None]
    return Backtest(trials, len(tried) - len(trials))


def _try(period: Generated, tenth: int) -> Trial | None:
    days = round(period.days * tenth / 10)
    known = period.credits_of[: period.begin + days]
    rest = estimate_rest(known, period.first_weekday, np.ones(period.days - days))
    if rest is None:
        return None
    used, total = float(known[period.begin :].sum()), period.total
    return Trial(
        tenth,
        abs(used + rest.expected - total) / total,
        abs(used * period.days / days - total) / total,
        used + rest.low <= total <= used + rest.high,
    )


def run() -> list[Result]:
    """Errors and covered totals, for the offices of the model and for other ones."""
    mine, strange = backtest(offices(PERIODS, SEED)), backtest(others(PERIODS, SEED))
    return [
        *_figures("offices", mine, COVERED),
        *_figures("other patterns", strange, COVERED_OTHERS),
    ]


def _figures(name: str, tested: Backtest, bounds: Sequence[float]) -> list[Result]:
    low, high = bounds
    covered = tested.covered()
    by_tenth = ", ".join(f"{tested.covered([each]):.2f}" for each in TENTHS)
    errors = ", ".join(f"{tested.error(each):.3f}" for each in TENTHS)
    ratios = [tested.ratio(each) for each in TENTHS]
    shares = ", ".join(f"{each:.2f}" for each in ratios)
    too_early = f"too early for {tested.too_early} of {PERIODS * len(TENTHS)}"
    return [
        maximum(
            f"{name}: median error at half-time", tested.error(HALF), MAX_ERROR, errors
        ),
        Result(
            f"{name}: totals inside of the 80 % band",
            f"{covered:.3f}",
            f"{low:g} to {high:g}",
            low <= covered <= high,
            by_tenth,
        ),
        maximum(
            f"{name}: worst tenth, against a straight line",
            max(ratios),
            1,
            f"{shares}; {too_early}",
        ),
    ]
