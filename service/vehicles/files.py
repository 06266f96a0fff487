"""Looks a file of VINs up with no server: one a line in, CSV or Parquet out.

Lines are read, looked up and written some at a time, in the order of the file and in
constant memory. A VIN that is none, or has no vehicle, is a row that says so; a line
that no list of VINs has ends the run, after all before it have been written.
"""

import codecs
import csv
import io
import re
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing, contextmanager
from itertools import count
from typing import BinaryIO, Final, Literal, NamedTuple, Protocol

from service.terminal import printable
from service.vehicles.errors import InvalidVin, VehiclesError
from service.vehicles.model import Found
from service.vehicles.vin import parse_vin, shown
from service.vehicles.vpic import MAX_BATCH

MAX_LINE_BYTES: Final = 1_000
"""Far beyond any VIN, however it is padded."""
ROWS_IN_GROUP: Final = 16_384
"""Rows that are written to Parquet together: some megabytes."""
NUL: Final = "\0"

# As in the files of the dashboard; the wide forms do so in some languages.
_FORMULA: Final = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


class UnreadableFile(Exception):
    """The file cannot be read, or is no list of VINs; the text says why."""


class Row(NamedTuple):
    """A line of output; empty texts are unknown."""

    vin: str
    make: str = ""
    model: str = ""
    model_year: str = ""
    body_class: str = ""
    error: str = ""
    """The code of why there is no vehicle."""


class Result(NamedTuple):
    """What came of one line."""

    row: Row
    how: Literal["kept", "told", "unkept", "offline", "failed"]
    """Where the vehicle comes from; `unkept` was told, but could not be kept."""


Ask = Callable[[Sequence[str]], "Future[list[Result]]"]
"""Begins to look up what some lines hold."""


class Tally(Counter[str]):
    """How many lines came to what, so far: how they were told, or their error."""

    def add(self, results: Sequence[Result]) -> None:
        """Count them."""
        self.update(result.row.error or result.how for result in results)

    @property
    def failed(self) -> int:
        """Those that may do better another time."""
        return self["vehicle_unavailable"]

    def summary(self) -> str:
        """The same in words."""
        told = {
            "VINs": self.total(),
            "from the cache": self["kept"],
            "from vPIC": self["told"] + self["unkept"],
            "decoded offline": self["offline"],
            "not decoded": self["vin_not_decoded"],
            "invalid": self["invalid_vin"],
            "failed": self.failed,
            "told, but not kept": self["unkept"],
        }
        rare = ("decoded offline", "told, but not kept")
        return "; ".join(
            f"{what}: {number}"
            for what, number in told.items()
            if number or what not in rare
        )


class Sink(Protocol):
    """Where rows go, some at a time."""

    def write(self, rows: Sequence[Row]) -> None: ...


def look_up_file(
    source: BinaryIO, sink: Sink, ask: Ask, most: int, tally: Tally
) -> None:
    """Look up every VIN of `source`, and write what comes of it to `sink`.

    At most so many batches are held, asked for or waiting for those before them. Raises
    `UnreadableFile` when all before the bad line has been written, and what `ask` does;
    an `OSError` is of the sink.
    """
    with closing(_in_order(read_texts(source), ask, most)) as batches:
        for results in batches:
            sink.write([result.row for result in results])
            tally.add(results)


def _in_order(
    batches: Iterator[Sequence[str]], ask: Ask, most: int
) -> Generator[list[Result], None, None]:
    """What comes of each batch; what ends them early is raised after those before."""
    pending: deque[Future[list[Result]]] = deque()

    def drain() -> Iterator[list[Result]]:
        while pending:
            yield pending.popleft().result()

    try:
        for texts in batches:
            pending.append(ask(texts))
            if len(pending) >= most:
                yield pending.popleft().result()
        yield from drain()
    except UnreadableFile:
        yield from drain()
        raise
    finally:
        for each in pending:
            each.cancel()


