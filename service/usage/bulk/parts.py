"""Writing of the output's parts: priced messages of one day, as Parquet."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from service.usage.bulk.batches import priced_schema
from service.usage.bulk.decimals import CREDITS, to_hundredths
from service.usage.bulk.model import (
    Part,
    PartRecord,
    PartSlice,
    PartTask,
    Total,
    UnitRecord,
    WrittenFile,
)
from service.usage.bulk.repeats import RepeatedIds
from service.usage.bulk.report_table import NO_REPORT, ReportTable
from service.usage.bulk.units import PRICED, Job, reports_of
from service.usage.bulk.workspace import MESSAGES_FOLDER, Workspace
from service.usage.pricing.plans import Plan

PART_ROWS: Final = 1024 * 1024
"""Upper bound of rows in a file of the output."""
TASK_ROWS: Final = 256 * 1024
"""Small parts are written together up to so many rows."""
GROUP_ROWS: Final = 256 * 1024
SOURCES: Final = ("text", "report")
"""Sources of a price: the second one if the message has a report."""
_SOURCE_NAMES: Final = pa.array(SOURCES)
MAX_OPEN_UNITS: Final = 64
"""Files of units that a task has open at once."""
HASHED_BYTES: Final = 1024 * 1024
REPEATED_ROW: Final = np.dtype(
    [("unit", np.int32), ("piece", np.int32), ("row", np.int64), ("id", np.int64)]
)
"""A message that is not priced, because an earlier one has its id."""
PART_PATH: Final = re.compile(r"/day=[0-9]+-[0-9]{2}-[0-9]{2}/part-[0-9]+\.parquet$")
"""Matches paths of parts, and of no other file that a user may have there."""


def plan_tasks(
    records: Sequence[UnitRecord], repeated: frozenset[int]
) -> list[PartTask]:
    """Return the tasks that write the output, by day and in the order of the input."""
    tasks: list[PartTask] = []
    pending: list[Part] = []
    count = 0
    for part in _plan_parts(records):
        rows = part.rows
        if pending and count + rows > TASK_ROWS:
            tasks.append(_to_task(len(tasks), pending, repeated))
            pending, count = [], 0
        pending.append(part)
        count += rows
    if pending:
        tasks.append(_to_task(len(tasks), pending, repeated))
    return tasks


def _to_task(number: int, parts: Sequence[Part], repeated: frozenset[int]) -> PartTask:
    units = {each.unit for part in parts for each in part.slices}
    return PartTask(number, tuple(parts), repeated & units)


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
    steps = priced_schema(plan).field("steps")
    return pa.schema(
        [
            pa.field("message_id", pa.int64(), nullable=False),
            pa.field("timestamp", pa.string(), nullable=False),
            pa.field("report_name", pa.dictionary(pa.int32(), pa.string())),
            pa.field("credits_used", CREDITS, nullable=False),
            pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            steps,
        ]
    )


def write_parts(job: Job, task: PartTask) -> PartRecord:
    """Write the parts of a task, and return their record, which is stored too."""
    files: list[WrittenFile] = []
    totals: list[Total] = []
    repeated: list[NDArray[np.void]] = []
    open_unit = lru_cache(maxsize=MAX_OPEN_UNITS)(partial(_open, job, task.repeated))
    for part in task.parts:
        sums = Sums(reports_of(job))
        batches = _read(open_unit, part, repeated)
        written = _write(job, part, batches, sums)
        if written is not None:
            files.append(written)
        totals.extend(sums.totals(part.day))
    removed = b"".join(each.tobytes() for each in repeated)
    record = PartRecord(task.number, tuple(files), tuple(totals), removed)
    job.workspace.store(job.workspace.of_task(task.number), record)
    return record


def load_written(space: Workspace, task: PartTask) -> PartRecord | None:
    """Return the record of a task that an earlier run has done; None without its files.

    Someone may have removed them: output in a store is seen before it is complete.
    """
    record = space.load(space.of_task(task.number), PartRecord)
    if record is None:
        return None
    paths = [space.in_output(each.path) for each in record.files]
    sizes = [each.size for each in space.system.get_file_info(paths)]
    return record if sizes == [each.size_bytes for each in record.files] else None


def _read(
    open_unit: Callable[[int], "_OpenUnit"],
    part: Part,
    removed: list[NDArray[np.void]],
) -> Iterator[Any]:
    """Yield the messages of a part without the repeated ones, which are collected."""
    for each in part.slices:
        unit = open_unit(each.unit)
        batch = unit.messages.get_batch(each.batch)
        rows = batch.slice(each.begin, each.end - each.begin)
        if unit.repeated is not None:
            ids, pieces, places = map(rows.column, ("message_id", "piece", "row"))
            keep = unit.repeated.find_kept(
                ids.to_numpy(), pieces.to_numpy(), places.to_numpy()
            )
            removed.append(_describe(each.unit, rows.filter(pa.array(~keep))))
            rows = rows.filter(pa.array(keep))
        if rows.num_rows:
            yield rows


class _OpenUnit(NamedTuple):
    """A unit that is read for a part."""

    messages: Any
    """A reader of its record batches."""
    repeated: RepeatedIds | None


def _open(job: Job, repeated: frozenset[int], unit: int) -> _OpenUnit:
    space = job.workspace
    messages = pa.ipc.open_file(space.reading(space.of_unit(unit, PRICED)))
    return _OpenUnit(messages, RepeatedIds(space, unit) if unit in repeated else None)


def _describe(unit: int, rows: Any) -> NDArray[np.void]:
    found = np.empty(rows.num_rows, REPEATED_ROW)
    found["unit"] = unit
    found["piece"], found["row"] = rows["piece"].to_numpy(), rows["row"].to_numpy()
    found["id"] = rows["message_id"].to_numpy()
    return found


def _write(
    job: Job, part: Part, batches: Iterator[Any], sums: "Sums"
) -> WrittenFile | None:
    """Write the messages of a part; None if it has none."""
    first = next(batches, None)
    if first is None:
        return None
    space, schema = job.workspace, output_schema(job.plan)
    names = OutputNames(reports_of(job))
    day = np.datetime64(part.day, "D")
    name = f"{MESSAGES_FOLDER}/day={day}/part-{part.number:05}.parquet"
    path = space.in_output(name)
    space.system.create_dir(path.rpartition("/")[0], recursive=True)
    count = 0
    with (
        space.writing(path, is_synced=True) as sink,
        pq.ParquetWriter(sink, schema, **_parquet_options(schema)) as writer,
    ):
        for group in _group(chain([first], batches)):
            rows = [_to_output(each, schema, names) for each in group]
            table = pa.Table.from_batches(rows)
            writer.write_table(table, row_group_size=table.num_rows)
            count += table.num_rows
            sums.add(group)
    return describe(job, name, count)


def _group(batches: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield the batches of each group of rows, which is in memory as a whole."""
    group: list[Any] = []
    count = 0
    for batch in batches:
        group.append(batch)
        count += batch.num_rows
        if count >= GROUP_ROWS:
            yield group
            group, count = [], 0
    if group:
        yield group


