"""Sums over a ledger: by day of any time zone, and by report."""

from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from service.instants import US_PER_S
from service.parameters import InvalidParameter
from service.usage.ledger import BY_TEXT, Ledger, to_credits
from service.usage.model import (
    DailyUsage,
    DayUsage,
    ReportUsage,
    TextUsage,
    UsageByReport,
)
from service.usage.timestamps import Instants

S_PER_DAY: Final = 86_400
S_PER_QUARTER: Final = 900
"""Nearly all clocks change at a whole quarter of an hour of UTC."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_S: Final = -62_135_510_400  # 0001-01-02: room for any offset
_LAST_S: Final = 253_402_214_400  # 9999-12-31


def daily_usage(ledger: Ledger, zone: ZoneInfo | None = None) -> DailyUsage:
    """Messages and credits of each day in a zone (UTC for None), without gaps."""
    if not len(ledger):
        return DailyUsage([])
    days = _local_days(ledger.messages.instants, zone)
    first = int(days.min())
    messages = np.bincount(days - first)
    hundredths = np.zeros(len(messages), np.int64)
    np.add.at(hundredths, days - first, ledger.hundredths)
    dates = np.datetime64(first, "D") + np.arange(len(messages))
    rows = zip(np.datetime_as_string(dates), messages, hundredths, strict=True)
    return DailyUsage(
        [DayUsage(str(day), int(n), to_credits(int(used))) for day, n, used in rows]
    )


def usage_by_report(ledger: Ledger) -> UsageByReport:
    """Messages and credits of each report name, the dearest first, and of texts."""
    places = len(ledger.names)
    place_of = np.where(ledger.name_of == BY_TEXT, places, ledger.name_of)
    messages = np.bincount(place_of, minlength=places + 1).tolist()
    hundredths = np.zeros(places + 1, np.int64)
    np.add.at(hundredths, place_of, ledger.hundredths)
    used = [to_credits(amount) for amount in hundredths.tolist()]
    reports = [
        ReportUsage(name, messages[place], used[place])
        for place, name in enumerate(ledger.names)
    ]
    reports.sort(key=lambda report: (-report.credits_used, report.report_name))
    return UsageByReport(reports, TextUsage(messages[places], used[places]))


def parse_zone(name: str | None) -> ZoneInfo | None:
    """The IANA time zone of this name; `InvalidParameter` where there is none."""
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        wanted = "expected an IANA time zone such as Europe/London"
        raise InvalidParameter("tz", wanted) from None


def _local_days(instants: Instants, zone: ZoneInfo | None) -> NDArray[np.int64]:
    """Days since 1970-01-01 on the zone's calendar."""
    seconds = instants // US_PER_S
    if zone is not None:
        seconds = seconds + _offsets_s(zone, seconds)
    return seconds // S_PER_DAY


def _offsets_s(zone: ZoneInfo, seconds: NDArray[np.int64]) -> NDArray[np.int64]:
    """What to add to seconds of UTC, looked up once for each quarter of an hour.

    A quarter in which the clock changes, as Newfoundland's did at a minute past
    midnight, has its seconds looked up one by one.
    """
    quarters, quarter_of = np.unique(seconds // S_PER_QUARTER, return_inverse=True)
    begins = quarters * S_PER_QUARTER
    at_begin = _look_up(zone, begins)
    is_changing = at_begin != _look_up(zone, begins + S_PER_QUARTER - 1)
    offsets = at_begin[quarter_of]
    changing = np.flatnonzero(is_changing[quarter_of])
    offsets[changing] = _look_up(zone, seconds[changing])
    return offsets


def _look_up(zone: ZoneInfo, seconds: NDArray[np.int64]) -> NDArray[np.int64]:
    within = np.clip(seconds, _FIRST_S, _LAST_S).tolist()
    return np.fromiter((_offset_s(zone, at) for at in within), np.int64, len(within))


def _offset_s(zone: ZoneInfo, second: int) -> int:
    offset = (_EPOCH + timedelta(seconds=second)).astimezone(zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())
