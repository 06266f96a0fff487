"""Pricing of a unit: its messages go to a file of the work folder, with a record.

The record is written last. So a run that was interrupted has for each unit either a
record and complete files, or no record.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
from msgspec import Struct
from numpy.typing import NDArray

from service.usage.bulk.batches import PricedBatch, price_batch, priced_schema
from service.usage.bulk.errors import RunFailed, UnreadablePiece
from service.usage.bulk.model import (
    FENCE_IDS,
    PieceRecord,
    Segment,
    Unit,
    UnitRecord,
)
from service.usage.bulk.reading import (
    ReadBatch,
    count_unreadable_rows,
    read_piece,
)
from service.usage.bulk.report_files import load_reports
from service.usage.bulk.report_table import ReportTable
from service.usage.bulk.workspace import Workspace
from service.usage.pricing.plans import PLANS_BY_ID, Plan

PRICED: Final = "arrow"
IDS: Final = "ids"
REJECTS: Final = "rejected"
RECORD: Final = "record"
"""Suffixes of a unit's files."""
REPEATED: Final = np.dtype([("id", np.int64), ("piece", np.int32), ("row", np.int64)])
"""An id that a unit has several times: only the row at this place is kept.

Arrays, because input that has each message twice has as many of them as messages.
"""
REJECTED_AT_ONCE: Final = 64 * 1024
"""Rejected rows that are written together, at most about."""
REJECTED_BYTES: Final = 16 * 1024 * 1024
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
        rows = count_unreadable_rows(unit.files[index], piece)
        return PieceRecord(piece, rows, str(error))
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
        self._rejected = 0
        self._batches = 0

    def __enter__(self) -> "_UnitWriter":
        with ExitStack() as files:
            path = self._space.of_unit(self._number, PRICED)
            sink = files.enter_context(self._space.writing(path))
            self._writer = files.enter_context(pa.ipc.new_file(sink, self._schema))
            path = self._space.of_unit(self._number, REJECTS)
            self._rejects = files.enter_context(_RejectedWriter(self._space, path))
            self._files = files.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._files.__exit__(*raised)

    def mark(self) -> tuple[int, int, int]:
        """Return what is collected so far."""
        return len(self._segments), len(self._ids), self._rejected

    def forget(self, mark: tuple[int, int, int]) -> None:
        """Go back to a mark; the files keep rows that the record does not count."""
        segments, ids, self._rejected = mark
        del self._segments[segments:], self._ids[ids:], self._places[ids:]

    def add(self, piece: int, read: ReadBatch, priced: PricedBatch) -> None:
        """Write the messages of a batch."""
        rejected = pa.Table.from_batches([read.rejected, priced.rejected])
        if rejected.num_rows:
            self._rejects.add(rejected.sort_by("row"), piece)
            self._rejected += rejected.num_rows
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
        """Write the ids, and return the record."""
        ids = np.concatenate([*self._ids, np.zeros(0, np.int64)])
        repeated = b""
        if not (np.diff(ids) > 0).all():
            repeated, ids = self._find_repeated(ids), np.unique(ids)
        with self._space.writing(self._space.of_unit(self._number, IDS)) as sink:
            sink.write(ids.tobytes())
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
            rejected=self._rejected,
        )

    def _find_repeated(self, ids: NDArray[np.int64]) -> bytes:
        """Return the ids that the unit has several times, with their first rows."""
        pieces = np.concatenate([np.full(len(r), p) for p, r in self._places])
        rows = np.concatenate([rows for _, rows in self._places])
        order = np.lexsort((rows, pieces, ids))
        same = ids[order][1:] == ids[order][:-1]
        first = same & ~np.concatenate([[False], same[:-1]])
        kept = order[:-1][first]
        found = np.empty(len(kept), REPEATED)
        found["id"], found["piece"], found["row"] = ids[kept], pieces[kept], rows[kept]
        return found.tobytes()


class _RejectedWriter:
    """Writes rejected rows as they come, into a file that exists if there are any.

    A piece that is unreadable later keeps its rows there; readers leave them out.
    """

    def __init__(self, space: Workspace, path: str) -> None:
        self._space, self._path = space, path
        self._files = ExitStack()
        self._writer: Any = None
        self._waiting: list[Any] = []
        self._rows = self._bytes = 0

    def __enter__(self) -> "_RejectedWriter":
        return self

    def __exit__(self, *raised: Any) -> None:
        if raised[0] is not None:
            self._files.__exit__(*raised)
            return
        with self._files:
            self._write()

    def add(self, rows: Any, piece: int) -> None:
        """Add rows of a piece, in their order."""
        own = pa.array(np.full(rows.num_rows, piece, np.int32))
        self._waiting.append(rows.append_column("piece", own))
        self._rows += rows.num_rows
        self._bytes += rows.nbytes
        if self._rows >= REJECTED_AT_ONCE or self._bytes >= REJECTED_BYTES:
            self._write()

    def _write(self) -> None:
        if not self._waiting:
            return
        rows = pa.concat_tables(self._waiting).combine_chunks()
        self._waiting.clear()
        self._rows = self._bytes = 0
        if self._writer is None:
            sink = self._files.enter_context(self._space.writing(self._path))
            writer = pa.ipc.new_file(sink, rows.schema)
            self._writer = self._files.enter_context(writer)
        self._writer.write_table(rows)


def _segments(days: NDArray[np.int64], batch: int) -> Iterator[Segment]:
    """Yield the runs of equal days."""
    cuts = (np.flatnonzero(np.diff(days)) + 1).tolist()
    for begin, end in zip([0, *cuts], [*cuts, len(days)], strict=True):
        yield Segment(int(days[begin]), batch, begin, end)
