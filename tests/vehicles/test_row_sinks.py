"""Rows of look-ups are written as CSV and as Parquet."""

import csv
import io

import pytest
from pyarrow import parquet

from service.vehicles import row_sinks
from service.vehicles.row_sinks import VehicleRow, open_csv, open_parquet
from tests.vehicles.conftest import VIN


@pytest.mark.parametrize("first", "=+-@\t\r\uff1d\uff0b\uff0d\uff20", ids=ascii)
def test_csv_is_never_a_formula(first: str) -> None:
    """A value that a spreadsheet would execute begins with an apostrophe."""
    out = io.BytesIO()
    with open_csv(out) as sink:
        sink.write([VehicleRow(VIN, make=f"{first}x", model="a=b")])
    _, row = csv.reader(io.StringIO(out.getvalue().decode(), newline=""))
    assert row == [VIN, f"'{first}x", "a=b", *[""] * 6]


def test_parquet_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are written in groups, without a loss."""
    monkeypatch.setattr(row_sinks, "ROWS_IN_GROUP", 4)
    out, rows = io.BytesIO(), [VehicleRow(str(number)) for number in range(11)]
    with open_parquet(out) as sink:
        for at in range(0, len(rows), 3):
            sink.write(rows[at : at + 3])
    read = parquet.ParquetFile(out)
    groups = [read.metadata.row_group(at).num_rows for at in range(read.num_row_groups)]
    assert groups == [6, 5]
    assert read.read()["vin"].to_pylist() == [row.vin for row in rows]
