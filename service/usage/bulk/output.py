"""The output beside the priced messages: totals, rejected rows, and the manifest."""

import csv
import hashlib
import io
import json
import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct
from numpy.typing import NDArray
from pyarrow import fs

from service.usage.bulk.batches import REJECTED
from service.usage.bulk.model import (
    REJECTED_FILE,
    InputFile,
    PartRecord,
    UnitRecord,
    WrittenFile,
)
from service.usage.bulk.parts import SOURCES, describe
from service.usage.bulk.report_table import NO_REPORT
from service.usage.bulk.units import REJECTS, Job, reports_of
from service.usage.bulk.workspace import MANIFEST, Workspace, refuse
from service.web.spreadsheet_cells import escape_formula

TOTALS: Final = "totals.csv"
TOTALS_HEADER: Final = ("day", "report_name", "source", "messages", "credits")
REPEATED: Final = "id: an earlier message has it too"
FORMAT_VERSION: Final = 1
FOLDED_AT_ONCE: Final = 64 * 1024
REJECTED_ROWS: Final = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("content", pa.string()),
    ]
)


class UnreadableFile(Struct, frozen=True, omit_defaults=True):
    """A file of which a part could not be read."""

    path: str
    reason: str


class ManifestInput(Struct, frozen=True):
    """A file of the input."""

    path: str
    format: str
    size_bytes: int
    version: str
    rows: int


class Manifest(Struct, frozen=True):
    """The input and output of a run; `digest` is that of all files of the output."""

    format_version: int
    software: str
    plan: str
    messages: int
    credits: str
    priced_by_report: int
    rejected: int
    unreadable: tuple[UnreadableFile, ...]
    days: int
    digest: str
    inputs: tuple[ManifestInput, ...]
    outputs: tuple[WrittenFile, ...]


class Places:
    """The files of the input, and the first row of each piece in its file, from 1."""

    def __init__(
        self, files: Sequence[InputFile], records: Sequence[UnitRecord]
    ) -> None:
        self.files = files
        self._before: dict[tuple[int, int], int] = {}
        self.rows: Counter[int] = Counter()
        """Rows that were read of each file, by its index."""
        seen: Counter[int] = Counter()
        for record in records:
            for index, each in enumerate(record.pieces):
                file = each.piece.file
                self._before[record.number, index] = seen[file] + 1
                seen[file] += each.rows
                if not each.error:
                    self.rows[file] += each.rows

    def first_row(self, unit: int, piece: int) -> int:
        """Return the number of a piece's first row."""
        return self._before[unit, piece]


def write_totals(job: Job, records: Sequence[PartRecord]) -> WrittenFile:
    """Write the sums by day, source and report name; texts have no name.

    The name of a report may be empty, too.
    """
    names = reports_of(job).names
    sums: dict[tuple[int, bool, str], list[int]] = {}
    for each in (total for record in records for total in record.totals):
        has_report = each.report != NO_REPORT
        name = names[each.report] if has_report else ""
        own = sums.setdefault((each.day, has_report, name), [0, 0])
        own[0] += each.messages
        own[1] += each.hundredths
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(TOTALS_HEADER)
    for (day, has_report, name), (messages, hundredths) in sorted(sums.items()):
        key = np.datetime64(day, "D"), escape_formula(name), SOURCES[has_report]
        writer.writerow((*key, messages, to_text(hundredths)))
    with job.workspace.writing(job.workspace.in_output(TOTALS), is_synced=True) as sink:
        sink.write(out.getvalue().encode())
    return describe(job, TOTALS, len(sums))


def to_text(hundredths: int) -> str:
    """Return hundredths as credits with two decimals."""
    return str(Decimal(hundredths).scaleb(-2))


def write_rejected(
    job: Job,
    units: Sequence[UnitRecord],
    repeated: NDArray[np.void],
    places: Places,
) -> WrittenFile | None:
    """Write the rows that are not priced; None if there are none."""
    if not len(repeated) and not any(each.rejected for each in units):
        return None
    path = job.workspace.in_output(REJECTED_FILE)
    with (
        job.workspace.writing(path, is_synced=True) as sink,
        pq.ParquetWriter(
            sink, REJECTED_ROWS, compression="zstd", compression_level=1
        ) as writer,
    ):
        count = 0
        for table in _rejected_rows(job, units, repeated, places):
            writer.write_table(table)
            count += table.num_rows
    return describe(job, REJECTED_FILE, count)


