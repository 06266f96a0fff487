"""Billing months: anchor days, time zones, and changes of both."""

from datetime import UTC, datetime
from typing import Any

import pytest

from service.instants import read_instant
from service.settings import SettingsError, load
from service.usage.periods.calendar import Calendar, Schedule
from service.usage.snapshots.spans import Span


def at(text: str) -> int:
    return read_instant(text)


@pytest.mark.parametrize(
    "anchor_day, zone, instant, begin, end",
    [
        (1, "UTC", "2024-04-30T23:59:59Z", "2024-04-01", "2024-05-01"),
        (1, "UTC", "2024-12-31T12:00:00Z", "2024-12-01", "2025-01-01"),
        (15, "UTC", "2024-04-14T23:59:59Z", "2024-03-15", "2024-04-15"),
        (31, "UTC", "2024-02-10T00:00:00Z", "2024-01-31", "2024-02-29"),
        (31, "UTC", "2024-02-29T00:00:00Z", "2024-02-29", "2024-03-31"),
        (31, "UTC", "2023-03-01T00:00:00Z", "2023-02-28", "2023-03-31"),
        (30, "UTC", "2024-01-29T00:00:00Z", "2023-12-30", "2024-01-30"),
        (
            *(1, "Asia/Tokyo", "2024-04-30T15:00:00Z"),
            *("2024-04-30T15:00:00Z", "2024-05-31T15:00:00Z"),
        ),
        (
            *(1, "Europe/Berlin", "2024-03-15T00:00:00Z"),
            *("2024-02-29T23:00:00Z", "2024-03-31T22:00:00Z"),
        ),
        (
            # Midnight did not exist: clocks went from 00:00 to 01:00.
            *(4, "America/Sao_Paulo", "2018-11-10T00:00:00Z"),
            *("2018-11-04T03:00:00Z", "2018-12-04T02:00:00Z"),
        ),
        (
            # Midnight came twice: clocks went from 01:00 back to 00:00.
            *(1, "America/Havana", "2020-11-10T00:00:00Z"),
            *("2020-11-01T04:00:00Z", "2020-12-01T05:00:00Z"),
        ),
        (
            # 23:00 came twice: clocks went from 24:00 back to 23:00.
            *(18, "America/Sao_Paulo", "2018-02-20T00:00:00Z"),
            *("2018-02-18T03:00:00Z", "2018-03-18T03:00:00Z"),
        ),
    ],
)
def test_months_begin_at_the_first_instant_of_their_day(
    anchor_day: int, zone: str, instant: str, begin: str, end: str
) -> None:
    """A shorter month begins on its last day, and a change of clocks moves no day."""
    month = Calendar(anchor_day, zone).month_of(at(instant))
    assert (month.begin, month.end) == (at(begin), at(end))
    assert month.begin <= at(instant) < month.end


@pytest.mark.parametrize("anchor_day", range(1, 32))
@pytest.mark.parametrize("zone", ["UTC", "America/Sao_Paulo", "Pacific/Apia"])
def test_months_follow_each_other(anchor_day: int, zone: str) -> None:
    """Every instant belongs to exactly one month."""
    calendar = Calendar(anchor_day, zone)
    month = calendar.month_of(at("2011-06-05"))
    for _ in range(20):
        following = calendar.month_of(month.end)
        assert following.begin == month.end
        assert calendar.month_of(month.end - 1) == month
        month = following


def schedule(now: str, **periods: Any) -> Schedule:
    settings = load(options={"periods": periods}).settings
    return Schedule(settings, clock=lambda: at(now))


def test_kept_months_stay_when_the_anchor_day_changes() -> None:
    """The next month begins where the kept one ends, and is shorter."""
    months = schedule("2024-04-20", anchor_day=15)
    kept = Span(at("2024-04-01"), at("2024-05-01"), "2024-04-01")
    months.learn([kept])
    assert months.current() == kept
    following = months.month_of(at("2024-05-02"))
    assert following == (at("2024-05-01"), at("2024-05-15"), "2024-05-01")
    assert months.month_of(at("2024-05-16")).begins_on == "2024-05-15"
    assert months.month_of(at("2024-03-31")).end == kept.begin


def test_kept_months_stay_when_the_zone_changes() -> None:
    """No hour belongs to two months, or to none."""
    months = schedule("2024-04-20", zone="Asia/Tokyo")
    kept = Span(at("2024-04-01"), at("2024-05-01"), "2024-04-01")
    months.learn([kept])
    following = months.month_of(at("2024-05-01"))
    assert (following.begin, following.end) == (kept.end, at("2024-05-31T15:00:00Z"))


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc", "/etc/localtime"])
def test_an_unknown_zone_is_refused(zone: str) -> None:
    """The error names the setting."""
    with pytest.raises(SettingsError, match=r"periods.*zone"):
        load(options={"periods": {"zone": zone}})


def test_collected_events_have_calendar_months() -> None:
    """Each boundary can be chosen for each source."""
    events = {"usage": {"source": "events"}}
    assert load(options=events).settings.has_calendar
    assert not load(options={}).settings.has_calendar
    upstream = {**events, "periods": {"boundary": "upstream"}}
    assert not load(options=upstream).settings.has_calendar


def test_the_current_month_is_that_of_now() -> None:
    """The default clock is that of the system."""
    month = Schedule(load().settings).current()
    now = datetime.now(UTC)
    assert month.begins_on == now.replace(day=1).date().isoformat()
