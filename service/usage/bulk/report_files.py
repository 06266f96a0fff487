"""The reports of a run: read from a file, and stored in the work folder."""

import hashlib
import json
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from service.upstream import lenient_json
from service.usage.bulk.csv_rows import (
    COMPRESSIONS,
    QuotedSource,
    open_text,
    read_header,
)
from service.usage.bulk.errors import BadReports, UnreadablePiece
from service.usage.bulk.report_table import ReportTable
from service.usage.bulk.workspace import Workspace, first_line, locate
from service.usage.reports import Report
from service.usage.snapshots.build import ReportPrice
from service.usage.snapshots.messages import report_key

REPORTS_FILE: Final = "reports.json"
COLUMNS: Final = ("id", "name", "credit_cost")
SUFFIXES: Final = "the suffix .ndjson, .jsonl, .csv, .parquet or .pq"
_UNREADABLE: Final = (
    pa.ArrowException,
    OSError,
    ValueError,
    RecursionError,
    UnreadablePiece,
)

_decoder: Final = msgspec.json.Decoder(dict[str, tuple[str, int] | None])


def read_reports(name: str) -> dict[str, ReportPrice]:
    """Return the reports of a file by their keys; raises `BadReports`."""
    reports: dict[str, ReportPrice] = {}
    try:
        rows = _read_rows(name)
    except _UNREADABLE as error:
        raise BadReports(f"{name}: {first_line(error)}") from error
    for number, row in enumerate(rows, start=1):
        try:
            report = msgspec.convert(row, Report, strict=False)
        except msgspec.ValidationError as error:
            raise BadReports(f"{name}: report {number}: {error}") from error
        # The conversion makes a number of "007", which is another id than "7".
        key = report_key(row["id"] if isinstance(row["id"], str) else report.id)
        if key is None:
            raise BadReports(f"{name}: report {number}: the id is not usable")
        if lenient_json.has_surrogate(report.name):
            raise BadReports(f"{name}: report {number}: the name is not usable")
        price = ReportPrice(report.name, round(report.credit_cost * 100))
        if reports.setdefault(key, price) != price:
            raise BadReports(f"{name}: report {number}: the id {key} has two prices")
    return reports


def _read_rows(name: str) -> list[Any]:
    stem, suffix = posixpath.splitext(name.lower())
    if suffix in COMPRESSIONS:
        suffix = posixpath.splitext(stem)[1]
    if suffix in {".parquet", ".pq"}:
        return _read_parquet(name)
    if suffix == ".csv":
        return _read_csv(name)
    with open_text(name) as source:
        body = source.read()
    if suffix in {".ndjson", ".jsonl"}:
        return [json.loads(line) for line in body.splitlines() if line.strip()]
    return _decode_list(body, suffix)


def _decode_list(body: bytes, suffix: str) -> list[Any]:
    try:
        decoded = json.loads(body)
    except ValueError as error:
        if suffix == ".json":
            raise
        raise ValueError(f"expected JSON; other formats have {SUFFIXES}") from error
    if not isinstance(decoded, list):
        raise ValueError("expected a list of reports")
    return decoded


def _read_parquet(name: str) -> list[Any]:
    system, path = locate(name)
    with system.open_input_file(path) as source:
        table = pq.ParquetFile(source).read()
    _check_columns(table.column_names)
    return list(table.to_pylist())


def _read_csv(name: str) -> list[Any]:
    header = read_header(name)
    if header is None:
        raise ValueError("the file is empty")
    _check_columns(header.names)
    with open_text(name) as source:
        table: Any = pc_csv.read_csv(
            pa.PythonFile(QuotedSource(source, header.delimiter), "r"),
            read_options=pc_csv.ReadOptions(use_threads=False),
            parse_options=pc_csv.ParseOptions(
                delimiter=header.delimiter, newlines_in_values=True
            ),
            convert_options=pc_csv.ConvertOptions(
                column_types={"id": pa.string(), "name": pa.string()},
                include_columns=[each for each in COLUMNS if each in header.names],
            ),
        )
    return list(table.to_pylist())


def _check_columns(names: Sequence[str]) -> None:
    for name in COLUMNS:
        if names.count(name) > 1:
            raise ValueError(f"several columns {name}")


def store_reports(space: Workspace, reports: Mapping[str, ReportPrice | None]) -> None:
    """Store the reports of a run; None is a report that does not exist."""
    body = msgspec.json.encode(dict(sorted(reports.items())))
    with space.writing(space.in_work(REPORTS_FILE)) as sink:
        sink.write(body)


def stored_reports(space: Workspace) -> dict[str, ReportPrice | None]:
    """Return the reports that are stored so far."""
    path = space.in_work(REPORTS_FILE)
    if not space.exists(path):
        return {}
    with space.system.open_input_stream(path) as source:
        stored = _decoder.decode(source.read())
    return {key: ReportPrice(*each) if each else None for key, each in stored.items()}


def digest_of_reports(reports: Mapping[str, ReportPrice | None]) -> str:
    """Return a digest of reports, of which equal ones have the same."""
    body = msgspec.json.encode(sorted(reports.items()))
    return hashlib.sha256(body).hexdigest()


def load_reports(space: Workspace) -> ReportTable:
    """Return the reports that exist, as columns."""
    stored = stored_reports(space)
    return ReportTable({key: each for key, each in stored.items() if each is not None})
