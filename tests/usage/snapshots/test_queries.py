"""Queries: one message's price, and sums that equal adding up by hand."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from service.usage.snapshots.answers import (
    DailyUsage,
    DayUsage,
    ReportUsage,
    TextUsage,
)
from service.usage.snapshots.columns import PricedMessages
from service.usage.snapshots.queries import (
    MAX_FILLED_DAYS,
    daily_usage,
    usage_by_report,
)
from tests.reference import items_of, message, priced_of, report

REPORTS: Final = (
    report("1", "Lease", 61)
    | report("2", "Tenants", 79.5)
    | report("3", "Lease", 0.01)
    | report("4", "Zoning", 61.01)
)
CHANGES: Final = [
    ("UTC", "2024-04-29T00:00:00"),
    ("Europe/London", "2024-03-31T01:00:00"),
    ("Europe/London", "2024-10-27T01:00:00"),
    ("Australia/Lord_Howe", "2024-04-06T15:00:00"),
    ("Australia/Lord_Howe", "2024-10-05T15:30:00"),
    ("America/St_Johns", "2024-03-10T05:30:00"),
    ("America/St_Johns", "2010-03-14T03:31:00"),
    ("America/St_Johns", "2010-11-07T02:31:00"),
    ("Asia/Kathmandu", "1985-12-31T18:30:00"),
    ("Antarctica/Casey", "2020-10-03T16:01:00"),
    ("Pacific/Apia", "2011-12-30T10:00:00"),
    ("America/Santiago", "2060-09-05T04:00:00"),
    ("Africa/Monrovia", "1972-01-07T00:44:30"),
]
"""Zones, each with the first second of a new time in UTC."""

ZONES: Final = sorted({zone for zone, _ in CHANGES})
SECONDS_ACROSS: Final = 3 * 86_400


def as_zone(name: str | None) -> ZoneInfo | None:
    return None if name is None else ZoneInfo(name)


def stamped(moments: Iterable[str | datetime]) -> PricedMessages:
    """A message a moment, of different prices."""
    kinds: list[dict[str, Any]] = [{"report_id": 2}, {"text": "rent rent"}, {}]
    return priced_of(
        [
            message(row, timestamp=str(moment), **kinds[row % 3])
            for row, moment in enumerate(moments)
        ],
        REPORTS,
    )


def daily_by_hand(priced: PricedMessages, zone: ZoneInfo) -> list[DayUsage]:
    """Each message's day by the standard library, then every day in between."""
    messages: Counter[date] = Counter()
    hundredths: Counter[date] = Counter()
    for item in items_of(priced):
        moment = datetime.fromisoformat(item["timestamp"]).replace(tzinfo=UTC)
        day = moment.astimezone(zone).date()
        messages[day] += 1
        hundredths[day] += round(item["credits_used"] * 100)
    days = []
    day = min(messages, default=date.max)
    while day <= max(messages, default=date.min):
        days.append(DayUsage(day.isoformat(), messages[day], hundredths[day] / 100))
        day += timedelta(days=1)
    return days


# Days.


@pytest.mark.parametrize(
    "timestamp, zone, day",
    [
        ("2024-04-29T23:59:59.999999Z", None, "2024-04-29"),
        ("2024-04-30T00:59:59+01:00", None, "2024-04-29"),
        ("1969-12-31T23:59:59.999Z", None, "1969-12-31"),
        ("2024-04-29T23:00:00Z", "Europe/London", "2024-04-30"),
        ("2024-01-29T23:00:00Z", "Europe/London", "2024-01-29"),
        ("2024-04-29T18:14:59.999Z", "Asia/Kathmandu", "2024-04-29"),
        ("2024-04-29T18:15:00Z", "Asia/Kathmandu", "2024-04-30"),
        ("2024-04-30T02:29:59Z", "America/St_Johns", "2024-04-29"),
        ("2010-11-07T02:35:00Z", "America/St_Johns", "2010-11-06"),
        ("2010-11-07T02:30:30Z", "America/St_Johns", "2010-11-07"),
        ("0001-01-01T00:00:00Z", None, "0001-01-01"),
        ("9999-12-31T23:59:59.999Z", None, "9999-12-31"),
        ("0001-01-01T00:00:00Z", "Asia/Kathmandu", "0001-01-01"),
        ("0001-01-01T00:00:00Z", "America/St_Johns", "0000-12-31"),
        ("9999-12-31T23:59:59Z", "America/St_Johns", "9999-12-31"),
        ("9999-12-31T23:59:59Z", "Asia/Kathmandu", "10000-01-01"),
        ("9999-12-31T23:59:59-14:00", "Pacific/Kiritimati", "10000-01-02"),
    ],
)
def test_message_belongs_to_its_day_in_the_zone(
    timestamp: str, zone: str | None, day: str
) -> None:
    """Midnight is the zone's, from the first year to the last and a day beyond."""
    [usage] = daily_usage(stamped([timestamp]), as_zone(zone)).days
    assert usage == DayUsage(day, 1, 79.5)


def day_after(days: int, first: str = "2020-01-01") -> str:
    return (date.fromisoformat(first) + timedelta(days=days)).isoformat()


