"""Estimate of the credits of the rest of a period, from the credits of each day so far.

Pure computation on arrays. The expected credits of a day are a level, times growth,
times a factor of its weekday. Priors decide while few days are known.
`docs/decisions/forecast.md` explains the model and its constants.
"""

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_Flags = NDArray[np.bool_]
_Weekdays = NDArray[np.int64]

WEEK: Final = 7
MIN_DAYS: Final = WEEK
"""Fewer days cannot show each weekday once."""
CONFIDENCE: Final = 0.8

_MONTH: Final = 30.4375
_HALF_LIFE_DAYS: Final = 40.0
"""A day of this age counts half as much as yesterday."""
_LEVEL_SD: Final = 10.0
_GROWTH_SD: Final = 0.06
"""Of the logarithm, in a month."""
_WORKDAY_SD: Final = 0.25
_WEEKEND_MEAN: Final = -1.0
_WEEKEND_SD: Final = 1.0
_DRIFT_SD: Final = 0.014
"""Of the logarithm of the level, in a day that nobody knows yet."""
_NOISE: Final = 0.25
"""Prior of the relative variance of a day: half of its expected credits."""
_NOISE_DAYS: Final = 6.0
"""Days that weigh as much as this prior."""
_NORMAL_QUANTILE: Final = 1.2816
_MORE_NOISE: Final = 1.14
"""Days deviate together, such as those of one week, which the regression ignores."""
_FEW_DAYS: Final = 1.5

_BUSY: Final = 0.35
"""Weekdays with this part of the busiest one are workdays."""
_HOLIDAY: Final = 0.15
"""A workday with less than this part of its expected credits was a holiday."""
_MAX_HOLIDAYS: Final = 0.25
"""If more workdays seem to be holidays, days without usage are usual."""
_HOLIDAYS_BEFORE: Final = 0.9
_WORKDAYS_BEFORE: Final = 30.0
"""Prior of the rate of holidays: this many of this many workdays."""
_HOLIDAY_CLUSTERS: Final = 1.5
"""Holidays come in groups, which increases the variance of their number."""
_HOLIDAY_HALF_LIFE_DAYS: Final = 160.0

_FITS: Final = 3
_STEPS: Final = 8
_MAX_STEP: Final = 1.0
_TINY: Final = 1e-12


class Rest(NamedTuple):
    """Credits of the rest of a period: expected, and the ends of an 80 % band."""

    expected: float
    low: float
    high: float


class _Prior(NamedTuple):
    """Means and precisions of level, growth and the seven weekdays: `(9,)` each."""

    means: Floats
    precisions: Floats


class _Fit(NamedTuple):
    """A fitted regression on the logarithm of a day's credits."""

    coefficients: Floats
    covariance: Floats
    noise: float
    """Variance of a day, per credit that is expected."""

    @property
    def of_weekday(self) -> Floats:
        """Expected credits of each weekday now, Monday first: `(7,)`."""
        factors: Floats = np.exp(self.coefficients[0] + self.coefficients[2:])
        return factors

    @property
    def is_workday(self) -> _Flags:
        """Weekdays on which most is used, Monday first: `(7,)`."""
        factors = self.of_weekday
        is_busy: _Flags = factors > _BUSY * factors.max()
        return is_busy


def estimate_rest(
    credits_of: Floats, first_weekday: int, days_left: Floats
) -> Rest | None:
    """Return the credits of the days left, or None if too few days are known.

    `credits_of` has the credits of each complete day, the oldest first: `(n_days,)`,
    without gaps. `first_weekday` is that of the first one, Monday is 0. `days_left` has
    the part that is left of each day after them: `(n_left,)`, 0 to 1.
    """
    known = len(credits_of)
    if known < MIN_DAYS or not credits_of.sum():
        return None
    weekdays = (first_weekday + np.arange(known + len(days_left))) % WEEK
    before, after = weekdays[:known], weekdays[known:]
    ages = np.arange(known, 0, -1, dtype=np.float64)
    fit, is_holiday = _fit_without_holidays(credits_of, before, ages)
    rate = _holiday_rate(fit, before, is_holiday, ages)
    return _sum_up(fit, after, days_left, rate, known)


