"""Files of an export: the items of a period as CSV or Parquet, made rows by rows.

Both have the same columns; docs/keep-periods.md describes them. The steps of a price
add up to `credits_used`, also where a report is the only step.
"""

import csv
import io
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from service.usage.pricing.plans import HUNDREDTHS_PER_CREDIT, PLANS_BY_ID
from service.usage.pricing.timestamps import read_instants
from service.usage.snapshots.columns import REPORT_STEP
from service.usage.snapshots.item_rows import ItemRows
from service.web.spreadsheet_cells import escape_formula
from service.web.written_bytes import WrittenBytes

GROUP_ROWS: Final = 32_768
"""Rows in a group of Parquet: some megabytes."""
STEP_PREFIX: Final = "step_"
CREDIT_DIGITS: Final = 19
"""Decimal digits of the largest int64."""
CREDIT_SCALE: Final = 2
TEXTS: Final = ("report_name", "source", "plan")
"""Columns with few distinct values, which Parquet encodes as dictionaries."""


class ExportFormat(StrEnum):
    """Format of an export."""

    CSV = "csv"
    PARQUET = "parquet"


MEDIA_TYPES: Final = {
    ExportFormat.CSV: "text/csv",
    ExportFormat.PARQUET: "application/vnd.apache.parquet",
}


class ExportFile(Protocol):
    """Encodes rows as a file; its calls belong into a thread."""

    def add(self, rows: ItemRows) -> bytes:
        """Add rows, and return the bytes of the file that are complete."""

    def end(self) -> bytes:
        """Return the last bytes of the file."""


class CsvFile:
    """Encodes CSV; texts are in quotation marks, and formulas have an apostrophe."""

    def __init__(self, plan: str) -> None:
        self._unsent = _csv_lines([column_names(plan)])

    def add(self, rows: ItemRows) -> bytes:
        """Return the lines of the rows."""
        times = np.array(read_instants(rows.timestamps).microseconds, "datetime64[us]")
        names = ["" if name is None else escape_formula(name) for name in rows.names]
        columns = [
            rows.ids.tolist(),
            rows.timestamps,
            np.datetime_as_string(times, timezone="UTC").tolist(),
            names,
            _to_credits(rows.hundredths),
            _sources(rows),
            [rows.plan] * len(rows),
            *(_to_credits(each) for each in _steps(rows)),
        ]
        head, self._unsent = self._unsent, b""
        return head + _csv_lines(zip(*columns, strict=True))

    def end(self) -> bytes:
        """Return the header if there were no rows."""
        return self._unsent


class ParquetFile:
    """Encodes Parquet; credits are decimals with two places, so that sums are exact."""

    def __init__(self, plan: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._arrow = pa
        self._credits = pa.decimal128(CREDIT_DIGITS, CREDIT_SCALE)
        types = {
            "message_id": pa.int64(),
            "timestamp": pa.string(),
            "instant": pa.timestamp("us", "UTC"),
        } | dict.fromkeys(TEXTS, pa.string())
        self._schema = pa.schema(
            [
                pa.field(
                    name, types.get(name, self._credits), nullable=name == "report_name"
                )
                for name in column_names(plan)
            ]
        )
        self._out = WrittenBytes()
        self._writer = pq.ParquetWriter(
            self._out, self._schema, use_dictionary=list(TEXTS)
        )
        self._tables: list[Any] = []

    def add(self, rows: ItemRows) -> bytes:
        """Add rows, and return the bytes of the groups that are complete."""
        self._tables.append(self._table(rows))
        if sum(len(each) for each in self._tables) >= GROUP_ROWS:
            self._write_group()
        return self._out.take()

    def end(self) -> bytes:
        """Return the last group and the footer."""
        if self._tables:
            self._write_group()
        self._writer.close()
        return self._out.take()

    def _table(self, rows: ItemRows) -> Any:
        pa, count = self._arrow, len(rows)
        instants = read_instants(rows.timestamps).microseconds
        columns = [
            pa.array(rows.ids),
            pa.array(rows.timestamps, pa.string()),
            pa.array(instants).cast(pa.timestamp("us", "UTC")),
            pa.array(rows.names, pa.string()),
            self._decimals(rows.hundredths),
            pa.array(_sources(rows), pa.string()),
            pa.array([rows.plan] * count, pa.string()),
            *(self._decimals(each) for each in _steps(rows)),
        ]
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _decimals(self, hundredths: NDArray[np.int64]) -> Any:
        # A decimal of Arrow is an integer of 128 bits, the low half first.
        halves = np.stack([hundredths, hundredths >> 63], axis=1)
        content = self._arrow.py_buffer(np.ascontiguousarray(halves, "<i8"))
        return self._arrow.Array.from_buffers(
            self._credits, len(hundredths), [None, content]
        )

    def _write_group(self) -> None:
        table = self._arrow.concat_tables(self._tables).combine_chunks()
        self._writer.write_table(table)
        self._tables = []


FILES: Final[dict[ExportFormat, Callable[[str], ExportFile]]] = {
    ExportFormat.CSV: CsvFile,
    ExportFormat.PARQUET: ParquetFile,
}
"""Opens a file for the items of a plan, by its id."""


def column_names(plan: str) -> list[str]:
    """Return the names of the columns, of which the steps depend on the plan."""
    steps = [REPORT_STEP, *(step.name for step in PLANS_BY_ID[plan].steps)]
    fixed = "message_id", "timestamp", "instant", "report_name", "credits_used"
    return [*fixed, "source", "plan", *(f"{STEP_PREFIX}{name}" for name in steps)]


def _steps(rows: ItemRows) -> list[NDArray[np.int64]]:
    """Return the amounts of each step, that of reports first, in hundredths."""
    by_report = np.array([name is not None for name in rows.names], bool)
    return [np.where(by_report, rows.hundredths, 0), *rows.steps]


def _sources(rows: ItemRows) -> list[str]:
    return ["text" if name is None else "report" for name in rows.names]


def _to_credits(hundredths: NDArray[np.int64]) -> list[float]:
    in_credits: list[float] = (hundredths / HUNDREDTHS_PER_CREDIT).tolist()
    return in_credits


def _csv_lines(rows: Iterator[tuple[object, ...]] | list[list[str]]) -> bytes:
    out = io.StringIO(newline="")
    # Quotation marks also protect a text where the separator is a semicolon.
    csv.writer(out, quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    return out.getvalue().encode("utf-8")
