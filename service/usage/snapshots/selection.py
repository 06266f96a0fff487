"""Selection of messages: filters, stable sorting and pages, on columns."""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.instants import ExactInstant
from service.usage.pricing.text import Flags
from service.usage.pricing.timestamps import ExactInstants
from service.usage.snapshots.cancellation import check_cancelled
from service.usage.snapshots.columns import MessageRows, PricedMessages
from service.usage.snapshots.cursors import (
    MessageCursor,
    Sort,
    cursor_after,
    place_after,
    query_digest,
)
from service.usage.snapshots.errors import RangeNotCovered

MAX_LIMIT: Final = 100_000


class Selection(NamedTuple):
    """The messages that a request selects: `since` ≤ instant < `until`."""

    since: ExactInstant | None = None
    until: ExactInstant | None = None
    sort: Sort = ()
    limit: int | None = None
    cursor: MessageCursor | None = None


EVERYTHING: Final = Selection()
"""The whole period in the upstream's order."""


class MessagePage(NamedTuple):
    """The selected rows, and the cursor of the next page if there is one."""

    rows: MessageRows
    next: MessageCursor | None


def select(priced: PricedMessages, selection: Selection) -> MessagePage:
    """Return one page; raises `CursorExpired` and `RangeNotCovered`."""
    _check_range(priced, selection.until)
    rows = _sort(priced, _filter(priced, selection), selection.sort)
    start, limit = 0, selection.limit
    if selection.cursor is not None:
        start = place_after(priced, rows, selection.cursor, selection.sort)
    if limit is None or len(rows) - start <= limit:
        return MessagePage(rows[start:], None)
    end = start + limit
    query = query_digest(
        priced.plan.id, selection.sort, selection.since, selection.until
    )
    cursor = cursor_after(priced, rows[:end], query, selection.sort)
    return MessagePage(rows[start:end], cursor)


def _check_range(priced: PricedMessages, until: ExactInstant | None) -> None:
    """Raise `RangeNotCovered` for a range that ends before the first message."""
    if until is None or not len(priced):
        return
    if not _is_before(_exact_instants(priced), until).any():
        raise RangeNotCovered(str(priced.begin))


def _filter(priced: PricedMessages, selection: Selection) -> MessageRows:
    return find_range(_exact_instants(priced), selection)


def find_range(times: ExactInstants, selection: Selection) -> MessageRows:
    """Return the places of the times within the range of a selection, ascending."""
    selected = np.ones(len(times.microseconds), np.bool_)
    if selection.since is not None:
        selected &= ~_is_before(times, selection.since)
    if selection.until is not None:
        selected &= _is_before(times, selection.until)
    return np.flatnonzero(selected)


def _exact_instants(priced: PricedMessages) -> ExactInstants:
    return ExactInstants(priced.messages.instants, priced.messages.fractions)


def _is_before(times: ExactInstants, bound: ExactInstant) -> Flags:
    """Return which times are before an exact instant: `(n_times,)` bool."""
    microseconds, fraction = bound
    instants, fractions = times
    is_before: Flags = instants < microseconds
    if fractions is not None:
        is_before |= (instants == microseconds) & (fractions < fraction)
    elif fraction:
        is_before |= instants == microseconds
    return is_before


def _sort(priced: PricedMessages, rows: MessageRows, sort: Sort) -> MessageRows:
    """Return the rows in the order of the columns, the first of which decides."""
    # A stable sort by the last column first keeps each order within the next one.
    for column, is_descending in reversed(sort):
        for values in reversed(SORT_COLUMNS[column](priced)):
            check_cancelled()
            # `~` reverses the order of int64; `-` would overflow at the smallest value.
            keys = values[rows]
            rows = rows[np.argsort(~keys if is_descending else keys, kind="stable")]
    return rows


def _times(priced: PricedMessages) -> tuple[NDArray[np.int64], ...]:
    instants, fractions = priced.messages.instants, priced.messages.fractions
    return (instants,) if fractions is None else (instants, fractions)


def _name_ranks(priced: PricedMessages) -> NDArray[np.int64]:
    """Return alphabetical ranks of report names: `(n_messages,)` int64, 0 for none."""
    order = sorted(range(len(priced.names)), key=priced.names.__getitem__)
    ranks = np.zeros(len(priced.names) + 1, np.int64)  # the last, 0, is that of BY_TEXT
    ranks[order] = np.arange(1, len(order) + 1)
    return ranks[priced.name_of]


SORT_COLUMNS: Final[
    dict[str, Callable[[PricedMessages], tuple[NDArray[np.int64], ...]]]
] = {
    "message_id": lambda priced: (priced.messages.ids,),
    "timestamp": _times,
    "report_name": lambda priced: (_name_ranks(priced),),
    "credits_used": lambda priced: (priced.hundredths,),
}
"""The values of each column, by importance: `(n_messages,)` int64."""
