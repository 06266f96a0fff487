"""Timestamps are read as the standard library reads them, one by one or many."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.instants import read_instant
from service.usage.pricing.timestamps import BATCH, read_instants

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
USUAL: Final = "2024-04-29T02:08:29.375Z"
USUAL_INSTANT: Final = 1_714_356_509_375_000

READABLE: Final = {
    "usual": USUAL,
    "without an offset": "2024-04-29T02:08:29.375",
    "without a fraction": "2024-04-29T02:08:29Z",
    "microseconds": "2024-04-29T02:08:29.375001Z",
    "nanoseconds, cut": "2024-04-29T02:08:29.375001999Z",
    "one decimal": "2024-04-29T02:08:29.3Z",
    "east": "2024-04-29T07:53:29.375+05:45",
    "west": "2024-04-28T22:38:29.375-03:30",
    "offset of seconds": "2024-04-29T02:08:29+00:00:30",
    "basic form": "20240429T020829Z",
    "date": "2024-04-29",
    "week date": "2024-W18-1",
    "blank for T": "2024-04-29 02:08:29.375Z",
    "24 characters, not the usual": "2024-04-29T02:08:29+0100",
    "24 characters, another mark": "2024-04-29_02:08:29.375Z",
    "leap day": "2024-02-29T00:00:00.000Z",
    "leap day of a century": "2000-02-29T23:59:59.999Z",
    "before 1970": "1969-12-31T23:59:59.999Z",
    "year 1": "0001-01-01T00:00:00.000Z",
    "year 9999": "9999-12-31T23:59:59.999Z",
    "before year 1 in UTC": "0001-01-01T00:00:00+14:00",
    "after year 9999 in UTC": "9999-12-31T23:59:59-14:00",
}

UNREADABLE: Final = {
    "empty": "",
    "words": "yesterday",
    "number": "1714356509",
    "February 30": "2024-02-30T00:00:00.000Z",
    "February 29 of no leap year": "2023-02-29T00:00:00.000Z",
    "February 29 of a common century": "1900-02-29T00:00:00.000Z",
    "April 31": "2024-04-31T00:00:00.000Z",
    "day 0": "2024-04-00T00:00:00.000Z",
    "day 32": "2024-01-32T00:00:00.000Z",
    "month 0": "2024-00-29T00:00:00.000Z",
    "month 13": "2024-13-29T00:00:00.000Z",
    "year 0": "0000-01-01T00:00:00.000Z",
    "hour 25": "2024-04-29T25:00:00.000Z",
    "minute 60": "2024-04-29T00:60:00.000Z",
    "second 60": "2024-04-29T23:59:60.000Z",
    "letter for a digit": "2024-04-29T02:08:2O.375Z",
    "sign for a digit": "2024-04-29T02:08:+9.375Z",
    "slash, just below 0": "2024-04-2/T02:08:29.375Z",
    "colon, just above 9": "2024-04-2:T02:08:29.375Z",
    "Arabic digits": "\u0662\u0660\u0662\u0664-04-29T02:08:29.375Z",
    "full-width digit": "2024-04-29T02:08:29.37\uff15Z",
    "superscript digit": "2024-04-29T02:08:29.37\u00b2Z",
    "NUL at the end": "2024-04-29T02:08:29.375\0",
    "lone surrogate": "2024-04-29T02:08:29.37\ud800Z",
    "offset of a day": "2024-04-29T02:08:29+24:00",
    "blank before": f" {USUAL}",
    "line feed after": f"{USUAL}\n",
}


def instant_of(timestamp: str) -> int:
    """The same by the standard library alone."""
    moment = datetime.fromisoformat(timestamp)
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - EPOCH) // timedelta(microseconds=1)


def assert_read_like_the_library(timestamps: list[str]) -> None:
    try:
        expected = [instant_of(timestamp) for timestamp in timestamps]
    except ValueError:
        with pytest.raises(ValueError, match="unreadable timestamp"):
            read_instants(timestamps)
    else:
        assert read_instants(timestamps).tolist() == expected


def test_instant_is_microseconds_since_1970() -> None:
    """The unit and the origin are what selecting and summing count on."""
    assert read_instant(USUAL) == USUAL_INSTANT
    assert read_instants([USUAL]).tolist() == [USUAL_INSTANT]
    assert read_instants(["1970-01-01T00:00:00.000Z"]).tolist() == [0]


@pytest.mark.parametrize("timestamp", READABLE.values(), ids=READABLE)
def test_readable_timestamp_is_read_as_the_library_reads_it(timestamp: str) -> None:
    """Every form of ISO 8601 gives the same instant alone and among others."""
    expected = instant_of(timestamp)
    assert read_instant(timestamp) == expected
    assert read_instants([timestamp]).tolist() == [expected]
    assert read_instants([USUAL, timestamp]).tolist() == [USUAL_INSTANT, expected]


@pytest.mark.parametrize("timestamp", UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_timestamp_is_refused_and_named(timestamp: str) -> None:
    """What is no moment is an error that names the offender, wherever it stands."""
    with pytest.raises(ValueError):  # noqa: PT011 - its text is the library's
        read_instant(timestamp)
    for among in ([timestamp], [USUAL, timestamp, USUAL]):
        with pytest.raises(ValueError, match="unreadable timestamp") as error:
            read_instants(among)
        assert repr(timestamp) in str(error.value)


def test_first_of_several_unreadable_timestamps_is_named() -> None:
    """The error leads to the first place to look at."""
    with pytest.raises(ValueError, match="unreadable timestamp 'one'"):
        read_instants([USUAL, "one", "two"])


def test_long_offender_is_cut() -> None:
    """A timestamp of a megabyte does not make an error of a megabyte."""
    with pytest.raises(ValueError, match="unreadable timestamp") as error:
        read_instants(["x" * 1_000_000])
    assert len(str(error.value)) < 100


def test_no_timestamps_give_no_instants() -> None:
    """An empty period has an empty column."""
    assert read_instants([]).tolist() == []


def test_forms_and_lengths_mix() -> None:
    """One list may hold every readable form, in any order."""
    timestamps = [*READABLE.values(), *reversed(READABLE.values())]
    assert read_instants(timestamps).tolist() == list(map(instant_of, timestamps))


@pytest.mark.parametrize("size", [BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 3])
@pytest.mark.parametrize("last", [USUAL, "2024-04-29T02:08:29.375001"])
def test_any_number_is_read_in_order(size: int, last: str) -> None:
    """No timestamp is lost or moved where one batch ends and the next begins."""
    milliseconds = range(size)
    timestamps = [f"2024-04-29T02:08:29.{each % 1000:03}Z" for each in milliseconds]
    second = USUAL_INSTANT - 375_000
    expected = [second + each % 1000 * 1000 for each in milliseconds]
    found = read_instants([*timestamps, last]).tolist()
    assert found == [*expected, instant_of(last)]
    with pytest.raises(ValueError, match="unreadable timestamp 'soon'"):
        read_instants([*timestamps, "soon", last])


@given(st.integers(1, 3), st.lists(st.integers(0, 80), min_size=1, max_size=3))
def test_line_feeds_inside_are_no_ends(count: int, cuts: list[int]) -> None:
    """Pieces that only look right when laid end to end are read as pieces."""
    laid_out = "\n".join([USUAL] * count)
    bounds = [0, *sorted(cuts), len(laid_out)]
    assert_read_like_the_library([laid_out[a:b] for a, b in pairwise(bounds)])


moments = st.datetimes(
    timezones=st.one_of(
        st.just(UTC),
        st.integers(-14 * 60, 14 * 60).map(
            lambda minutes: timezone(timedelta(minutes=minutes))
        ),
    )
)


@given(st.lists(st.datetimes(), max_size=8))
def test_usual_form_of_any_moment_is_read_exactly(moments: list[datetime]) -> None:
    """From year 1 to 9999, the fast way gives the library's instants."""
    timestamps = [f"{moment.isoformat(timespec='milliseconds')}Z" for moment in moments]
    assert read_instants(timestamps).tolist() == list(map(instant_of, timestamps))


@given(st.lists(moments, max_size=8))
def test_any_moment_at_any_offset_is_read_exactly(moments: list[datetime]) -> None:
    """Offsets and microseconds are kept, whatever the neighbours look like."""
    timestamps = [USUAL, *(moment.isoformat() for moment in moments)]
    assert read_instants(timestamps).tolist() == list(map(instant_of, timestamps))


nearly_moments = st.builds(
    "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z".format,
    st.integers(0, 9999),
    st.integers(0, 13),
    st.integers(0, 32),
    st.integers(0, 25),
    st.integers(0, 61),
    st.integers(0, 61),
    st.integers(0, 999),
)


@given(nearly_moments, st.integers(0, 23), st.sampled_from("059TZ:-. /\u0661"))
def test_either_way_accepts_and_refuses_the_same(
    timestamp: str, place: int, other: str
) -> None:
    """The fast way neither reads what the library refuses nor refuses what it reads."""
    assert_read_like_the_library([timestamp])
    assert_read_like_the_library([timestamp[:place] + other + timestamp[place + 1 :]])
