"""Look-up of a file with a VIN in each line, without a server.

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
from service.vehicles.doubts import candidates_of, warnings_of
from service.vehicles.errors import (
    InvalidModelYear,
    InvalidVin,
    VehiclesError,
    VinNotDecoded,
)
from service.vehicles.model import Found, Vin
from service.vehicles.row_sinks import RowSink, VehicleRow
from service.vehicles.vin import HINT_MARK, number_of, parse_vin, shown
from service.vehicles.vin_columns import NoSuchColumn, VinColumns
from service.vehicles.vpic import MAX_BATCH

MAX_LINE_BYTES: Final = 16_384
"""Enough for a line with many columns; longer ones are no list of VINs."""
NUL: Final = "\0"
DETAIL_MEMBERS: Final = ("error_text", "suggested_vin")
INVALID: Final = ("invalid_vin", "invalid_model_year")


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

    @property
    def has_no_vin(self) -> bool:
        """True if there are lines, and none is a VIN."""
        return 0 < self.total() == self["invalid_vin"]

    def summary(self) -> str:
        """Return the numbers as one line of text."""
        counts = {
            "VINs": self.total(),
            "from the cache": self["cache"],
            "from vPIC": self["vpic"] + self["vpic_not_stored"],
            "decoded offline": self["offline"],
            "not decoded": self["vin_not_decoded"],
            "invalid": sum(self[code] for code in INVALID),
            "failed": self.failed,
            "decoded, but not stored": self["vpic_not_stored"],
        }
        shown_if_any = ("decoded offline", "decoded, but not stored")
        return "; ".join(
            f"{label}: {count}"
            for label, count in counts.items()
            if count or label not in shown_if_any
        )


def look_up_file(  # noqa: PLR0913, PLR0917 - each is a part of the run
    source: BinaryIO,
    sink: RowSink,
    start: StartLookup,
    max_pending: int,
    counts: LineCounts,
    column: str = "",
) -> None:
    """Look up every VIN of `source`, and write the rows to `sink`.

    At most `max_pending` batches are in memory. Raises `VinFileError` after the rows
    before the bad line are written, and the errors of look-ups. An `OSError` is of the
    sink.
    """
    texts = read_texts(source, column)
    with closing(_in_order(texts, start, max_pending)) as batches:
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


def read_texts(source: BinaryIO, column: str = "") -> Iterator[Sequence[str]]:
    """Yield the VIN of each line that is not blank, in batches: `VIN` or `VIN,YEAR`.

    Raises `VinFileError` after the lines before the bad one.
    """
    texts: list[str] = []
    try:
        for text in filter(None, _read_vins(source, VinColumns(column))):
            texts.append(text)
            if len(texts) == MAX_BATCH:
                yield texts
                texts = []
    except VinFileError:
        yield texts
        raise
    yield texts


def parse_line(text: str) -> Vin:
    """Return the VIN of a line; raise `InvalidVin` or `InvalidModelYear`."""
    vin, _, year = text.partition(HINT_MARK)
    return parse_vin(vin, year)


def to_result(text: str, found: Found | VehiclesError) -> LineResult:
    """Return the result of a line."""
    if isinstance(found, VehiclesError):
        is_vin = not isinstance(found, InvalidVin | InvalidModelYear)
        shown_vin = (
            number_of(parse_line(text))
            if is_vin
            else printable(shown(text.partition(HINT_MARK)[0]))
        )
        row = VehicleRow(shown_vin, error=found.code, detail=_detail_of(found))
        return LineResult(row, "failed")
    vin, vehicle = parse_line(text), found.vehicle
    years = candidates_of(vin, found.codes, vehicle.model_year)
    row = VehicleRow(
        number_of(vin),
        vehicle.make,
        vehicle.model,
        vehicle.model_year,
        vehicle.body_class,
        warnings=" ".join(warnings_of(vin, found.codes)),
        detail=f"model year {' or '.join(years)}" if years else "",
        source="offline" if found.result == "offline" else "",
    )
    match found.result:
        case "hit" | "stale":
            return LineResult(row, "cache")
        case "miss":
            return LineResult(row, "vpic" if found.is_stored else "vpic_not_stored")
        case "offline":
            return LineResult(row, "offline")


def _detail_of(error: VehiclesError) -> str:
    if not isinstance(error, VinNotDecoded):
        return printable(str(error))
    texts = (str(error), *(error.members.get(name, "") for name in DETAIL_MEMBERS))
    return printable("; ".join(filter(None, texts)))


def _read_vins(source: BinaryIO, columns: VinColumns) -> Iterator[str]:
    for number, line in enumerate(_read_lines(source), start=1):
        try:
            yield columns.read(line) if line else ""
        except NoSuchColumn as error:
            raise VinFileError(f"line {number}: {error}") from error


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