def _rejected_rows(
    job: Job,
    units: Sequence[UnitRecord],
    repeated: NDArray[np.void],
    places: Places,
) -> Iterator[Any]:
    for unit in units:
        if unit.rejected:
            yield from _stored_rejects(job.workspace, unit, places)
    by_number = {each.number: each for each in units}
    order = np.lexsort((repeated["row"], repeated["piece"], repeated["unit"]))
    for begin in range(0, len(order), FOLDED_AT_ONCE):
        some = repeated[order[begin : begin + FOLDED_AT_ONCE]].tolist()
        files = [by_number[unit].pieces[piece].piece.file for unit, piece, *_ in some]
        yield pa.table(
            [
                [places.files[file].path for file in files],
                [places.first_row(unit, piece) + row for unit, piece, row, _ in some],
                [REPEATED] * len(some),
                [json.dumps({"id": each}) for *_, each in some],
            ],
            schema=REJECTED_ROWS,
        )


def _stored_rejects(
    space: Workspace, unit: UnitRecord, places: Places
) -> Iterator[Any]:
    with space.reading(space.of_unit(unit.number, REJECTS)) as source:
        stored = pa.ipc.open_file(source)
        for index in range(stored.num_record_batches):
            rows = _locate(unit, stored.get_batch(index), places)
            if rows.num_rows:
                yield rows


def _locate(unit: UnitRecord, rows: Any, places: Places) -> Any:
    """Return the output for rows of a unit, without those of unreadable pieces."""
    unreadable = [index for index, each in enumerate(unit.pieces) if each.error]
    if unreadable:
        kept = np.isin(rows["piece"].to_numpy(), unreadable, invert=True)
        rows = rows.filter(pa.array(kept))
    pieces = rows["piece"].to_numpy()
    used = range(len(unit.pieces))
    paths = pa.array([places.files[each.piece.file].path for each in unit.pieces])
    firsts = np.array([places.first_row(unit.number, i) for i in used], np.int64)
    return pa.table(
        [
            paths.take(pa.array(pieces)),
            pa.array(firsts[pieces] + rows["row"].to_numpy()),
            rows[REJECTED.field("reason").name],
            rows[REJECTED.field("content").name],
        ],
        schema=REJECTED_ROWS,
    )


def digest_of(files: Sequence[WrittenFile]) -> str:
    """Return the digest of all files: that of their names and digests."""
    lines = "".join(f"{each.sha256}  {each.path}\n" for each in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def write_manifest(job: Job, manifest: Manifest) -> None:
    """Write the manifest, the last file of the output."""
    body = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    path = job.workspace.in_output(MANIFEST)
    with job.workspace.writing(path, is_synced=True) as sink:
        sink.write(body + b"\n")


def read_manifest(space: Workspace) -> Manifest | None:
    """Return the manifest of complete output; None where the folder has none.

    Other programs write a `manifest.json` too.
    """
    path = space.in_target(MANIFEST)
    if space.system.get_file_info(path).type != fs.FileType.File:
        return None
    with space.system.open_input_stream(path) as source:
        body = source.read()
    try:
        manifest = msgspec.json.decode(body, type=Manifest)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return manifest if manifest.format_version == FORMAT_VERSION else None


def find_other_file(space: Workspace, manifest: Manifest) -> str | None:
    """Return a file or link of a local output that its manifest does not list."""
    own = {MANIFEST, *(each.path for each in manifest.outputs)}
    for parent, folders, files in os.walk(space.target, onerror=refuse):
        below = os.path.relpath(parent, space.target)
        links = (
            each
            for each in folders
            if os.path.islink(os.path.join(parent, each))  # noqa: PTH114, PTH118
        )
        for name in (*files, *links):
            path = posixpath.normpath(posixpath.join(below, name))
            if path not in own:
                return path
    return None
