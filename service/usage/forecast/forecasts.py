"""Forecasts of the current period, from its days and those of earlier kept periods.

Nothing is stored. A forecast takes some milliseconds in a thread, after sums by day
that are cached.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from typing import Final

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
from service.usage.periods.model import KeptPeriod
from service.usage.periods.reader import KeptSnapshots, UsageView
from service.usage.periods.tables import CLOSED
from service.usage.snapshots.answers import DailyUsage
from service.usage.view import SnapshotView

EARLIER: Final = 13
"""Kept periods that are read: those of the last year, if they are months."""
MAX_CACHED: Final = 2 * EARLIER
MINUTE_US: Final = 60 * US_PER_S
"""Forecasts of one snapshot differ from one minute to the next only a little."""
ZONE: Final = UTC

_decoder: Final = msgspec.json.Decoder(DailyUsage)


class Forecasts:
    """Forecasts periods; without kept ones, from the days of the current one alone."""

    def __init__(self, settings: PeriodsSettings, kept: KeptSnapshots | None) -> None:
        self._length = settings.length
        self._kept = kept
        self._earlier = LruCache[tuple[int, int], Days](MAX_CACHED)

    async def body(self, view: SnapshotView) -> bytes:
        """Return the encoded forecast of a current snapshot, computed once a minute.

        Raises `StorageError`, and the errors of queries on snapshots.
        """
        as_of = now_us() - view.freshness.age_s * US_PER_S
        as_of -= as_of % MINUTE_US

        async def encode() -> bytes:
            return msgspec.json.encode(await self._forecast(view, as_of))

        # The lane of the view's slot is entered by its sums, where they are not cached.
        return await view.snapshot.derived.body(("forecast", as_of), encode)

    async def of_period(self, period: KeptPeriod, as_of: int) -> Forecast | NoForecast:
        """Return the forecast of the open period, as it is kept.

        `as_of` is the time until which its usage is known, in microseconds. Raises
        `StorageError`, `PeriodError`, and the errors of queries on snapshots.
        """
        if self._kept is None:
            return NoForecast("no_end_known")
        view = await self._kept.view(period.period, None)
        return await self._forecast(view, as_of)

    async def _forecast(self, view: UsageView, as_of: int) -> Forecast | NoForecast:
        if not view.summary.messages:
            return NoForecast("too_early")
        days = await _days_of(view)
        bounds = self._bounds(days)
        if bounds is None:
            return NoForecast("no_end_known")
        listed = await self._kept.store.newest(None, EARLIER) if self._kept else []
        earlier = await self._earlier_days(listed, view.plan.id)
        now = local_time(as_of, ZONE)
        rest = await asyncio.to_thread(estimate_days, days, earlier, bounds, now)
        if rest is None:
            return NoForecast("too_early")
        used = view.summary.credits_total
        return Forecast(
            period=_name_of(view, listed),
            as_of=format_instant(as_of),
            credits_used=used,
            expected=round(used + rest.expected, 2),
            low=round(used + rest.low, 2),
            high=round(used + rest.high, 2),
            confidence=CONFIDENCE,
            ends=format_instant(_instant_of(bounds.end)),
        )

    def _bounds(self, days: Days) -> Bounds | None:
        """Return the bounds of a period; None if its end is unknown."""
        begin = min(days)
        end = end_of(begin, self._length)
        # A period that has messages after its end is longer than the setting says.
        if end is None or max(days) >= end:
            return None
        return Bounds(begin, end)

    async def _earlier_days(
        self, listed: Sequence[KeptPeriod], plan: str
    ) -> list[Days]:
        """Return the days of closed periods that the same plan has priced."""
        return [
            await self._days_of_closed(each)
            for each in listed
            if each.status == CLOSED and each.plan == plan
        ]

    async def _days_of_closed(self, period: KeptPeriod) -> Days:
        key = period.number, period.revision
        days = self._earlier.get(key)
        if days is None:
            assert self._kept is not None  # noqa: S101 - it has listed the period
            view = await self._kept.view(period.period, None)
            days = await _days_of(view)
            self._earlier.put(key, days)
        return days


async def _days_of(view: UsageView) -> Days:
    """Return the credits of each day with usage."""
    usage = _decoder.decode(await view.daily(None))
    return {date.fromisoformat(day.date): day.credits_used for day in usage.days}


def _name_of(view: UsageView, listed: Sequence[KeptPeriod]) -> str:
    """Return the id of a period; the date of its first message until it is kept."""
    begins_on = str(view.summary.begins_on)
    for each in listed:
        if each.status != CLOSED and each.period.startswith(begins_on):
            return each.period
    return begins_on


def _instant_of(day: date) -> int:
    """Return the begin of a day, in microseconds."""
    begin = datetime.combine(day, time(), ZONE)
    return int(begin.timestamp()) * US_PER_S
