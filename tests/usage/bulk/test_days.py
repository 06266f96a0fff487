"""Days of timestamps, against the parser of the service, and very many of them."""

from pathlib import Path
from typing import Final

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.instants import read_instant
from service.usage.bulk import inputs, units
from service.usage.bulk.days import NO_DAY, US_PER_DAY, read_days
from service.usage.bulk.errors import RunFailed
from tests.usage.bulk.conftest import price
from tests.usage.bulk.files import message, write_messages

_digits: Final = st.text("0123456789", min_size=2, max_size=2)
_near: Final = st.builds(
    "{}{}-{}-{}{}{}:{}:{}.{}0{}".format,
    *(st.sampled_from(["20", "00", "99", "2x"]), st.sampled_from(["24", "23", "00"])),
    *(_digits, _digits, st.sampled_from("T t"), _digits, _digits, _digits, _digits),
    st.sampled_from(["Z", "z", "é", ""]),
)
_valid: Final = st.datetimes().map(
    lambda each: each.isoformat(timespec="milliseconds") + "Z"
)


def expected(timestamp: str) -> int:
    try:
        return read_instant(timestamp) // US_PER_DAY
    except ValueError:
        return NO_DAY


@given(st.lists(st.one_of(_near, _valid), min_size=1, max_size=5))
@example(["0000-01-01T00:00:00.000Z"])
@example(["2024-00-10T00:00:00.000Z"])
@example(["2023-02-29T00:00:00.000Z"])
@example(["2024-04-29T23:59:59.999Z", "2024-04-29T29:59:59.999Z"])
def test_days_are_those_of_the_parser(timestamps: list[str]) -> None:
    """Eight characters at a time have the same result as one timestamp at a time."""
    column = pa.array([each.encode() for each in timestamps], pa.binary())
    assert read_days(column).tolist() == list(map(expected, timestamps))


@given(st.lists(_valid, min_size=1, max_size=5))
def test_valid_timestamps_in_a_sliced_column(timestamps: list[str]) -> None:
    """A slice that begins anywhere in the memory has the days of its timestamps."""
    column = pa.array([b"x", *(each.encode() for each in timestamps)], pa.binary())
    assert read_days(column.slice(1)).tolist() == list(map(expected, timestamps))


@pytest.mark.parametrize(
    "bound, reason",
    [
        ("MAX_DAYS", "the messages have more than 3 days; price them in several runs"),
        ("MAX_SEGMENTS", "too many days follow each other in no order; order the"),
    ],
)
@pytest.mark.parametrize("unit_bytes", [1, inputs.UNIT_BYTES])
def test_very_many_days(
    bound: str,
    reason: str,
    unit_bytes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Too many days end the run with one line, in one unit and in many."""
    days = [f"{year:04}-04-29T03:25:03.613Z" for year in (1, 1970, 2024, 9999)]
    rows = [{**message(at), "timestamp": day} for at, day in enumerate(days)]
    monkeypatch.setattr(inputs, "UNIT_BYTES", unit_bytes)
    source = write_messages(tmp_path / "in.parquet", rows, group_rows=1)
    monkeypatch.setattr(units, bound, 3)
    for _ in range(2):  # also for the records of the run before
        with pytest.raises(RunFailed, match=reason):
            price(source, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(units, bound, 4)
    assert price(source, output=tmp_path / "out").days == len(days)
