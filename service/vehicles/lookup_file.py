"""Look-up of a file with one VIN a line, without a server.

Batches of lines are read, looked up and written in the order of the file, in constant
memory. An invalid VIN, or one without a vehicle, becomes a row with an error. A line
that is not text ends the run, after all rows before it are written.
"""

import codecs
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from itertools import count
from typing import BinaryIO, Final, Literal, NamedTuple

from service.cli.terminal import printable
from service.vehicles.errors import InvalidVin, VehiclesError
from service.vehicles.model import Found
from service.vehicles.row_sinks import RowSink, VehicleRow
from service.vehicles.vin import parse_vin, shown
from service.vehicles.vpic import MAX_BATCH

MAX_LINE_BYTES: Final = 1_000
"""Far longer than any VIN with white space."""
NUL: Final = "\0"


class VinFileError(Exception):
    """The file cannot be read, or is not a list of VINs; the text says why."""


class LineResult(NamedTuple):
    """Result of one line."""

    row: VehicleRow
    origin: Literal["cache", "vpic", "vpic_not_stored", "offline", "failed"]
    """`vpic_not_stored` was decoded by vPIC, but the database did not store it."""


StartLookup = Callable[[Sequence[str]], "Future[list[LineResult]]"]
"""Starts to look up a batch of lines."""


class LineCounts(Counter[str]):
    """Number of lines by the origin of their vehicle, or by their error."""

    def add(self, results: Sequence[LineResult]) -> None:
        """Count the results of a batch."""
        self.update(result.row.error or result.origin for result in results)

    @property
    def failed(self) -> int:
        """Number of lines that may succeed another time."""
        return self["vehicle_unavailable"] + self["vehicle_lookups_full"]

    def summary(self) -> str:
        """Return the numbers as one line of text."""
        counts = {
            "VINs": self.total(),
            "from the cache": self["cache"],
            "from vPIC": self["vpic"] + self["vpic_not_stored"],
            "decoded offline": self["offline"],
            "not decoded": self["vin_not_decoded"],
            "invalid": self["invalid_vin"],
            "failed": self.failed,
            "decoded, but not stored": self["vpic_not_stored"],
        }
        shown_if_any = ("decoded offline", "decoded, but not stored")
        return "; ".join(
            f"{label}: {count}"
            for label, count in counts.items()
            if count or label not in shown_if_any
        )


def look_up_file(
    source: BinaryIO,
    sink: RowSink,
    start: StartLookup,
    max_pending: int,
    counts: LineCounts,
) -> None:
    """Look up every VIN of `source`, and write the rows to `sink`.

    At most `max_pending` batches are in memory. Raises `VinFileError` after the rows
    before the bad line are written, and the errors of look-ups. An `OSError` is of the
    sink.
    """
    with closing(_in_order(read_texts(source), start, max_pending)) as batches:
        for results in batches:
            sink.write([result.row for result in results])
            counts.add(results)


def _in_order(
    batches: Iterator[Sequence[str]], start: StartLookup, max_pending: int
) -> Generator[list[LineResult], None, None]:
    """Yield the results of each batch; raise a `VinFileError` after all of them."""
    pending: deque[Future[list[LineResult]]] = deque()

    def drain() -> Iterator[list[LineResult]]:
        while pending:
            yield pending.popleft().result()

    try:
        for texts in batches:
            pending.append(start(texts))
            if len(pending) >= max_pending:
                yield pending.popleft().result()
        yield from drain()
    except VinFileError:
        yield from drain()
        raise
    finally:
        for each in pending:
            each.cancel()


def read_texts(source: BinaryIO) -> Iterator[Sequence[str]]:
    """Yield the lines that are not blank, in batches.

    Raises `VinFileError` after the lines before the bad one.
    """
    texts: list[str] = []
    try:
        for text in filter(None, _read_lines(source)):
            texts.append(text)
            if len(texts) == MAX_BATCH:
                yield texts
                texts = []
    except VinFileError:
        yield texts
        raise
    yield texts


def to_result(text: str, found: Found | VehiclesError) -> LineResult:
    """Return the result of a line."""
    if isinstance(found, InvalidVin):
        row = VehicleRow(printable(shown(text)), error=found.code)
        return LineResult(row, "failed")
    vin = parse_vin(text)
    if isinstance(found, VehiclesError):
        return LineResult(VehicleRow(vin, error=found.code), "failed")
    vehicle = found.vehicle
    row = VehicleRow(
        vin, vehicle.make, vehicle.model, vehicle.model_year, vehicle.body_class
    )
    match found.result:
        case "hit" | "stale":
            return LineResult(row, "cache")
        case "miss":
            return LineResult(row, "vpic" if found.is_stored else "vpic_not_stored")
        case "offline":
            return LineResult(row, "offline")


def _read_lines(source: BinaryIO) -> Iterator[str]:
    """Yield each line without white space around it."""
    for number in count(1):
        try:
            line = source.readline(MAX_LINE_BYTES + 1)
        except OSError as error:
            raise VinFileError(error.strerror or str(error)) from error
        if not line:
            return
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        yield _text_of(line, number)


def _text_of(line: bytes, number: int) -> str:
    if len(line) > MAX_LINE_BYTES:
        reason = f"longer than {MAX_LINE_BYTES:,} bytes; expected one VIN a line"
        raise VinFileError(f"line {number}: {reason}")
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise VinFileError(f"line {number}: not UTF-8") from error
    if NUL in text:
        raise VinFileError(f"line {number}: not text")
    return text
