"""Timestamps are read as the standard library reads them, one by one or many."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.instants import read_exact, read_instant
from service.usage.pricing.timestamps import BATCH, read_instants

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
USUAL: Final = "2024-04-29T02:08:29.375Z"
USUAL_INSTANT: Final = 1_714_356_509_375_000

READABLE: Final = {
    "usual": USUAL,
    "without an offset": "2024-04-29T02:08:29.375",
    "without a fraction": "2024-04-29T02:08:29Z",
    "microseconds": "2024-04-29T02:08:29.375001Z",
    "nanoseconds": "2024-04-29T02:08:29.375001999Z",
    "lower case": "2024-04-29t02:08:29.375z",
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
    "year 0": "0000-01-01T00:00:00.000Z",
    "month 0": "2024-00-29T00:00:00.000Z",
    "month 13": "2024-13-29T00:00:00.000Z",
    "last month of year 0": "0000-12-31T00:00:00.000Z",
    "month 13 of the last year": "9999-13-01T00:00:00.000Z",
    "day 0": "2024-05-00T00:00:00.000Z",
    "day 32": "2024-12-32T00:00:00.000Z",
    "hour 24": "2024-04-29T24:00:00.000Z",
    "minute 60": "2024-04-29T23:60:00.000Z",
    "second 60": "2024-04-29T23:59:60.000Z",
    "sign for a digit": "2024-04-29T02:08:+9.375Z",
    "slash, just below 0": "2024-04-2/T02:08:29.375Z",
    "colon, just above 9": "2024-04-2:T02:08:29.375Z",
    "Arabic digits": "\u0662\u0660\u0662\u0664-04-29T02:08:29.375Z",
    "full-width digit": "2024-04-29T02:08:29.37\uff15Z",
    "superscript digit": "2024-04-29T02:08:29.37\u00b2Z",
    "NUL at the end": "2024-04-29T02:08:29.375\0",
    "lone surrogate": "2024-04-29T02:08:29.37\ud800Z",
    "lone surrogate for T": "2024-04-29\ud80002:08:29.375Z",
    "two zones": "2024-04-29T02:08:29.37zZ",
    "date with a zone": "2024-04-29z",
    "offset of a day": "2024-04-29T02:08:29+24:00",
    "blank before": f" {USUAL}",
    "line feed after": f"{USUAL}\n",
}


ATTOSECONDS: Final = {
    "20240429T020829.1234567Z": 700_000_000_000,
    "2024W181T020829.1234567Z": 700_000_000_000,
    "2024-04-29T02:08:29.375001Z": 0,
    "2024-04-29T02:08:29.3750010Z": 0,
    "2024-04-29T02:08:29.3750019Z": 900_000_000_000,
    "2024-04-29T02:08:29.375001000000000001z": 1,
    "2024-04-29T02:08:29.375001000000000000999Z": 0,
    "2024-04-29T02:08:29,375001999+00:00": 999_000_000_000,
    "20240429T020829.375001999-01": 999_000_000_000,
    "2024-04-29T02:08:29.375001999+00:00:30.0000001": 999_000_000_000,
    "2024-04-29T02:08:29+00:00:30.0000001": 0,
    "1969-12-31T23:59:59.9999999Z": 900_000_000_000,
}
"""What timestamps have beyond their microseconds."""


def instant_of(timestamp: str) -> int:
    """The same by the standard library, which reads only the upper-case `Z`."""
    if timestamp.endswith("z"):
        timestamp = timestamp.removesuffix("z") + "Z"
    moment = datetime.fromisoformat(timestamp)
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - EPOCH) // timedelta(microseconds=1)


def microseconds_of(timestamps: list[str]) -> list[int]:
    """The instants of timestamps, read in batches."""
    instants: list[int] = read_instants(timestamps).microseconds.tolist()
    return instants


def assert_read_like_the_library(timestamps: list[str]) -> None:
    try:
        expected = [instant_of(timestamp) for timestamp in timestamps]
    except ValueError:
        with pytest.raises(ValueError, match="unreadable timestamp"):
            read_instants(timestamps)
    else:
        assert microseconds_of(timestamps) == expected


def test_instant_is_microseconds_since_1970() -> None:
    """The unit and the origin are what selecting and summing count on."""
    assert read_instant(USUAL) == USUAL_INSTANT
    assert microseconds_of([USUAL]) == [USUAL_INSTANT]
    assert microseconds_of(["1970-01-01T00:00:00.000Z"]) == [0]


@pytest.mark.parametrize("timestamp", READABLE.values(), ids=READABLE)
def test_readable_timestamp_is_read_as_the_library_reads_it(timestamp: str) -> None:
    """Every form of ISO 8601 gives the same instant alone and among others."""
    expected = instant_of(timestamp)
    assert read_instant(timestamp) == expected
    assert microseconds_of([timestamp]) == [expected]
    assert microseconds_of([USUAL, timestamp]) == [USUAL_INSTANT, expected]


@pytest.mark.parametrize("timestamp, attoseconds", ATTOSECONDS.items())
def test_digits_beyond_a_microsecond_are_read(timestamp: str, attoseconds: int) -> None:
    """The digits of the time count up to the attosecond, those of an offset do not."""
    expected = instant_of(timestamp)
    assert read_exact(timestamp) == (expected, attoseconds)
    alone, among = read_instants([timestamp]), read_instants([USUAL, timestamp, USUAL])
    assert among.microseconds.tolist() == [USUAL_INSTANT, expected, USUAL_INSTANT]
    if attoseconds:
        assert alone.fractions is not None
        assert among.fractions is not None
        assert alone.fractions.tolist() == [attoseconds]
        assert among.fractions.tolist() == [0, attoseconds, 0]
    else:
        assert alone.fractions is among.fractions is None


@given(st.datetimes(), st.text("0123456789", max_size=15))
def test_any_digits_beyond_a_microsecond_are_read(
    moment: datetime, digits: str
) -> None:
    """Twelve more digits are attoseconds; further ones are left out."""
    timestamp = f"{moment.isoformat(timespec='microseconds')}{digits}Z"
    expected = int(f"{digits:0<12}"[:12])
    assert read_exact(timestamp) == (instant_of(timestamp), expected)


@pytest.mark.parametrize("timestamp", UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_timestamp_is_refused_and_named(timestamp: str) -> None:
    """The error quotes the invalid timestamp, wherever it is in the list."""
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


def test_quoted_timestamp_is_cut() -> None:
    """A timestamp of a megabyte does not make an error of a megabyte."""
    with pytest.raises(ValueError, match="unreadable timestamp") as error:
        read_instants(["x" * 1_000_000])
    assert len(str(error.value)) < 100


@pytest.mark.parametrize("size", [BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 3])
@pytest.mark.parametrize("last", [USUAL, "2024-04-29T02:08:29.375001"])
def test_any_number_is_read_in_order(size: int, last: str) -> None:
    """No timestamp is lost or moved where one batch ends and the next begins."""
    milliseconds = range(size)
    timestamps = [f"2024-04-29T02:08:29.{each % 1000:03}Z" for each in milliseconds]
    second = USUAL_INSTANT - 375_000
    expected = [second + each % 1000 * 1000 for each in milliseconds]
    found = microseconds_of([*timestamps, last])
    assert found == [*expected, instant_of(last)]
    with pytest.raises(ValueError, match="unreadable timestamp 'soon'"):
        read_instants([*timestamps, "soon", last])


@pytest.mark.parametrize("place", [0, BATCH - 1, BATCH, 2 * BATCH])
def test_batches_without_fractions_are_filled_up(place: int) -> None:
    """One message with nanoseconds gives all batches a column of fractions."""
    timestamps = [USUAL] * (2 * BATCH + 1)
    timestamps[place] = "2024-04-29T02:08:29.375000001Z"
    instants, fractions = read_instants(timestamps)
    assert fractions is not None
    assert set(instants.tolist()) == {USUAL_INSTANT}
    assert fractions.nonzero()[0].tolist() == [place]
    assert fractions[place] == 10**9


def test_no_timestamps_are_no_instants() -> None:
    """An empty period has columns without elements."""
    instants, fractions = read_instants([])
    assert (instants.tolist(), fractions) == ([], None)


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
    assert microseconds_of(timestamps) == list(map(instant_of, timestamps))


@given(st.lists(moments, max_size=8))
def test_any_moment_at_any_offset_is_read_exactly(moments: list[datetime]) -> None:
    """Offsets and microseconds are kept, whatever the neighbours look like."""
    timestamps = [USUAL, *(moment.isoformat() for moment in moments)]
    assert microseconds_of(timestamps) == list(map(instant_of, timestamps))


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


@given(nearly_moments, st.integers(0, 23), st.sampled_from("059TZz:-. /\u0661"))
def test_either_way_accepts_and_refuses_the_same(
    timestamp: str, place: int, other: str
) -> None:
    """The fast way neither reads what the library refuses nor refuses what it reads."""
    assert_read_like_the_library([timestamp])
    assert_read_like_the_library([timestamp[:place] + other + timestamp[place + 1 :]])
