"""Writing of the output's parts: priced messages of one day, as Parquet."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from service.usage.bulk.model import (
    Part,
    PartRecord,
    PartSlice,
    PartTask,
    Repeated,
    RepeatedRow,
    Total,
    UnitRecord,
    WrittenFile,
)
from service.usage.bulk.repeats import RepeatedIds
from service.usage.bulk.report_table import NO_REPORT, ReportTable
from service.usage.bulk.units import PRICED, Job, reports_of
from service.usage.bulk.workspace import MESSAGES_FOLDER
from service.usage.pricing.plans import Plan

PART_ROWS: Final = 1024 * 1024
"""Upper bound of rows in a file of the output."""
TASK_ROWS: Final = 256 * 1024
"""Small parts are written together up to so many rows."""
GROUP_ROWS: Final = 256 * 1024
CREDITS: Final = pa.decimal128(18, 2)
SOURCES: Final = ("text", "report")
HASHED_BYTES: Final = 1024 * 1024


def plan_tasks(records: Sequence[UnitRecord], repeated: RepeatedIds) -> list[PartTask]:
    """Return the tasks that write the output, by day and in the order of the input."""
    tasks: list[PartTask] = []
    pending: list[Part] = []
    for part in _plan_parts(records):
        if pending and sum(each.rows for each in pending) + part.rows > TASK_ROWS:
            tasks.append(_to_task(len(tasks), pending, repeated))
            pending = []
        pending.append(part)
    if pending:
        tasks.append(_to_task(len(tasks), pending, repeated))
    return tasks


def _to_task(number: int, parts: Sequence[Part], repeated: RepeatedIds) -> PartTask:
    units = {each.unit for part in parts for each in part.slices}
    own = {unit: repeated[unit] for unit in sorted(units) if unit in repeated}
    return PartTask(number, tuple(parts), own)


def _plan_parts(records: Sequence[UnitRecord]) -> Iterator[Part]:
    by_day: dict[int, list[PartSlice]] = {}
    for record in sorted(records, key=lambda each: each.number):
        for day, batch, begin, end in (
            (s.day, s.batch, s.begin, s.end) for s in record.segments
        ):
            own = PartSlice(record.number, batch, begin, end)
            by_day.setdefault(day, []).append(own)
    for day in sorted(by_day):
        slices: list[PartSlice] = []
        rows = number = 0
        for each in by_day[day]:
            if slices and rows + each.end - each.begin > PART_ROWS:
                yield Part(day, number, tuple(slices))
                slices, rows, number = [], 0, number + 1
            slices.append(each)
            rows += each.end - each.begin
        yield Part(day, number, tuple(slices))


def output_schema(plan: Plan) -> Any:
    """Return the schema of the output."""
    steps = pa.struct(
        [pa.field(step.name, CREDITS, nullable=False) for step in plan.steps]
    )
    return pa.schema(
        [
            pa.field("message_id", pa.int64(), nullable=False),
            pa.field("timestamp", pa.string(), nullable=False),
            pa.field("report_name", pa.dictionary(pa.int32(), pa.string())),
            pa.field("credits_used", CREDITS, nullable=False),
            pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            pa.field("steps", steps),
        ]
    )


def write_parts(job: Job, task: PartTask) -> PartRecord:
    """Write the parts of a task, and return their record, which is stored too."""
    files: list[WrittenFile] = []
    totals: list[Total] = []
    repeated: list[RepeatedRow] = []
    for part in task.parts:
        rows = pa.Table.from_batches(_read(job, part, task.repeated, repeated))
        if rows.num_rows:
            files.append(_write(job, part, rows))
            totals.extend(_sum_up(part.day, rows))
    record = PartRecord(task.number, tuple(files), tuple(totals), tuple(repeated))
    job.workspace.store(job.workspace.of_task(task.number), record)
    return record


def _read(
    job: Job,
    part: Part,
    repeated_ids: dict[int, tuple[Repeated, ...]],
    removed: list[RepeatedRow],
) -> Iterator[Any]:
    """Yield the messages of a part without the repeated ones, which are collected."""
    for each in part.slices:
        batch = _open(job, each.unit).get_batch(each.batch)
        rows = batch.slice(each.begin, each.end - each.begin)
        own = repeated_ids.get(each.unit)
        if own is not None:
            keep = _find_kept(rows, own)
            removed.extend(_describe(each.unit, rows.filter(pa.array(~keep))))
            rows = rows.filter(pa.array(keep))
        yield rows


@lru_cache(maxsize=64)
def _open(job: Job, unit: int) -> Any:
    space = job.workspace
    return pa.ipc.open_file(space.reading(space.of_unit(unit, PRICED)))


def _find_kept(rows: Any, repeated: Sequence[Repeated]) -> NDArray[np.bool_]:
    """Return which rows have no repeated id, or are the first with theirs."""
    ids = rows["message_id"].to_numpy()
    found = np.flatnonzero(np.isin(ids, [each.id for each in repeated]))
    keep = np.ones(len(ids), np.bool_)
    kept = {each.id: each.kept for each in repeated}
    pieces, places = rows["piece"].to_numpy(), rows["row"].to_numpy()
    for row in found.tolist():
        place = int(pieces[row]), int(places[row])
        keep[row] = kept[int(ids[row])] == place
    return keep


def _describe(unit: int, rows: Any) -> Iterator[RepeatedRow]:
    columns = (rows[name].to_pylist() for name in ("piece", "row", "message_id"))
    for piece, row, message_id in zip(*columns, strict=True):
        yield RepeatedRow(unit, piece, row, message_id)


def _write(job: Job, part: Part, rows: Any) -> WrittenFile:
    day = np.datetime64(part.day, "D")
    name = f"{MESSAGES_FOLDER}/day={day}/part-{part.number:05}.parquet"
    table = to_output(rows, job.plan, reports_of(job.workspace))
    return write_table(job, name, table)


def to_output(rows: Any, plan: Plan, reports: ReportTable) -> Any:
    """Return the output for priced messages."""
    report = rows["report"].combine_chunks().to_numpy()
    by_report = report != NO_REPORT
    # The names once, because several reports may have the same one.
    names = list(dict.fromkeys(reports.names))
    place_of = {name: place for place, name in enumerate(names)}
    places = np.array([*(place_of[name] for name in reports.names), 0], np.int32)
    amounts = [_to_decimals(rows[step.name]) for step in plan.steps]
    schema = output_schema(plan)
    columns = [
        rows["message_id"],
        rows["timestamp"],
        pa.DictionaryArray.from_arrays(
            pa.array(places[report], mask=~by_report), pa.array(names, pa.string())
        ),
        _to_decimals(rows["hundredths"]),
        pa.DictionaryArray.from_arrays(
            pa.array(by_report.astype(np.int32)), pa.array(SOURCES)
        ),
        pa.StructArray.from_arrays(
            amounts, fields=list(schema.field("steps").type), mask=pa.array(by_report)
        ),
    ]
    return pa.table(columns, schema=schema)


def _to_decimals(column: Any) -> Any:
    """Return hundredths as decimals with two digits behind the point."""
    hundredths = column.to_numpy()
    words = np.empty((len(hundredths), 2), np.int64)
    words[:, 0] = hundredths
    words[:, 1] = words[:, 0] >> 63
    return pa.Array.from_buffers(CREDITS, len(words), [None, pa.py_buffer(words)])


def write_table(job: Job, name: str, table: Any) -> WrittenFile:
    """Write a table as a file of the output; the same rows give the same bytes."""
    space = job.workspace
    path = space.in_output(name)
    space.system.create_dir(path.rpartition("/")[0], recursive=True)
    with space.writing(path, is_synced=True) as sink:
        pq.write_table(
            table,
            sink,
            row_group_size=GROUP_ROWS,
            compression="zstd",
            compression_level=1,
            store_decimal_as_integer=True,
        )
    return describe(job, name, table.num_rows)


def describe(job: Job, name: str, rows: int) -> WrittenFile:
    """Return size and digest of a file of the output."""
    digest, size = hashlib.sha256(), 0
    with job.workspace.system.open_input_stream(
        job.workspace.in_output(name)
    ) as source:
        while block := source.read(HASHED_BYTES):
            digest.update(block)
            size += len(block)
    return WrittenFile(name, size, digest.hexdigest(), rows)


def _sum_up(day: int, rows: Any) -> Iterator[Total]:
    """Yield the totals of each report."""
    report = rows["report"].combine_chunks().to_numpy()
    hundredths = rows["hundredths"].to_numpy()
    indexes, places = np.unique(report, return_inverse=True)
    counts = np.bincount(places)
    sums = np.zeros(len(indexes), np.int64)
    np.add.at(sums, places, hundredths)
    for index, count, total in zip(indexes, counts, sums, strict=True):
        yield Total(day, int(index), int(count), int(total))
