"""The header of a CSV file, and the rows that have another number of columns."""

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.usage.bulk.batches import MAX_CONTENT_CHARACTERS
from service.usage.bulk.errors import UnreadablePiece
from service.usage.bulk.model import InputFile
from service.usage.bulk.workspace import locate

BOM: Final = b"\xef\xbb\xbf"
UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
HEADER_BYTES: Final = 64 * 1024
DELIMITERS: Final = (",", ";", "\t", "|")
MAX_UNEVEN_ROWS: Final = 250_000
"""Upper bound in a file, which bounds the memory: Arrow parses whole blocks."""
_FIRST: Final = 2
"""Arrow's number of the first row after the header."""


def find_delimiter(file: InputFile) -> str | None:
    """Return what separates the columns in the first line; None for an empty file.

    Raises `UnreadablePiece` if the line shows another encoding than UTF-8.
    """
    system, path = locate(file.path)
    with system.open_input_stream(path, compression="detect") as source:
        begin = source.read(HEADER_BYTES)
    header = begin.removeprefix(BOM).splitlines()
    if not header:
        return None
    if begin.startswith(UTF_16) or b"\0" in header[0]:
        raise UnreadablePiece("not UTF-8, but probably UTF-16")
    names = header[0].decode("utf-8", "replace")
    return max(DELIMITERS, key=names.count)


class _Uneven(NamedTuple):
    row: int
    """The place in the file, from 0."""
    reason: str
    content: str


class UnevenRows:
    """Collects uneven rows while Arrow parses, and finds the places of the others."""

    def __init__(self) -> None:
        self._waiting: deque[_Uneven] = deque()
        self._count = 0

    @property
    def too_many(self) -> str:
        """The reason for which Arrow has stopped, if there are more than the bound."""
        if self._count <= MAX_UNEVEN_ROWS:
            return ""
        return f"more than {MAX_UNEVEN_ROWS:,} rows have other columns than the header"

    def skip(self, row: Any) -> str:
        """Collect a row for Arrow's parser, and let it go on within the bound."""
        self._count += 1
        if self.too_many:
            return "error"
        reason = f"{row.actual_columns} columns, and the header has "
        reason += str(row.expected_columns)
        content = row.text[:MAX_CONTENT_CHARACTERS]
        self._waiting.append(_Uneven(row.number - _FIRST, reason, content))
        return "skip"

    def place(self, first: int, count: int) -> NDArray[np.int64]:
        """Return the places of the next rows of a batch, without uneven ones."""
        places = np.arange(first, first + count + len(self._waiting))
        uneven = [each.row for each in self._waiting]
        return places[np.isin(places, uneven, invert=True)][:count]

    def take(self, end: int) -> list[list[Any]]:
        """Return the columns of the uneven rows before a place, and forget them."""
        taken: list[_Uneven] = []
        while self._waiting and self._waiting[0].row < end:
            taken.append(self._waiting.popleft())
        return [list(each) for each in zip(*taken, strict=True)] or [[], [], []]

    @property
    def end(self) -> int:
        """The place after the last uneven row that waits; 0 if none does."""
        return self._waiting[-1].row + 1 if self._waiting else 0


@contextmanager
def silent_callbacks() -> Iterator[None]:
    """Write no traceback for a row that Arrow cannot decode for its callback.

    Arrow then fails with the number of the row, which is the reason that is shown.
    """
    before = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = before
