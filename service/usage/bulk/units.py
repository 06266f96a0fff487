"""Pricing of a unit: its messages go to a file of the work folder, with a record.

The record is written last. So a run that was interrupted has for each unit either a
record and complete files, or no record.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
from msgspec import Struct
from numpy.typing import NDArray

from service.usage.bulk.batches import REJECTED, PricedBatch, price_batch, priced_schema
from service.usage.bulk.errors import RunFailed, UnreadablePiece
from service.usage.bulk.model import (
    FENCE_IDS,
    PieceRecord,
    Repeated,
    Segment,
    Unit,
    UnitRecord,
)
from service.usage.bulk.reading import ReadBatch, read_piece
from service.usage.bulk.report_files import load_reports
from service.usage.bulk.report_table import ReportTable
from service.usage.bulk.workspace import Workspace
from service.usage.pricing.plans import PLANS_BY_ID, Plan

PRICED: Final = "arrow"
IDS: Final = "ids"
REJECTS: Final = "rejected"
RECORD: Final = "record"
"""Suffixes of a unit's files."""
MAX_DAYS: Final = 20_000
"""Upper bound of different days: each is a folder of the output."""
MAX_SEGMENTS: Final = 4_000_000
"""Upper bound of days in batches, which bounds the memory of the process that plans."""


class Job(Struct, frozen=True):
    """All that workers need to know of a run, beside their tasks.

    It is small, because each task is sent with it and looks up reports by it.
    """

    workspace: Workspace
    plan_id: str
    software: str
    reports: str = ""
    """A digest of the reports in the work folder."""

    @property
    def plan(self) -> Plan:
        """The plan that prices texts."""
        return PLANS_BY_ID[self.plan_id]


@lru_cache(maxsize=1)
def reports_of(job: Job) -> ReportTable:
    """Return the reports of a run, which a worker loads once."""
    return load_reports(job.workspace)


def price_unit(job: Job, unit: Unit) -> UnitRecord:
    """Price a unit, and return its record, which is stored too."""
    with _UnitWriter(job, unit.number) as writer:
        pieces = tuple(
            _price_piece(job, unit, index, writer) for index in range(len(unit.pieces))
        )
    record = writer.finish(pieces)
    job.workspace.store(job.workspace.of_unit(unit.number, RECORD), record)
    return record


def _price_piece(
    job: Job, unit: Unit, index: int, writer: "_UnitWriter"
) -> PieceRecord:
    """Price a piece; none of its messages count if a part of it is unreadable."""
    piece, mark, rows = unit.pieces[index], writer.mark(), 0
    reports = reports_of(job)
    try:
        for batch in read_piece(unit.files[index], piece):
            priced = price_batch(batch.messages, job.plan, reports)
            writer.add(index, batch, priced)
            rows = batch.rows
    except UnreadablePiece as error:
        writer.forget(mark)
        return PieceRecord(piece, error=str(error))
    return PieceRecord(piece, rows)


class DayBounds:
    """Counts the days of messages, so that no input needs memory without bound."""

    def __init__(self) -> None:
        self._days: set[int] = set()
        self._segments = 0

    def add(self, segments: Sequence[Segment]) -> None:
        """Count the days of a batch or a unit; raises `RunFailed` beyond a bound."""
        self._days.update(each.day for each in segments)
        self._segments += len(segments)
        if len(self._days) > MAX_DAYS:
            raise RunFailed(
                f"the messages have more than {MAX_DAYS:,} days; "
                "price them in several runs, by year"
            )
        if self._segments > MAX_SEGMENTS:
            raise RunFailed(
                "too many days follow each other in no order; "
                "order the messages by timestamp, or price them in several runs"
            )