def read_texts(source: BinaryIO) -> Iterator[Sequence[str]]:
    """The lines of a file that are not blank, some at a time.

    Raises `UnreadableFile` when those before the bad line have been given.
    """
    texts: list[str] = []
    try:
        for text in filter(None, _read_lines(source)):
            texts.append(text)
            if len(texts) == MAX_BATCH:
                yield texts
                texts = []
    except UnreadableFile:
        yield texts
        raise
    yield texts


def to_result(text: str, came: Found | VehiclesError) -> Result:
    """The result of a line."""
    if isinstance(came, InvalidVin):
        return Result(Row(printable(shown(text)), error=came.code), "failed")
    vin = parse_vin(text)
    if isinstance(came, VehiclesError):
        return Result(Row(vin, error=came.code), "failed")
    vehicle = came.vehicle
    row = Row(vin, vehicle.make, vehicle.model, vehicle.model_year, vehicle.body_class)
    match came.result:
        case "hit" | "stale":
            return Result(row, "kept")
        case "miss":
            return Result(row, "told" if came.is_kept else "unkept")
        case "offline":
            return Result(row, "offline")


def _read_lines(source: BinaryIO) -> Iterator[str]:
    """Each line without what surrounds it."""
    for number in count(1):
        try:
            line = source.readline(MAX_LINE_BYTES + 1)
        except OSError as error:
            raise UnreadableFile(error.strerror or str(error)) from error
        if not line:
            return
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        yield _text_of(line, number)


def _text_of(line: bytes, number: int) -> str:
    if len(line) > MAX_LINE_BYTES:
        reason = f"longer than {MAX_LINE_BYTES:,} bytes; expected one VIN a line"
        raise UnreadableFile(f"line {number}: {reason}")
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise UnreadableFile(f"line {number}: not UTF-8") from error
    if NUL in text:
        raise UnreadableFile(f"line {number}: not text")
    return text


# --- formats ------------------------------------------------------------------------


class CsvSink:
    """RFC 4180 with a header; what a spreadsheet would run as a formula is text."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.write([Row(*Row._fields)])

    def write(self, rows: Sequence[Row]) -> None:
        """Write them at once."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows([map(_not_a_formula, row) for row in rows])
        self._out.write(text.getvalue().encode("utf-8"))


class ParquetSink:
    """Parquet, all columns texts; rows are held until they make a group."""

    def __init__(self, out: BinaryIO) -> None:
        import pyarrow as pa  # noqa: PLC0415 - it takes as long as all the rest
        import pyarrow.parquet as pq  # noqa: PLC0415

        self._make = pa.Table.from_arrays
        fields = [pa.field(name, pa.string(), nullable=False) for name in Row._fields]
        self._schema = pa.schema(fields)
        self._array = pa.array
        self._writer = pq.ParquetWriter(out, self._schema)
        self._rows: list[Row] = []

    def write(self, rows: Sequence[Row]) -> None:
        """Hold them, and write what has come together if it is enough."""
        self._rows += rows
        if len(self._rows) >= ROWS_IN_GROUP:
            self._write_group()

    def close(self) -> None:
        """Write what is held, and the end without which nothing can be read."""
        if self._rows:
            self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        columns = [self._array(column) for column in zip(*self._rows, strict=True)]
        self._writer.write_table(self._make(columns, schema=self._schema))
        self._rows = []


@contextmanager
def open_csv(out: BinaryIO) -> Iterator[Sink]:
    """Write CSV."""
    yield CsvSink(out)


@contextmanager
def open_parquet(out: BinaryIO) -> Iterator[Sink]:
    """Write Parquet, whole at the end."""
    sink = ParquetSink(out)
    try:
        yield sink
    finally:
        sink.close()


OpenSink = Callable[[BinaryIO], AbstractContextManager[Sink]]


def _not_a_formula(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) else text
