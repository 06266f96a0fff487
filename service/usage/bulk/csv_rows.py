"""The header and the quotes of a CSV file, and rows with other columns."""

import csv
import io
import posixpath
import re
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.usage.bulk.batches import MAX_CONTENT_CHARACTERS
from service.usage.bulk.errors import UnreadablePiece
from service.usage.bulk.workspace import locate

BOM: Final = b"\xef\xbb\xbf"
UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
HEADER_BYTES: Final = 256 * 1024
DELIMITERS: Final = (",", ";", "\t", "|")
COMPRESSIONS: Final = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
MAX_UNEVEN_ROWS: Final = 250_000
"""Upper bound in a file, which bounds the memory: Arrow parses whole blocks."""
LONG_ROW: Final = "straddling object"
"""Begin of Arrow's error for a row that does not end in a block or the next one."""
_FIRST: Final = 2
"""Arrow's number of the first row after the header."""


class Header(NamedTuple):
    """The first line of a file that is not empty."""

    delimiter: str
    names: Sequence[str]


def read_header(name: str) -> Header | None:
    """Return the columns of a file, and what separates them; None without any.

    Raises `UnreadablePiece` if the line shows another encoding than UTF-8.
    """
    with open_text(name) as source:
        begin = source.read(HEADER_BYTES)
    text = begin.removeprefix(BOM).lstrip(b"\r\n")
    if not text:
        return None
    line = text.splitlines()[0]
    if begin.startswith(UTF_16) or b"\0" in line:
        raise UnreadablePiece("not UTF-8, but probably UTF-16")
    delimiter = max(DELIMITERS, key=line.decode("utf-8", "replace").count)
    lines = io.StringIO(text.decode("utf-8", "replace"), newline="")
    try:
        return Header(delimiter, next(csv.reader(lines, delimiter=delimiter)))
    except csv.Error as error:
        raise UnreadablePiece(f"the header: {error}") from error


def open_text(name: str) -> Any:
    """Open a file of text, and decompress it as its suffix says."""
    system, path = locate(name)
    suffix = posixpath.splitext(path.lower())[1]
    # Arrow's own detection knows only some suffixes, in lower case.
    compression = COMPRESSIONS.get(suffix, "detect")
    return system.open_input_stream(path, compression=compression)


class QuotedSource:
    """A file for Arrow that raises `UnreadablePiece` if a quoted value does not end.

    Arrow ends such a value at the end of the file, without an error. All rows until
    there would be one message. Arrow also adds text after a closing quote to the value.
    """

    closed = False

    def __init__(self, source: Any, delimiter: str) -> None:
        self._source = source
        own = re.escape(delimiter.encode())
        # Only a quote at the begin of a value opens a quoted one.
        opened = rb'(?<=[%b\r\n])"[^"]*+(?:""[^"]*+)*+"' % own
        literal = rb'(?<![%b\r\n])"' % own
        ended = rb"(?=[%b\r\n])" % own
        self._valid = re.compile(rb'(?:[^"]++|%b|%b%b)*+' % (literal, opened, ended))
        self._wrong = re.compile(rb"%b(?=[^%b\r\n])" % (opened, own))
        self._rest = b"\n"
        """A byte that is checked, and then a quoted value that is not complete."""
        self._lines = 1
        self._is_begin, self._is_end = True, False

    def explain_long_row(self, block_bytes: int) -> str:
        """Return the reason for which Arrow finds no end of a row in two blocks."""
        # Arrow reads ahead, so either error may be the first: both have one text.
        if len(self._rest) > block_bytes:
            return self._endless
        return f"a row is longer than {block_bytes:,} bytes"

    @property
    def _endless(self) -> str:
        return f"line {self._lines}: a quoted value does not end"

    def read(self, size: int) -> bytes:
        """Return the next bytes, and a line end after the last ones."""
        if self._is_end:
            return b""
        block = self._fill(size)
        self._is_end = len(block) < size
        if self._is_end:
            # Without it, Arrow does not read a header that is alone.
            block += b"\n"
        self._check(block.removeprefix(BOM) if self._is_begin else block)
        self._is_begin = False
        if self._is_end and len(self._rest) > 1:
            raise UnreadablePiece(self._endless)
        return block

    def _fill(self, size: int) -> bytes:
        """Return as many bytes as wanted; fewer only at the end of the file."""
        block: bytes = self._source.read(size)
        while len(block) < size and (more := self._source.read(size - len(block))):
            block += more
        return block

    def _check(self, block: bytes) -> None:
        text = self._rest + block
        found = self._valid.match(text, 1)
        end = found.end() if found else 1
        self._lines += text.count(b"\n", 1, end)
        if self._wrong.match(text, end):
            raise UnreadablePiece(f"line {self._lines}: text follows a quoted value")
        self._rest = text[end - 1 :]

    def close(self) -> None:
        """Leave the file to the one who has opened it."""


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