def _parquet_options(schema: Any) -> dict[str, Any]:
    """Return fixed options: other ones, or defaults that change, give other bytes.

    Encodings are those that cost the least processor time, without large files.
    """
    steps = [f"steps.{each.name}" for each in schema.field("steps").type]
    others = ["message_id", "timestamp", "report_name", "credits_used", "source"]
    return {
        "version": "2.6",
        "data_page_version": "1.0",
        "compression": dict.fromkeys(steps, "lz4") | dict.fromkeys(others, "zstd"),
        "use_dictionary": ["report_name", "credits_used", "source"],
        "column_encoding": {
            "message_id": "DELTA_BINARY_PACKED",
            "timestamp": "DELTA_BYTE_ARRAY",
        },
        "write_statistics": ["message_id"],
        "store_decimal_as_integer": True,
        "store_schema": False,
    }


class OutputNames:
    """The names of reports for the output: each once, and by the index of a report."""

    def __init__(self, reports: ReportTable) -> None:
        names = list(dict.fromkeys(reports.names))
        place_of = {name: place for place, name in enumerate(names)}
        # The additional last element is that of `NO_REPORT`, -1, which is masked.
        places = [*(place_of[name] for name in reports.names), 0]
        self._places: NDArray[np.int32] = np.array(places, np.int32)
        self._names = pa.array(names, pa.string())

    def of(self, report: NDArray[np.int32]) -> Any:
        """Return the name of each report; null stands for none."""
        indexes = pa.array(self._places[report], mask=report == NO_REPORT)
        return pa.DictionaryArray.from_arrays(indexes, self._names)


def _to_output(rows: Any, schema: Any, names: OutputNames) -> Any:
    """Return the output for a batch of priced messages."""
    report = rows["report"].to_numpy()
    source = (report != NO_REPORT).astype(np.int32)
    columns = [
        rows["message_id"],
        rows["timestamp"],
        names.of(report),
        rows["credits_used"],
        pa.DictionaryArray.from_arrays(pa.array(source), _SOURCE_NAMES),
        rows["steps"],
    ]
    return pa.record_batch(columns, schema=schema)


class Sums:
    """Messages and hundredths of a part by report; the first place is that of texts."""

    def __init__(self, reports: ReportTable) -> None:
        count = len(reports.names) + 1
        self._messages: NDArray[np.int64] = np.zeros(count, np.int64)
        self._hundredths: NDArray[np.int64] = np.zeros(count, np.int64)

    def add(self, batches: Sequence[Any]) -> None:
        """Add batches of priced messages."""
        for batch in batches:
            places = batch["report"].to_numpy() + 1
            self._messages += np.bincount(places, minlength=len(self._messages))
            np.add.at(self._hundredths, places, to_hundredths(batch["credits_used"]))

    def totals(self, day: int) -> Iterator[Total]:
        """Yield the totals of reports, and of texts, that have messages."""
        for place in np.flatnonzero(self._messages).tolist():
            count, total = self._messages[place], self._hundredths[place]
            yield Total(day, place - 1, int(count), int(total))


def describe(job: Job, name: str, rows: int) -> WrittenFile:
    """Return size and digest of a file of the output."""
    digest, size, space = hashlib.sha256(), 0, job.workspace
    with space.system.open_input_stream(space.in_output(name)) as source:
        while block := source.read(HASHED_BYTES):
            digest.update(block)
            size += len(block)
    return WrittenFile(name, size, digest.hexdigest(), rows)
