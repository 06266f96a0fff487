"""Units of work and their records, which are pickled and stored as MessagePack."""

from enum import StrEnum
from typing import Final

from msgspec import Struct

WHOLE: Final = -1
"""The end of a piece that is a whole file."""
REJECTED_FILE: Final = "rejected.parquet"
"""The rows that are not priced, in the output."""
FENCE_IDS: Final = 4_096
"""Ids of a unit between two that its record has."""


class InputFormat(StrEnum):
    """Format of an input file."""

    PARQUET = "parquet"
    NDJSON = "ndjson"
    CSV = "csv"


class InputFile(Struct, frozen=True):
    """A file of the input; its version changes when its content does."""

    path: str
    """A path of this machine, or a URL."""
    format: InputFormat
    size_bytes: int
    version: str
    """The time of the last change, in nanoseconds; or the tag of an object store."""


class Piece(Struct, frozen=True):
    """A part of a file: row groups of Parquet, or bytes of text, from begin to end.

    Lines belong to the piece in which they begin.
    """

    file: int
    """Index of the file in the input."""
    begin: int = 0
    end: int = WHOLE


class Unit(Struct, frozen=True):
    """Work for one worker: pieces of bounded size, in the order of the input."""

    number: int
    pieces: tuple[Piece, ...]
    files: tuple[InputFile, ...]
    """The file of each piece: a worker needs no list of all files."""


class PieceRecord(Struct, frozen=True):
    """The outcome of reading a piece."""

    piece: Piece
    rows: int = 0
    """Rows or lines that the piece has, as far as they are known."""
    error: str = ""
    """The reason for which it could not be read."""


class Segment(Struct, frozen=True, array_like=True):
    """Rows of one day in a batch of a unit's priced messages."""

    day: int
    """Days since 1970-01-01, UTC."""
    batch: int
    begin: int
    end: int


class UnitRecord(Struct, frozen=True):
    """The outcome of a unit; written last, so that its files are complete."""

    number: int
    pieces: tuple[PieceRecord, ...]
    segments: tuple[Segment, ...]
    ids: int
    """Number of different ids among the priced messages."""
    first_id: int
    last_id: int
    fences: tuple[int, ...]
    """Each of the ids in order that follows `FENCE_IDS` others, from the first on."""
    repeated: bytes
    """Array of `units.REPEATED`: the ids that the unit has several times, in order."""
    rejected: int


class KeysRecord(Struct, frozen=True):
    """The usable report ids of a unit."""

    number: int
    keys: tuple[str, ...]


class IdSlice(Struct, frozen=True, array_like=True):
    """A part of the ids that a unit has stored in order."""

    unit: int
    begin: int
    end: int


class RangeTask(Struct, frozen=True):
    """A range of ids, both included, and the parts of units where these can be."""

    number: int
    low: int
    high: int
    slices: tuple[IdSlice, ...]


class RangeRecord(Struct, frozen=True):
    """Ids of a range that units have, although an earlier unit has them too."""

    number: int
    ids: dict[int, bytes]
    """Array of int64 by the number of the unit, in order."""


class PartSlice(Struct, frozen=True, array_like=True):
    """Rows of a unit that belong to a part of the output."""

    unit: int
    batch: int
    begin: int
    end: int


class Part(Struct, frozen=True):
    """A file of the output: messages of one day."""

    day: int
    number: int
    slices: tuple[PartSlice, ...]

    @property
    def rows(self) -> int:
        """Rows before repeated messages are removed."""
        return sum(each.end - each.begin for each in self.slices)


class PartTask(Struct, frozen=True):
    """Parts that one worker writes."""

    number: int
    parts: tuple[Part, ...]
    repeated: frozenset[int]
    """Units of these parts that have repeated ids, in a file."""


class Total(Struct, frozen=True, array_like=True):
    """Messages of one day that have the same report; -1 stands for none."""

    day: int
    report: int
    messages: int
    hundredths: int


class WrittenFile(Struct, frozen=True):
    """A file of the output."""

    path: str
    """Below the folder of the output."""
    size_bytes: int
    sha256: str
    rows: int


class PartRecord(Struct, frozen=True):
    """The outcome of a task that writes parts."""

    number: int
    files: tuple[WrittenFile, ...]
    totals: tuple[Total, ...]
    repeated: bytes
    """Array of `parts.REPEATED_ROW`: messages with the id of an earlier one."""
