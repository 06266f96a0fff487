"""Columns of a file of VINs: which has the VIN, and which the model year as a hint.

A line is a VIN, or has several columns with commas, semicolons or tabs between them. A
header is recognized by its name for the column of VINs. The output of the command
`lookup` is such a file: its `model_year` is a result, and no hint.
"""

import csv
import re
from collections.abc import Sequence
from typing import Final

from service.vehicles.errors import InvalidVin
from service.vehicles.vin import HINT_MARK, parse_vin, trimmed

DELIMITERS: Final = "\t;,"
VIN_NAMES: Final = frozenset(
    {
        *("vin", "vins", "vin number", "vin no", "vin code", "vehicle vin", "chassis"),
        *("vehicle identification number", "chassis number", "fin"),
    }
)
"""Names of the column of VINs, in lower case, with spaces for `_`, `-` and `.`."""
YEAR_NAMES: Final = frozenset({"model year", "modelyear", "year"})
RESULT_NAME: Final = "error"
"""With it in the header, the file is our output, and the model year a result."""
PAIR: Final = 2
"""Columns of a line without header that is `VIN,YEAR`, as in a batch of vPIC."""
FORMULA_MARK: Final = "'"
"""Our CSV has it before a text that a spreadsheet would take for a formula."""

_YEAR: Final = re.compile(r"[0-9]{4}")


class NoSuchColumn(Exception):
    """The first line has no such column; the text names those that it has."""


class VinColumns:
    """Finds the columns by the first line, and reads the lines of one file."""

    def __init__(self, column: str = "") -> None:
        self._column = column
        """The name of the column of VINs, or its number from 1; empty to find it."""
        self._delimiter = ""
        self._vin_at = 0
        self._year_at: int | None = None
        self._is_first = True
        self._has_header = False

    def read(self, line: str) -> str:
        """Return `VIN` or `VIN,YEAR` of a line; an empty text for a header.

        A line that ends before the column of VINs is returned, as an invalid VIN.
        Raises `NoSuchColumn`.
        """
        cells = self._split(line)
        if self._is_first:
            self._is_first = False
            if self._read_header(cells):
                return ""
        vin = cells[self._vin_at] if self._vin_at < len(cells) else line
        year = self._year_of(cells)
        return f"{vin}{HINT_MARK}{year}" if year else vin

    def _split(self, line: str) -> list[str]:
        delimiter = self._delimiter or self._find_delimiter(line)
        if delimiter in line:
            self._delimiter = delimiter
        return _cells_of(line, delimiter)

    def _find_delimiter(self, line: str) -> str:
        """Return the delimiter that shows the column of VINs, or that is most often."""

        def rank(delimiter: str) -> tuple[bool, int]:
            cells = _cells_of(line, delimiter)
            names = {_name_of(self._column), *VIN_NAMES} - {""}
            shows = not names.isdisjoint(map(_name_of, cells)) or _find_vins(cells)
            return bool(shows), len(cells)

        present = [each for each in DELIMITERS if each in line]
        return max(present, key=rank) if present else DELIMITERS[0]

    def _read_header(self, cells: Sequence[str]) -> bool:
        """Find the columns; return whether the line is a header."""
        names = list(map(_name_of, cells))
        is_number = self._column.isascii() and self._column.isdecimal()
        if self._column and not is_number:
            self._vin_at = _find_name(self._column, cells)
            is_header = True
        elif self._column:
            self._vin_at = _check_number(self._column, cells)
            is_header = _is_name(cells[self._vin_at], names[self._vin_at])
        else:
            is_header = not VIN_NAMES.isdisjoint(names)
            found = [at for at, name in enumerate(names) if name in VIN_NAMES]
            self._vin_at = (found or _find_vins(cells) or [0])[0]
        if is_header and RESULT_NAME not in names:
            years = [at for at, name in enumerate(names) if name in YEAR_NAMES]
            self._year_at = years[0] if years else None
        self._has_header = is_header
        return is_header

    def _year_of(self, cells: Sequence[str]) -> str:
        at = self._year_at
        if not self._has_header and len(cells) == PAIR and self._vin_at < PAIR:
            at = 1 - self._vin_at
        if at is None or at >= len(cells):
            return ""
        year = cells[at]
        return year if _YEAR.fullmatch(year) else ""


def _cells_of(line: str, delimiter: str) -> list[str]:
    try:
        cells = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:  # such as a cell of more than 128 KB
        cells = line.split(delimiter)
    return [trimmed(each).removeprefix(FORMULA_MARK) for each in cells] or [""]


def _name_of(cell: str) -> str:
    return re.sub(r"[\s_.-]+", " ", cell.lower()).strip()


def _find_name(column: str, cells: Sequence[str]) -> int:
    wanted = column.strip().lower()
    for at, cell in enumerate(cells):
        if cell.lower() == wanted:
            return at
    raise NoSuchColumn(f"no column {column!r}; the first line has {list(cells[:20])}")


def _check_number(column: str, cells: Sequence[str]) -> int:
    number = int(column[:9])
    if not 1 <= number <= len(cells):
        raise NoSuchColumn(f"no column {number}; the first line has {len(cells)}")
    return number - 1


def _is_name(cell: str, name: str) -> bool:
    return name in VIN_NAMES or not any(each.isdecimal() for each in cell)


def _find_vins(cells: Sequence[str]) -> list[int]:
    return [at for at, cell in enumerate(cells) if _is_vin(cell)]


def _is_vin(text: str) -> bool:
    try:
        parse_vin(text)
    except InvalidVin:
        return False
    return True