class _UnitWriter:
    """Writes the messages of a unit, and collects what its record has."""

    def __init__(self, job: Job, number: int) -> None:
        self._space, self._number = job.workspace, number
        self._schema = priced_schema(job.plan).append(pa.field("piece", pa.int32()))
        self._segments: list[Segment] = []
        self._bounds = DayBounds()
        self._ids: list[NDArray[np.int64]] = []
        self._places: list[tuple[int, NDArray[np.int64]]] = []
        self._rejected: list[Any] = []
        self._batches = 0

    def __enter__(self) -> "_UnitWriter":
        path = self._space.of_unit(self._number, PRICED)
        self._opened = self._space.writing(path)
        self._writer = pa.ipc.new_file(self._opened.__enter__(), self._schema)
        return self

    def __exit__(self, *raised: Any) -> None:
        try:
            if raised[0] is None:
                self._writer.close()
        finally:
            self._opened.__exit__(*raised)

    def mark(self) -> tuple[int, int, int]:
        """Return what is collected so far."""
        return len(self._segments), len(self._ids), len(self._rejected)

    def forget(self, mark: tuple[int, int, int]) -> None:
        """Go back to a mark; batches stay in the file, but no segment names them."""
        segments, ids, rejected = mark
        del self._segments[segments:], self._ids[ids:], self._places[ids:]
        del self._rejected[rejected:]

    def add(self, piece: int, read: ReadBatch, priced: PricedBatch) -> None:
        """Write the messages of a batch."""
        for rejected in (read.rejected, priced.rejected):
            if rejected.num_rows:
                own = np.full(rejected.num_rows, piece, np.int32)
                self._rejected.append(rejected.append_column("piece", pa.array(own)))
        messages = priced.messages
        if not messages.num_rows:
            return
        own = np.full(messages.num_rows, piece, np.int32)
        self._writer.write_batch(messages.append_column("piece", pa.array(own)))
        segments = list(_segments(priced.days, self._batches))
        self._bounds.add(segments)
        self._segments += segments
        self._batches += 1
        self._ids.append(messages["message_id"].to_numpy())
        self._places.append((piece, messages["row"].to_numpy()))

    def finish(self, pieces: tuple[PieceRecord, ...]) -> UnitRecord:
        """Write the ids and the rejected rows, and return the record."""
        ids = np.concatenate([*self._ids, np.zeros(0, np.int64)])
        repeated: tuple[Repeated, ...] = ()
        if not (np.diff(ids) > 0).all():
            repeated, ids = self._find_repeated(ids), np.unique(ids)
        with self._space.writing(self._space.of_unit(self._number, IDS)) as sink:
            sink.write(ids.tobytes())
        rejected = self._write_rejected()
        first, last = (int(ids[0]), int(ids[-1])) if len(ids) else (0, 0)
        return UnitRecord(
            number=self._number,
            pieces=pieces,
            segments=tuple(self._segments),
            ids=len(ids),
            first_id=first,
            last_id=last,
            fences=tuple(ids[::FENCE_IDS].tolist()),
            repeated=repeated,
            rejected=rejected,
        )

    def _find_repeated(self, ids: NDArray[np.int64]) -> tuple[Repeated, ...]:
        """Return the ids that the unit has several times, with their first rows."""
        pieces = np.concatenate([np.full(len(r), p) for p, r in self._places])
        rows = np.concatenate([rows for _, rows in self._places])
        order = np.lexsort((rows, pieces, ids))
        same = ids[order][1:] == ids[order][:-1]
        first = same & ~np.concatenate([[False], same[:-1]])
        kept = order[:-1][first]
        columns = ids[kept].tolist(), pieces[kept].tolist(), rows[kept].tolist()
        return tuple(
            Repeated(each, (piece, row))
            for each, piece, row in zip(*columns, strict=True)
        )

    def _write_rejected(self) -> int:
        path = self._space.of_unit(self._number, REJECTS)
        schema = REJECTED.append(pa.field("piece", pa.int32()))
        rows = pa.Table.from_batches(self._rejected, schema=schema)
        rows = rows.sort_by([("piece", "ascending"), ("row", "ascending")])
        if rows.num_rows:
            with (
                self._space.writing(path) as sink,
                pa.ipc.new_file(sink, schema) as writer,
            ):
                writer.write_table(rows)
        count: int = rows.num_rows
        return count


def _segments(days: NDArray[np.int64], batch: int) -> Iterator[Segment]:
    """Yield the runs of equal days."""
    cuts = (np.flatnonzero(np.diff(days)) + 1).tolist()
    for begin, end in zip([0, *cuts], [*cuts, len(days)], strict=True):
        yield Segment(int(days[begin]), batch, begin, end)
