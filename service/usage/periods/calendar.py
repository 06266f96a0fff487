"""Billing months: the calendar, and the schedule that kept periods have fixed."""

import calendar
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from service.instants import US_PER_S, now_us
from service.settings import Settings
from service.usage.snapshots.spans import Span

LAST_MONTH: Final = 12


class Calendar:
    """Months that begin on a day of the month, at midnight in a time zone."""

    def __init__(self, anchor_day: int = 1, zone: str = "UTC") -> None:
        self._anchor_day = anchor_day
        self._zone = ZoneInfo(zone)

    def month_of(self, instant: int) -> Span:
        """Return the month of an instant in microseconds."""
        moment = datetime.fromtimestamp(instant // US_PER_S, UTC)
        local = moment.astimezone(self._zone).date()
        begin = self._anchor(local.year, local.month)
        if self._midnight(begin) > instant:
            before = local.replace(day=1) - timedelta(days=1)
            begin = self._anchor(before.year, before.month)
        years, month = divmod(begin.month, LAST_MONTH)
        end = self._anchor(begin.year + years, month + 1)
        return Span(self._midnight(begin), self._midnight(end), begin.isoformat())

    def date_of(self, instant: int) -> str:
        """Return the local date of an instant: `2024-04-29`."""
        moment = datetime.fromtimestamp(instant // US_PER_S, UTC)
        return moment.astimezone(self._zone).date().isoformat()

    def _anchor(self, year: int, month: int) -> date:
        """Return the day on which a month begins; its last day if it is shorter."""
        days = calendar.monthrange(year, month)[1]
        return date(year, month, min(self._anchor_day, days))

    def _midnight(self, day: date) -> int:
        """Return the first instant of a day."""
        # A clock that is set back at midnight shows it twice. Then the first one is of
        # the day before, where the clock goes back to 23:00.
        midnights = (
            datetime(day.year, day.month, day.day, tzinfo=self._zone, fold=fold)
            for fold in (0, 1)
        )
        seconds = [int(each.timestamp()) for each in midnights]
        first = datetime.fromtimestamp(seconds[0], self._zone)
        return US_PER_S * (seconds[0] if first.date() >= day else seconds[1])


class Schedule:
    """The billing months of one process.

    Months of kept periods stay as they are, also when the settings change. The next one
    begins where they end. So no message belongs to two periods, or to none.
    """

    def __init__(self, settings: Settings, clock: Callable[[], int] = now_us) -> None:
        periods = settings.periods
        self._calendar = Calendar(periods.anchor_day, periods.zone)
        self._clock = clock
        self._kept: list[Span] = []

    def learn(self, kept: Iterable[Span]) -> None:
        """Replace the months of kept periods."""
        self._kept = sorted(kept)

    def current(self) -> Span:
        """Return the month of now."""
        return self.month_of(self._clock())

    def month_of(self, instant: int) -> Span:
        """Return the month of an instant in microseconds."""
        for each in self._kept:
            if each.begin <= instant < each.end:
                return each
        month = self._calendar.month_of(instant)
        begins = [each.end for each in self._kept if each.end <= instant]
        ends = [each.begin for each in self._kept if each.begin > instant]
        begin = max([month.begin, *begins])
        return Span(begin, min([month.end, *ends]), self._calendar.date_of(begin))
