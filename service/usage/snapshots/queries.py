"""Queries on priced messages: the price of a message, usage by day and by report."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from service.instants import US_PER_S
from service.usage.snapshots.answers import (
    DailyUsage,
    DayUsage,
    Explanation,
    ReportUsage,
    TextUsage,
    UsageByReport,
)
from service.usage.snapshots.columns import PricedMessages, to_credits
from service.usage.snapshots.errors import MessageNotFound
from service.usage.snapshots.quarter_sums import QUARTER_S, add_at, unique

S_PER_DAY: Final = 86_400
SPANS_S: Final = (S_PER_DAY, QUARTER_S)
"""Spans at whose ends a zone's offset is looked up, before that of each second.

No zone has ever changed its offset twice in a day, and nearly all of them change it at
a whole quarter of an hour of UTC.
"""
MAX_OFFSETS: Final = 8_192
"""Cached offsets of zones. A period of four months takes some 500 of each zone, and the
next snapshot the same."""
MAX_FILLED_DAYS: Final = 3_700
"""Ten years. A message with a wrong year would fill hundreds of thousands of days."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_S: Final = -62_135_510_400  # 0001-01-02: room for any offset
_LAST_S: Final = 253_402_214_400  # 9999-12-31


def row_of(priced: PricedMessages, message_id: int) -> int:
    """Return the first row with this id; raises `MessageNotFound`."""
    rows = np.flatnonzero(priced.messages.ids == message_id)
    if not len(rows):
        raise MessageNotFound(message_id)
    return int(rows[0])


def explain(priced: PricedMessages, row: int) -> Explanation:
    """Return the price of one message, step by step."""
    source = priced.source(row)
    return Explanation(
        message_id=int(priced.messages.ids[row]),
        timestamp=priced.messages.timestamps[row],
        report_name=UNSET if source == "text" else priced.names[priced.name_of[row]],
        credits_used=to_credits(int(priced.hundredths[row])),
        source=source,
        plan=priced.plan.id,
        steps=priced.steps_of(row),
    )


def daily_usage(priced: PricedMessages, zone: ZoneInfo | None = None) -> DailyUsage:
    """Return messages and credits of each day in a time zone, UTC for None.

    Days without messages are included, unless the period has more than
    `MAX_FILLED_DAYS` days.
    """
    found = daily_usage_of(*priced.quarter_sums, zone)
    if found is not None:
        return found
    local_days = _local_days(priced.messages.instants // US_PER_S, zone)
    return _list_days(local_days, np.ones(len(priced), np.int64), priced.hundredths)


def daily_usage_of(
    quarters: NDArray[np.int64],
    messages: NDArray[np.int64],
    hundredths: NDArray[np.int64],
    zone: ZoneInfo | None = None,
) -> DailyUsage | None:
    """Return the usage of each day, from sums of quarters of an hour since 1970.

    All columns have the shape `(n_quarters,)`. None if a day of the zone begins within
    one of the quarters.
    """
    if not len(quarters):
        return DailyUsage([])
    begins = quarters * QUARTER_S
    local_days = _local_days(begins, zone)
    if not np.array_equal(local_days, _local_days(begins + QUARTER_S - 1, zone)):
        return None
    return _list_days(local_days, messages, hundredths)


def usage_by_report(priced: PricedMessages) -> UsageByReport:
    """Return messages and credits of each report, the most expensive first."""
    places = len(priced.names)
    place_of = np.where(priced.by_text, places, priced.name_of)
    messages = np.bincount(place_of, minlength=places + 1)
    hundredths = add_at(place_of, priced.hundredths, places + 1)
    return list_reports(priced.names, messages, hundredths)


def list_reports(
    names: Sequence[str], messages: NDArray[np.int64], hundredths: NDArray[np.int64]
) -> UsageByReport:
    """Return the usage of reports by their sums; the last sum is that of texts."""
    counts, used = messages.tolist(), [to_credits(each) for each in hundredths.tolist()]
    rows = zip(names, counts, used, strict=False)
    reports = [ReportUsage(*row) for row in rows]
    reports.sort(key=lambda report: (-report.credits_used, report.report_name))
    return UsageByReport(reports, TextUsage(counts[-1], used[-1]))


def _list_days(
    local_days: NDArray[np.int64],
    messages: NDArray[np.int64],
    hundredths: NDArray[np.int64],
) -> DailyUsage:
    """Return the sums of each day; at least one, and all of shape `(n,)`."""
    first, last = int(local_days.min()), int(local_days.max())
    gaps_omitted = last - first >= MAX_FILLED_DAYS
    if gaps_omitted:
        days, place_of = unique(local_days)
    else:
        days, place_of = np.arange(first, last + 1), local_days - first
    counts = add_at(place_of, messages, len(days))
    used = add_at(place_of, hundredths, len(days))
    dates = np.datetime_as_string(days.astype("datetime64[D]"))
    rows = zip(dates.tolist(), counts.tolist(), used.tolist(), strict=True)
    listed = [DayUsage(day, count, to_credits(spent)) for day, count, spent in rows]
    return DailyUsage(listed, gaps_omitted or UNSET)


def _local_days(seconds: NDArray[np.int64], zone: ZoneInfo | None) -> NDArray[np.int64]:
    """Return days since 1970-01-01 on the zone's calendar: `(n_messages,)` int64."""
    if zone is not None:
        seconds = seconds + _offsets_s(zone, seconds)
    return seconds // S_PER_DAY


def _offsets_s(
    zone: ZoneInfo, seconds: NDArray[np.int64], spans: Sequence[int] = SPANS_S
) -> NDArray[np.int64]:
    """Return the zone's offsets from UTC: `(n_messages,)` int64, seconds."""
    if not spans or not len(seconds):
        return _look_up(zone, seconds)
    # Two look-ups for each span. Only a span in which the offset changes, as
    # Newfoundland's did at 00:01, needs more: for shorter spans, or for each message.
    span, *shorter = spans
    used, place_of = unique(seconds // span)
    at_begin = _look_up(zone, used * span)
    is_changing = at_begin != _look_up(zone, used * span + span - 1)
    offsets = at_begin[place_of]
    changing = np.flatnonzero(is_changing[place_of])
    offsets[changing] = _offsets_s(zone, seconds[changing], shorter)
    return offsets


def _look_up(zone: ZoneInfo, seconds: NDArray[np.int64]) -> NDArray[np.int64]:
    within = np.clip(seconds, _FIRST_S, _LAST_S).tolist()
    return np.fromiter((_offset_s(zone, at) for at in within), np.int64, len(within))


@lru_cache(MAX_OFFSETS)
def _offset_s(zone: ZoneInfo, second: int) -> int:
    offset = (_EPOCH + timedelta(seconds=second)).astimezone(zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())