@pytest.mark.parametrize("zone", [None, "Asia/Kathmandu", "America/St_Johns"])
@pytest.mark.parametrize("first", ["2020-01-01", "0001-01-02", "9985-06-01"])
def test_ten_years_are_filled_and_no_day_more(first: str, zone: str | None) -> None:
    """Exactly 3,700 days are listed with their gaps; of one more only two are left."""
    noon = "T12:00:00Z"
    last, beyond = (day_after(MAX_FILLED_DAYS - n, first) for n in (1, 0))
    filled = daily_usage(stamped([first + noon, last + noon]), as_zone(zone))
    assert (len(filled.days), filled.gaps_omitted) == (MAX_FILLED_DAYS, UNSET)
    assert [day for day in filled.days if day.messages] == [
        DayUsage(first, 1, 79.5),
        DayUsage(last, 1, 1.85),
    ]

    moments = [f"{beyond}{noon}", f"{first}{noon}", f"{beyond}{noon}"]
    omitted = daily_usage(stamped(moments), as_zone(zone))
    assert omitted == DailyUsage(
        [DayUsage(first, 1, 1.85), DayUsage(beyond, 2, 80.5)], gaps_omitted=True
    )


@given(
    st.lists(st.integers(0, 2 * MAX_FILLED_DAYS), min_size=1, max_size=9),
    st.sampled_from(ZONES),
)
def test_omitted_days_are_those_without_messages(days: list[int], name: str) -> None:
    """Days with messages have the same sums with and without the empty days."""
    priced = stamped(f"{day_after(day)}T18:40:00" for day in days)
    usage = daily_usage(priced, ZoneInfo(name))
    used = [day for day in daily_by_hand(priced, ZoneInfo(name)) if day.messages]
    assert [day for day in usage.days if day.messages] == used
    is_long = max(days) - min(days) >= MAX_FILLED_DAYS
    assert usage.gaps_omitted is (True if is_long else UNSET)
    assert not is_long or usage.days == used


seconds_around = st.one_of(
    st.integers(-SECONDS_ACROSS, SECONDS_ACROSS),
    st.integers(-1000, 1000),
    st.integers(-96, 96).map(lambda quarters: quarters * 900),
)


@pytest.mark.parametrize("name, changed", CHANGES)
@given(offsets=st.lists(seconds_around, max_size=12))
def test_days_around_a_change_of_clocks_are_the_librarys(
    name: str, changed: str, offsets: list[int]
) -> None:
    """A message stays on its day when the zone changes its offset at any minute."""
    change = datetime.fromisoformat(changed)
    priced = stamped(change + timedelta(seconds=seconds) for seconds in offsets)
    zone = ZoneInfo(name)
    assert daily_usage(priced, zone).days == daily_by_hand(priced, zone)


@given(
    st.datetimes(datetime(1880, 1, 1), datetime(2200, 1, 1)),  # noqa: DTZ001
    st.lists(st.timedeltas(timedelta(0), timedelta(days=9)), max_size=9),
    st.sampled_from(ZONES),
)
def test_days_of_any_moment_are_the_librarys(
    first: datetime, later: list[timedelta], name: str
) -> None:
    """Past and future days are the zone's too, local mean times included."""
    priced = stamped([first, *(first + each for each in later)])
    zone = ZoneInfo(name)
    assert daily_usage(priced, zone).days == daily_by_hand(priced, zone)


# Reports.


def test_usage_by_report_is_summed_by_name_the_dearest_first() -> None:
    """Ids of one name count as one report; equal sums stand in order of the name."""
    ids = [1, 2, 4, 1, 3, 9, None, 2, 2]
    rows = [message(row, report_id=each) for row, each in enumerate(ids)]
    usage = usage_by_report(priced_of([*rows, message(9, "rent rent")], REPORTS))
    assert usage.reports == [
        ReportUsage("Tenants", 3, 238.5),
        ReportUsage("Lease", 3, 122.01),
        ReportUsage("Zoning", 1, 61.01),
    ]
    assert usage.text == TextUsage(3, 3.85)


def test_reports_of_equal_sums_stand_in_order_of_the_name() -> None:
    """The order does not depend on which message came first."""
    equal = report("1", "B", 1) | report("2", "A", 0.5) | report("3", "C", 1)
    priced = priced_of(
        (message(row, report_id=each) for row, each in enumerate([3, 2, 1, 2])),
        equal,
    )
    assert [each.report_name for each in usage_by_report(priced).reports] == [*"ABC"]


@given(st.lists(st.sampled_from([1, 2, 3, 4, 5, None]), max_size=30))
def test_reports_and_texts_add_up_to_the_period(ids: list[int | None]) -> None:
    """Every message is counted once, under its report or under the texts."""
    priced = priced_of(
        (message(row, report_id=each) for row, each in enumerate(ids)), REPORTS
    )
    usage = usage_by_report(priced)
    parts: list[ReportUsage | TextUsage] = [*usage.reports, usage.text]
    assert sum(part.messages for part in parts) == len(ids)
    total = sum(round(part.credits_used * 100) for part in parts)
    assert total / 100 == priced.summary.credits_total
