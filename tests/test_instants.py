"""Instants: parsing and formatting."""

import time
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.instants import format_instant, now_us, read_instant

offsets = st.integers(-1439, 1439).map(
    lambda minutes: timezone(timedelta(minutes=minutes))
)


@given(moment=st.datetimes(timezones=st.just(UTC)))
def test_what_is_written_is_read_again(moment: datetime) -> None:
    """Every moment from year 1 to 9999 survives, in the one form that is written."""
    instant = read_instant(moment.isoformat())

    written = format_instant(instant)

    assert read_instant(written) == instant
    assert written == moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


@given(moment=st.datetimes(), offset=offsets)
def test_offsets_count(moment: datetime, offset: timezone) -> None:
    """An offset moves the instant by itself, beyond the years 1 and 9999 too."""
    west = read_instant(moment.replace(tzinfo=offset).isoformat())

    shift = offset.utcoffset(None) // timedelta(microseconds=1)
    assert west == read_instant(moment.isoformat()) - shift


@pytest.mark.parametrize(
    "timestamp, written",
    [
        ("0001-01-01T00:00:00+00:01", "0000-12-31T23:59:00.000000Z"),
        ("0001-01-01T00:00:00.000001+23:59", "0000-12-31T00:01:00.000001Z"),
        ("9999-12-31T23:59:59.999999-00:01", "10000-01-01T00:00:59.999999Z"),
        ("9999-12-31T23:59:00-23:59", "10000-01-01T23:58:00.000000Z"),
    ],
)
def test_an_offset_may_move_an_instant_beyond_all_dates(
    timestamp: str, written: str
) -> None:
    """It is written all the same, as numpy writes it."""
    instant = read_instant(timestamp)

    assert format_instant(instant) == written
    assert written == f"{np.datetime64(instant, 'us')}Z"


@pytest.mark.parametrize(
    "timestamp",
    ["now", "2021-13-01", "2021-01-01T24:00:01", "2021-01-01\ud80000:00:01"],
)
def test_what_is_no_timestamp_is_refused(timestamp: str) -> None:
    """It raises `ValueError` and nothing else."""
    with pytest.raises(ValueError, match=r"\w"):
        read_instant(timestamp)


def test_now_is_the_system_clock() -> None:
    """The current instant lies between two readings of the clock."""
    before = time.time_ns() // 1_000

    assert before <= now_us() <= time.time_ns() // 1_000
