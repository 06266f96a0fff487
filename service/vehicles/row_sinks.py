"""Sinks for the rows of a look-up: CSV and Parquet."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, Final, NamedTuple, Protocol

from service.web.spreadsheet_cells import escape_formula

ROWS_IN_GROUP: Final = 16_384
"""Rows in a group of Parquet: some megabytes."""


class VehicleRow(NamedTuple):
    """A row of output; empty texts are unknown."""

    vin: str
    make: str = ""
    model: str = ""
    model_year: str = ""
    body_class: str = ""
    error: str = ""
    """Code of the problem, if there is no vehicle."""
    warnings: str = ""
    """Names of the doubts, with spaces between them."""
    detail: str = ""
    """What is wrong, or the model years that the VIN leaves open."""
    source: str = ""
    """`offline` for a vehicle from the local copy of vPIC's database."""


class RowSink(Protocol):
    """Output that receives rows in batches."""

    def write(self, rows: Sequence[VehicleRow]) -> None: ...


class CsvSink:
    """Writes CSV (RFC 4180) with a header; formulas are escaped for spreadsheets."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.write([VehicleRow(*VehicleRow._fields)])

    def write(self, rows: Sequence[VehicleRow]) -> None:
        """Write rows."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows([map(escape_formula, row) for row in rows])
        self._out.write(text.getvalue().encode("utf-8"))


class ParquetSink:
    """Writes Parquet, with text columns; buffers rows until they fill a group."""

    def __init__(self, out: BinaryIO) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._make_table = pa.Table.from_arrays
        fields = [
            pa.field(name, pa.string(), nullable=False) for name in VehicleRow._fields
        ]
        self._schema = pa.schema(fields)
        self._array = pa.array
        self._writer = pq.ParquetWriter(out, self._schema)
        self._rows: list[VehicleRow] = []

    def write(self, rows: Sequence[VehicleRow]) -> None:
        """Buffer rows, and write a group if there are enough."""
        self._rows += rows
        if len(self._rows) >= ROWS_IN_GROUP:
            self._write_group()

    def close(self) -> None:
        """Write the last group and the footer."""
        if self._rows:
            self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        columns = [self._array(column) for column in zip(*self._rows, strict=True)]
        self._writer.write_table(self._make_table(columns, schema=self._schema))
        self._rows = []


@contextmanager
def open_csv(out: BinaryIO) -> Iterator[RowSink]:
    """Open a sink for CSV."""
    yield CsvSink(out)


@contextmanager
def open_parquet(out: BinaryIO) -> Iterator[RowSink]:
    """Open a sink for Parquet; the file is complete at the end."""
    sink = ParquetSink(out)
    try:
        yield sink
    finally:
        sink.close()


OpenSink = Callable[[BinaryIO], AbstractContextManager[RowSink]]
