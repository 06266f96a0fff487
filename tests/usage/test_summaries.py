"""Sums by day and by report are what adding up by hand would give."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.parameters import InvalidParameter
from service.usage.ledger import Ledger
from service.usage.model import DailyUsage, DayUsage, ReportUsage, TextUsage
from service.usage.summaries import daily_usage, parse_zone, usage_by_report
from tests.reference import items_of, ledger_of, message, report

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


def stamped(moments: Iterable[str | datetime]) -> Ledger:
    """A message a moment, of different prices."""
    kinds: list[dict[str, Any]] = [{"report_id": 2}, {"text": "rent rent"}, {}]
    return ledger_of(
        [
            message(row, timestamp=str(moment), **kinds[row % 3])
            for row, moment in enumerate(moments)
        ],
        REPORTS,
    )


def daily_by_hand(ledger: Ledger, zone: ZoneInfo) -> list[DayUsage]:
    """Each message's day by the standard library, then every day in between."""
    messages: Counter[date] = Counter()
    hundredths: Counter[date] = Counter()
    for item in items_of(ledger):
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


def test_days_without_messages_are_there_with_zeroes() -> None:
    """Every day from the first to the last, whatever upstream's order."""
    ledger = stamped(
        ["2024-03-01T23:59:59.999Z", "2024-02-28T00:00:00Z", "2024-02-28T23:00:00Z"]
    )
    assert daily_usage(ledger) == DailyUsage(
        [
            DayUsage("2024-02-28", 2, 2.85),
            DayUsage("2024-02-29", 0, 0.0),
            DayUsage("2024-03-01", 1, 79.5),
        ]
    )


@pytest.mark.parametrize("zone", [None, "Europe/London"])
def test_empty_period_has_no_days(zone: str | None) -> None:
    """No message, no day, and no error."""
    assert daily_usage(ledger_of([]), parse_zone(zone)) == DailyUsage([])


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
    [usage] = daily_usage(stamped([timestamp]), parse_zone(zone)).days
    assert usage == DayUsage(day, 1, 79.5)


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
    """Where clocks change, at whatever minute, each message stays on its day."""
    change = datetime.fromisoformat(changed)
    ledger = stamped(change + timedelta(seconds=seconds) for seconds in offsets)
    zone = ZoneInfo(name)
    assert daily_usage(ledger, zone).days == daily_by_hand(ledger, zone)


@given(
    st.datetimes(datetime(1880, 1, 1), datetime(2200, 1, 1)),  # noqa: DTZ001
    st.lists(st.timedeltas(timedelta(0), timedelta(days=9)), max_size=9),
    st.sampled_from(ZONES),
)
def test_days_of_any_moment_are_the_librarys(
    first: datetime, later: list[timedelta], name: str
) -> None:
    """Past and future days are the zone's too, local mean times included."""
    ledger = stamped([first, *(first + each for each in later)])
    zone = ZoneInfo(name)
    assert daily_usage(ledger, zone).days == daily_by_hand(ledger, zone)


@pytest.mark.parametrize("name", [None, *ZONES])
def test_days_add_up_to_the_period(name: str | None) -> None:
    """No zone loses a message or a hundredth."""
    start = datetime.fromisoformat("2024-03-01")
    ledger = stamped(start + timedelta(hours=7 * row) for row in range(200))
    days = daily_usage(ledger, parse_zone(name)).days
    assert sum(day.messages for day in days) == 200
    total = sum(round(day.credits_used * 100) for day in days)
    assert total / 100 == ledger.credits_total


# Zones.


def test_zone_is_known_by_its_name() -> None:
    """An IANA name gives its zone; none at all means UTC."""
    assert parse_zone("Europe/London") == ZoneInfo("Europe/London")
    assert parse_zone(None) is None


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "Nowhere", "Europe", "Europe/", "Europe/London/", "Europe//London"),
        *("../etc/passwd", "/etc/localtime", "Europe/../Europe/London", ".", ".."),
        *("\0", "Europe/London\0", "\ud800", "\u00e9", "x" * 5000, "a/" * 2000),
        *("+01:00", "UTC+1", "__init__.py", "zone.tab", "tzdata.zi", "a.b/c.d"),
    ],
    ids=lambda name: repr(name[:24]),
)
def test_name_of_no_zone_is_refused(name: str) -> None:
    """Nothing sent as a zone opens another file or fails in another way."""
    with pytest.raises(InvalidParameter, match="Europe/London") as error:
        parse_zone(name)
    assert error.value.name == "tz"


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_zone_or_refusal_is_all_there_is(name: str) -> None:
    """Any text is a zone, or the caller's error."""
    try:
        zone = parse_zone(name)
    except InvalidParameter:
        return
    assert isinstance(zone, ZoneInfo)


# Reports.


def test_usage_by_report_is_summed_by_name_the_dearest_first() -> None:
    """Ids of one name count as one report; equal sums stand in order of the name."""
    ids = [1, 2, 4, 1, 3, 9, None, 2, 2]
    rows = [message(row, report_id=wanted) for row, wanted in enumerate(ids)]
    usage = usage_by_report(ledger_of([*rows, message(9, "rent rent")], REPORTS))
    assert usage.reports == [
        ReportUsage("Tenants", 3, 238.5),
        ReportUsage("Lease", 3, 122.01),
        ReportUsage("Zoning", 1, 61.01),
    ]
    assert usage.text == TextUsage(3, 3.85)


def test_reports_of_equal_sums_stand_in_order_of_the_name() -> None:
    """The order does not depend on which message came first."""
    equal = report("1", "B", 1) | report("2", "A", 0.5) | report("3", "C", 1)
    ledger = ledger_of(
        (message(row, report_id=wanted) for row, wanted in enumerate([3, 2, 1, 2])),
        equal,
    )
    assert [each.report_name for each in usage_by_report(ledger).reports] == [*"ABC"]


def test_empty_period_has_no_reports() -> None:
    """Without messages the texts have used nothing, and no report is listed."""
    usage = usage_by_report(ledger_of([]))
    assert (usage.reports, usage.text) == ([], TextUsage(0, 0.0))


@given(st.lists(st.sampled_from([1, 2, 3, 4, 5, None]), max_size=30))
def test_reports_and_texts_add_up_to_the_period(ids: list[int | None]) -> None:
    """Every message is counted once, under its report or under the texts."""
    ledger = ledger_of(
        (message(row, report_id=wanted) for row, wanted in enumerate(ids)), REPORTS
    )
    usage = usage_by_report(ledger)
    parts: list[ReportUsage | TextUsage] = [*usage.reports, usage.text]
    assert sum(part.messages for part in parts) == len(ids)
    total = sum(round(part.credits_used * 100) for part in parts)
    assert total / 100 == ledger.credits_total
