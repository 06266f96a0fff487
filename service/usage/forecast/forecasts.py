"""Forecasts of the current period, from its days and those of earlier kept periods.

Nothing is stored. A forecast takes some milliseconds in a thread, after sums by day
that are cached.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime, time, tzinfo
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from service.instants import US_PER_S, format_instant, now_us
from service.settings import PeriodsSettings
from service.storage.lru_cache import LruCache
from service.usage.forecast.days import (
    Bounds,
    Days,
    end_of,
    estimate_days,
    local_time,
)
from service.usage.forecast.estimate import CONFIDENCE
from service.usage.forecast.model import Forecast, NoForecast
from service.usage.periods.errors import PeriodError
from service.usage.periods.model import KeptPeriod
from service.usage.periods.reading.reader import KeptSnapshots, UsageView
from service.usage.periods.tables import CLOSED
from service.usage.snapshots.answers import DailyUsage
from service.usage.snapshots.errors import ChunkDamaged
from service.usage.view import SnapshotView

EARLIER: Final = 13
"""Kept periods that are read: those of the last year, if they are months."""
MAX_CACHED: Final = 2 * EARLIER
MINUTE_US: Final = 60 * US_PER_S
"""Forecasts of one snapshot differ from one minute to the next only a little."""
UTC: Final = "UTC"

_decoder: Final = msgspec.json.Decoder(DailyUsage)


class Current(NamedTuple):
    """The id of the current period, and its bounds where it is a calendar month."""

    name: str
    bounds: Bounds | None


class Forecasts:
    """Forecasts periods; without kept ones, from the days of the current one alone."""

    def __init__(self, settings: PeriodsSettings, kept: KeptSnapshots | None) -> None:
        self._length = settings.length
        self._zone_name = None if settings.zone == UTC else settings.zone
        self._zone = ZoneInfo(settings.zone)
        self._kept = kept
        self._earlier = LruCache[tuple[int, int], Days](MAX_CACHED)

    async def body(self, view: SnapshotView) -> bytes:
        """Return the encoded forecast of a current snapshot, computed once a minute.

        Raises `StorageError`, and the errors of queries on snapshots.
        """
        as_of = now_us() - view.freshness.age_s * US_PER_S
        as_of -= as_of % MINUTE_US
        # Before the shared part: the lane cancels it when this client disconnects.
        days = await self._days_of(view)

        async def encode() -> bytes:
            span, begins_on = view.snapshot.span, view.summary.begins_on
            current = (
                Current(str(begins_on), None)
                if span is None
                else Current(span.begins_on, self._between(span.begin, span.end))
            )
            forecast = await self._forecast(view, days, current, as_of)
            return msgspec.json.encode(forecast)

        return await view.snapshot.derived.body(("forecast", as_of), encode)

    async def of_period(self, period: KeptPeriod, as_of: int) -> Forecast | NoForecast:
        """Return the forecast of the open period, as it is kept.

        `as_of` is the time until which its usage is known, in microseconds. Raises
        `StorageError`, `PeriodError`, and the errors of queries on snapshots.
        """
        if self._kept is None:
            return NoForecast("no_end_known")
        view = await self._kept.view(period.period, None)
        bounds = (
            None
            if period.starts_at is None or period.ends_at is None
            else self._between(period.starts_at, period.ends_at)
        )
        days = await self._days_of(view)
        return await self._forecast(view, days, Current(period.period, bounds), as_of)

    async def _forecast(
        self, view: UsageView, days: Days, current: Current, as_of: int
    ) -> Forecast | NoForecast:
        if not view.summary.messages and current.bounds is None:
            return NoForecast("too_early")
        now = local_time(as_of, self._zone)
        bounds = current.bounds or self._from_length(days, now.date())
        if bounds is None:
            return NoForecast("no_end_known")
        listed = await self._kept.store.newest(None, EARLIER) if self._kept else []
        begin = _instant_of(bounds.begin, self._zone)
        earlier = [
            each
            for each in listed
            if each.last_at < begin and each.plan == view.plan.id
        ]
        known = [await self._days_of_kept(each) for each in earlier]
        rest = await asyncio.to_thread(estimate_days, days, known, bounds, now)
        if rest is None:
            return NoForecast("too_early")
        used = view.summary.credits_total
        return Forecast(
            period=_name_of(current, listed),
            as_of=format_instant(as_of),
            credits_used=used,
            expected=round(used + rest.expected, 2),
            low=round(used + rest.low, 2),
            high=round(used + rest.high, 2),
            confidence=CONFIDENCE,
            ends=format_instant(_instant_of(bounds.end, self._zone)),
        )

    def _between(self, begin: int, end: int) -> Bounds:
        """Return the days of a calendar month, from its instants."""
        begins, ends = (local_time(each, self._zone) for each in (begin, end))
        return Bounds(begins.date(), ends.date())

    def _from_length(self, days: Days, today: date) -> Bounds | None:
        """Return the bounds of a period; None if its end is unknown."""
        begin = min(days)
        end = end_of(begin, self._length)
        # A period that has messages after its end is longer than the setting says. Days
        # in the future are those of clocks that are wrong.
        if end is None or any(end <= day <= today for day in days):
            return None
        return Bounds(begin, end)

    async def _days_of_kept(self, period: KeptPeriod) -> Days:
        """Return the days of an earlier period, which are cached.

        A period that was removed meanwhile, or is damaged, has none: it must not hide
        what the others tell.
        """
        key = period.number, period.revision
        days = self._earlier.get(key)
        if days is None:
            assert self._kept is not None  # noqa: S101 - it has listed the period
            try:
                view = await self._kept.view(period.period, None)
                days = await self._days_of(view)
            except (PeriodError, ChunkDamaged):
                return {}
            self._earlier.put(key, days)
        return days

    async def _days_of(self, view: UsageView) -> Days:
        """Return the credits of each day from the first to the last message."""
        usage = _decoder.decode(await view.daily(self._zone_name))
        days: defaultdict[date, float] = defaultdict(float)
        for day in usage.days:
            days[_date_of(day.date)] += day.credits_used
        return days


def _date_of(day: str) -> date:
    """Return a day as a date: the nearest one for a day that is beyond all dates."""
    # A zone moves `0001-01-01T00:00:00Z`, which is the time of many programs without
    # one, to the year 0, and the end of the year 9999 to the year 10000.
    if len(day) > len("9999-12-31"):
        return date.max
    return date.min if day.startswith("0000") else date.fromisoformat(day)


def _name_of(current: Current, listed: Sequence[KeptPeriod]) -> str:
    """Return the id of a period; the date on which it begins until it is kept."""
    for each in listed:
        if each.status != CLOSED and each.period.startswith(current.name):
            return each.period
    return current.name


def _instant_of(day: date, zone: tzinfo) -> int:
    """Return the begin of a day, in microseconds."""
    begin = datetime.combine(day, time(), zone)
    return int(begin.timestamp()) * US_PER_S
