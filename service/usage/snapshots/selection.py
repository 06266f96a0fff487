"""Selecting messages: filters, stable sorting and cursor pages, on columns.

A cursor names the message at which a page ended, not a position, so that messages
which arrive between two pages neither shift nor repeat any.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.usage.snapshots.columns import PricedMessages, Rows
from service.usage.snapshots.errors import CursorExpired

MAX_LIMIT: Final = 100_000


class Selection(NamedTuple):
    """The messages that a request selects; instants are microseconds, ends exclusive.

    `sort` holds pairs of a column and whether it is descending.
    """

    since: int | None = None
    until: int | None = None
    sort: tuple[tuple[str, bool], ...] = ()
    limit: int | None = None
    cursor: "Cursor | None" = None


EVERYTHING: Final = Selection()
"""The whole period in upstream's order."""


class Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The end of a page: the row, and the id of its message to know it by."""

    row: int
    message_id: int


class Page(NamedTuple):
    """The selected rows, and the end of the page if another one follows."""

    rows: Rows
    next: Cursor | None


def select(priced: PricedMessages, selection: Selection) -> Page:
    """Return one page; `CursorExpired` where the message before it is gone."""
    rows = _sort(priced, _filter(priced, selection), selection.sort)
    if selection.cursor is not None:
        rows = rows[_place_after(priced, rows, selection.cursor) :]
    if selection.limit is None or len(rows) <= selection.limit:
        return Page(rows, None)
    rows = rows[: selection.limit]
    last = int(rows[-1])
    return Page(rows, Cursor(last, int(priced.messages.ids[last])))


def _filter(priced: PricedMessages, selection: Selection) -> Rows:
    instants = priced.messages.instants
    selected = np.ones(len(priced), np.bool_)
    if selection.since is not None:
        selected &= instants >= selection.since
    if selection.until is not None:
        selected &= instants < selection.until
    return np.flatnonzero(selected)


def _sort(
    priced: PricedMessages, rows: Rows, sort: tuple[tuple[str, bool], ...]
) -> Rows:
    """Sort by the least important column first; each sort keeps the order before."""
    for column, is_descending in reversed(sort):
        keys = SORT_COLUMNS[column](priced)[rows]
        rows = rows[np.argsort(~keys if is_descending else keys, kind="stable")]
    return rows


def _place_after(priced: PricedMessages, rows: Rows, cursor: Cursor) -> int:
    places = np.flatnonzero(rows == cursor.row)
    if not len(places) or priced.messages.ids[cursor.row] != cursor.message_id:
        raise CursorExpired("the message at which the last page ended is gone")
    return int(places[0]) + 1


def _name_ranks(priced: PricedMessages) -> NDArray[np.int64]:
    """Return report names as numbers in alphabetical order; no report comes first."""
    order = sorted(range(len(priced.names)), key=priced.names.__getitem__)
    ranks = np.zeros(len(priced.names) + 1, np.int64)  # BY_TEXT reads the last: 0
    ranks[order] = np.arange(1, len(order) + 1)
    return ranks[priced.name_of]


SORT_COLUMNS: Final[dict[str, Callable[[PricedMessages], NDArray[Any]]]] = {
    "message_id": lambda priced: priced.messages.ids,
    "timestamp": lambda priced: priced.messages.instants,
    "report_name": _name_ranks,
    "credits_used": lambda priced: priced.hundredths,
}
