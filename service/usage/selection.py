"""Selecting from a ledger: filters, stable sorting and cursor pages, on its columns.

A cursor names the message at which a page ended, not a position, so that messages
which arrive between two pages neither shift nor repeat any.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.parameters import InvalidParameter
from service.usage.errors import CursorExpired
from service.usage.ledger import Ledger, Rows

MAX_LIMIT: Final = 100_000
DIRECTIONS: Final = ("asc", "desc")


class Selection(NamedTuple):
    """What a caller wants of a period; instants are microseconds, ends exclusive."""

    since: int | None = None
    until: int | None = None
    sort: tuple[tuple[str, bool], ...] = ()
    limit: int | None = None
    cursor: "Cursor | None" = None

    @property
    def is_everything(self) -> bool:
        """Whether this is the whole period in upstream's order."""
        return self == Selection()


class Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a page ended: the row, and the id of its message to know it by."""

    row: int
    message_id: int


class Page(NamedTuple):
    """The rows selected, and where the next page starts if there is one."""

    rows: Rows
    next: Cursor | None


def select(ledger: Ledger, selection: Selection) -> Page:
    """The rows of one page; `CursorExpired` where its start has left the period."""
    rows = _sorted(ledger, _filtered(ledger, selection), selection.sort)
    if selection.cursor is not None:
        rows = rows[_place_after(ledger, rows, selection.cursor) :]
    if selection.limit is None or len(rows) <= selection.limit:
        return Page(rows, None)
    rows = rows[: selection.limit]
    last = int(rows[-1])
    return Page(rows, Cursor(last, int(ledger.messages.ids[last])))


def parse_sort(value: str | None) -> tuple[tuple[str, bool], ...]:
    """Read `column:direction;…` into (column, is descending) pairs.

    Of a column named twice the first counts: the second has no tie left to break,
    and would only cost another sort.
    """
    columns: dict[str, bool] = {}
    for pair in (value or "").split(";"):
        if pair:
            columns.setdefault(*_parse_sort_pair(pair))
    return tuple(columns.items())


def _parse_sort_pair(pair: str) -> tuple[str, bool]:
    column, _, direction = pair.partition(":")
    if column not in SORT_COLUMNS or (direction or "asc") not in DIRECTIONS:
        columns, directions = ", ".join(SORT_COLUMNS), " or ".join(DIRECTIONS)
        wanted = f"expected column:direction;… with columns {columns} and {directions}"
        raise InvalidParameter("sort", wanted)
    return column, direction == "desc"


def _filtered(ledger: Ledger, selection: Selection) -> Rows:
    instants = ledger.messages.instants
    wanted = np.ones(len(ledger), np.bool_)
    if selection.since is not None:
        wanted &= instants >= selection.since
    if selection.until is not None:
        wanted &= instants < selection.until
    return np.flatnonzero(wanted)


def _sorted(ledger: Ledger, rows: Rows, sort: tuple[tuple[str, bool], ...]) -> Rows:
    """Sort by the least important column first, each time keeping the order before."""
    for column, is_descending in reversed(sort):
        keys = SORT_COLUMNS[column](ledger)[rows]
        rows = rows[np.argsort(~keys if is_descending else keys, kind="stable")]
    return rows


def _place_after(ledger: Ledger, rows: Rows, cursor: Cursor) -> int:
    places = np.flatnonzero(rows == cursor.row)
    if not len(places) or ledger.messages.ids[cursor.row] != cursor.message_id:
        raise CursorExpired("the message at which the last page ended is gone")
    return int(places[0]) + 1


def _name_ranks(ledger: Ledger) -> NDArray[np.int64]:
    """Report names as numbers in alphabetical order; no report comes before all."""
    order = sorted(range(len(ledger.names)), key=ledger.names.__getitem__)
    ranks = np.zeros(len(ledger.names) + 1, np.int64)  # BY_TEXT reads the last: 0
    ranks[order] = np.arange(1, len(order) + 1)
    return ranks[ledger.name_of]


SORT_COLUMNS: Final[dict[str, Callable[[Ledger], NDArray[Any]]]] = {
    "message_id": lambda ledger: ledger.messages.ids,
    "timestamp": lambda ledger: ledger.messages.instants,
    "report_name": _name_ranks,
    "credits_used": lambda ledger: ledger.hundredths,
}
