"""The report cache: what is young, what is the last known, and what goes first."""

from typing import Any

import pytest

from service.usage.model import Report
from service.usage.report_cache import ReportCache
from tests.clock import Clock
from tests.conftest import MakeSettings

LEASE = Report(7, "Short Lease Report", 61)
TENANTS = Report(8, "Tenant Obligations Report", 79)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(settings: MakeSettings, clock: Clock) -> ReportCache:
    """Three entries; reports live for 100 s, their absence for 10 s."""
    times: dict[str, Any] = {"report_ttl_s": 100.0, "missing_report_ttl_s": 10.0}
    return ReportCache(settings(cache={**times, "max_reports": 3}).cache, clock)


def test_what_was_never_told_is_not_known(cache: ReportCache) -> None:
    """An empty cache makes nothing up."""
    assert cache.young("7") is None
    assert cache.last_known("7") is None
    assert len(cache) == 0


@pytest.mark.parametrize(
    "report, ttl_s", [(LEASE, 100), (None, 10)], ids=["report", "absence"]
)
def test_an_entry_is_young_for_its_own_time(
    cache: ReportCache, clock: Clock, report: Report | None, ttl_s: float
) -> None:
    """A report is believed for one time, its absence for another, to the moment."""
    cache.put("7", report)

    clock.pass_s(ttl_s - 0.001)
    entry = cache.young("7")
    assert entry is not None
    assert entry.report is report
    clock.pass_s(0.001)
    assert cache.young("7") is None


def test_an_old_report_is_still_the_last_known(
    cache: ReportCache, clock: Clock
) -> None:
    """Age takes nothing from the copy that stands in when upstream fails."""
    cache.put("7", LEASE)
    clock.pass_s(1e9)

    assert cache.young("7") is None
    assert cache.last_known("7") is LEASE


def test_a_report_that_is_gone_has_no_good_copy(cache: ReportCache) -> None:
    """Once upstream has said that there is none, the old price is not used again."""
    cache.put("7", LEASE)
    cache.put("7", None)

    assert cache.last_known("7") is None


def test_asking_does_not_make_it_younger(cache: ReportCache, clock: Clock) -> None:
    """However often it is used, an entry is asked for anew when its time is up."""
    cache.put("7", LEASE)
    for _ in range(10):
        assert cache.young("7")
        clock.pass_s(10)

    assert cache.young("7") is None


def test_telling_anew_makes_it_young_again(cache: ReportCache, clock: Clock) -> None:
    """What upstream has just said counts from now."""
    cache.put("7", LEASE)
    clock.pass_s(100)
    cache.put("7", TENANTS)

    entry = cache.young("7")
    assert entry is not None
    assert entry.report is TENANTS


def test_the_longest_unused_goes_first(cache: ReportCache) -> None:
    """Above `max_reports`, what was neither told nor used lately makes room."""
    for key in ("a", "b", "c"):
        cache.put(key, LEASE)
    assert cache.young("a")
    cache.put("b", TENANTS)

    cache.put("d", LEASE)
    assert [key for key in "abcd" if cache.last_known(key)] == ["a", "b", "d"]
    cache.put("e", LEASE)
    assert [key for key in "abcde" if cache.last_known(key)] == ["b", "d", "e"]
    assert len(cache) == 3