def _fit_without_holidays(
    credits_of: Floats, weekdays: _Weekdays, ages: Floats
) -> tuple[_Fit, _Flags]:
    """Return the fit on all days but holidays, and which days are holidays."""
    usual = np.array([np.median(credits_of[weekdays == each]) for each in range(WEEK)])
    is_workday = usual > _BUSY * usual.max()
    expected = usual[weekdays]
    for _ in range(_FITS):
        is_holiday = is_workday[weekdays] & (credits_of < _HOLIDAY * expected)
        if is_holiday.sum() > _MAX_HOLIDAYS * is_workday[weekdays].sum():
            is_holiday = np.zeros(len(credits_of), np.bool_)
        weights = 0.5 ** (ages / _HALF_LIFE_DAYS) * ~is_holiday
        design = _design(weekdays, -ages)
        fit = _fit(design, credits_of, weights)
        expected, is_workday = np.exp(design @ fit.coefficients), fit.is_workday
    return fit, is_holiday


def _fit(design: Floats, credits_of: Floats, weights: Floats) -> _Fit:
    """Fit a quasi-Poisson regression with priors, by Newton's method.

    The variance of a day is proportional to its expected credits, so that weekends
    without usage count little, and the fitted sum is the observed one.
    """
    mean = max(float(weights @ credits_of / weights.sum()), _TINY)
    prior = _prior(np.log(mean))
    coefficients, noise = prior.means, _NOISE * mean
    for _ in range(_STEPS):
        expected = np.exp(design @ coefficients)
        curvature = design.T @ ((weights * expected / noise)[:, None] * design)
        precision = curvature + np.diag(prior.precisions)
        slope = design.T @ (weights * (credits_of - expected) / noise)
        slope -= prior.precisions * (coefficients - prior.means)
        step = np.linalg.solve(precision, slope)
        coefficients = coefficients + np.clip(step, -_MAX_STEP, _MAX_STEP)
        expected = np.exp(design @ coefficients)
        squares = (credits_of - expected) ** 2 / (expected + _TINY * mean)
        noise = (_NOISE_DAYS * _NOISE * mean + weights @ squares) / (
            _NOISE_DAYS + weights.sum()
        )
    covariance = np.asarray(np.linalg.inv(precision), np.float64)
    return _Fit(coefficients, covariance, float(noise))


def _prior(level: float) -> _Prior:
    workdays, weekend = WEEK - 2, 2
    means = [level, 0.0, *[0.0] * workdays, *[_WEEKEND_MEAN] * weekend]
    deviations = [
        _LEVEL_SD,
        _GROWTH_SD,
        *[_WORKDAY_SD] * workdays,
        *[_WEEKEND_SD] * weekend,
    ]
    return _Prior(np.array(means), np.array(deviations) ** -2.0)


def _design(weekdays: _Weekdays, days: Floats) -> Floats:
    """Return a row for each day, `(n_days, 9)`: level, growth, weekday."""
    columns = np.ones(len(days)), days / _MONTH, np.eye(WEEK)[weekdays]
    return np.column_stack(columns)


def _holiday_rate(
    fit: _Fit, weekdays: _Weekdays, is_holiday: _Flags, ages: Floats
) -> float:
    """Return the part of workdays that are holidays."""
    weights = 0.5 ** (ages / _HOLIDAY_HALF_LIFE_DAYS)
    workdays = weights @ fit.is_workday[weekdays]
    holidays = weights @ is_holiday
    return float((_HOLIDAYS_BEFORE + holidays) / (_WORKDAYS_BEFORE + workdays))


def _sum_up(
    fit: _Fit, weekdays: _Weekdays, days_left: Floats, rate: float, known: int
) -> Rest:
    """Return the sum of the days left, with the variance of all that is uncertain."""
    count = len(days_left)
    design = _design(weekdays, np.arange(count, dtype=np.float64))
    full = np.exp(design @ fit.coefficients) * days_left
    rates = np.where(fit.is_workday[weekdays], rate, 0.0)
    expected = full * (1 - rates)
    total = float(expected.sum())
    if not total:
        return Rest(0.0, 0.0, 0.0)
    gradient = design.T @ expected
    later = expected[::-1].cumsum()[::-1]
    variance = (
        gradient @ fit.covariance @ gradient
        + fit.noise * total
        + _HOLIDAY_CLUSTERS * (rates * (1 - rates) * full**2).sum()
        # A random walk: the change of each day stays in all later ones.
        + _DRIFT_SD**2 * (later**2).sum()
    )
    # Sums of positive amounts are skewed, as a log-normal distribution is.
    spread = math.sqrt(math.log1p(float(variance) / total**2))
    factor = _NORMAL_QUANTILE * _MORE_NOISE * (1 + _FEW_DAYS / known) * spread
    return Rest(total, total * math.exp(-factor), total * math.exp(factor))
