"""Cursors: the end of one page, from which the next page continues.

A cursor names the last message of a page by its values, not by its position. Messages
that are inserted or removed elsewhere therefore neither skip nor repeat any. Two cases
would: the last message is gone, or messages have moved past it because their values
changed. Then the client has to begin again, and the error says why.
"""

from hashlib import blake2b
from typing import Annotated, Final

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from service.instants import ExactInstant
from service.usage.snapshots.columns import BY_TEXT, MessageRows, PricedMessages
from service.usage.snapshots.errors import CursorExpired

VALUE_COLUMNS: Final = frozenset({"timestamp", "report_name", "credits_used"})
"""Columns whose values may change while the message stays the same."""

_BEGIN_AGAIN: Final = "; begin again with the first page"
_DIGEST_BYTES: Final = 8
# The constants of SplitMix64, which spreads close numbers over all 64 bits.
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)

Sort = tuple[tuple[str, bool], ...]
"""Pairs of a column and whether it is descending, by importance."""


_Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class MessageCursor(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The end of a page, and the query that the page belongs to."""

    query: str
    """A digest of the plan, the order and the filters."""
    mark: str
    """A digest of when the values that the order depends on last changed."""
    message_id: _Int64
    instant: tuple[_Int64, _Int64]
    """Microseconds, and attoseconds beyond them."""
    price: _Int64
    """In hundredths of a credit."""
    name: str
    """A digest of the report name; empty where the text priced the message."""
    copy: tuple[_Count, _Count]
    """Messages before this one, and all, with the same id, time, price and name."""
    twin: tuple[_Count, _Count]
    """Messages before this one, and all, with the same id and time."""
    messages: _Count
    """The number of messages in the snapshot that made the cursor."""
    passed: str
    """A digest of the messages up to the end of the page."""


def query_digest(
    plan: str, sort: Sort, since: ExactInstant | None, until: ExactInstant | None
) -> str:
    """Return a digest of a query; a cursor is valid only for the query that made it."""
    return _short_digest(plan, sort, since, until)


def mark_of(priced: PricedMessages, sort: Sort) -> str:
    """Return a digest of when values last changed that this order depends on."""
    uses_values = not VALUE_COLUMNS.isdisjoint(column for column, _ in sort)
    values_since = priced.values_since if uses_values else ""
    return _short_digest(priced.order_since, values_since)


def cursor_after(
    priced: PricedMessages, rows: MessageRows, query: str, sort: Sort
) -> MessageCursor:
    """Return the cursor of a page that ends at the last of `rows`.

    `rows` are the rows of the query from its beginning, in its order.
    """
    messages, last = priced.messages, int(rows[-1])
    instant = messages.instant_at(last)
    twins = _rows_equal_to(priced, int(messages.ids[last]), instant)
    price, index = int(priced.hundredths[last]), int(priced.name_of[last])
    name = _name_digest(priced, index)
    copies = _copies_of(priced, twins, price, name)
    return MessageCursor(
        query=query,
        mark=mark_of(priced, sort),
        message_id=int(messages.ids[last]),
        instant=instant,
        price=price,
        name=name,
        copy=(int(np.searchsorted(copies, last)), len(copies)),
        twin=(int(np.searchsorted(twins, last)), len(twins)),
        messages=len(priced),
        passed=_digest_of(priced, rows),
    )


def place_after(
    priced: PricedMessages, rows: MessageRows, cursor: MessageCursor, sort: Sort
) -> int:
    """Return the place in `rows`, all rows of the query, where the next page begins.

    Raises `CursorExpired`; its text says why.
    """
    places = np.flatnonzero(rows == find_last(priced, cursor))
    if not len(places):
        begins_at = int(priced.messages.instants.min()) if len(priced) else None
        raise why_gone(priced, cursor, begins_at)
    place = int(places[0]) + 1
    if cursor.mark != mark_of(priced, sort) and not _is_same_set(
        priced, rows[:place], cursor
    ):
        raise moved()
    return place


def moved() -> CursorExpired:
    """Return the error for messages that have moved past the end of the last page."""
    return CursorExpired(
        "prices or names have changed, so that messages have moved past the end of "
        "the last page" + _BEGIN_AGAIN
    )


def find_last(priced: PricedMessages, cursor: MessageCursor) -> int:
    """Return the row of the cursor's message, or -1.

    A list may repeat a message. Which copy was the last one is known only while there
    are as many; after a new price, while there are as many of any price.
    """
    twins = _rows_equal_to(priced, cursor.message_id, cursor.instant)
    copies = _copies_of(priced, twins, cursor.price, cursor.name)
    for found, (before, count) in ((copies, cursor.copy), (twins, cursor.twin)):
        if before < len(found) == count:
            return int(found[before])
    return -1


def _copies_of(
    priced: PricedMessages, twins: MessageRows, price: int, name: str
) -> MessageRows:
    """Return the rows with this price, and a report name of this digest."""
    same_price = twins[priced.hundredths[twins] == price]
    indexes = priced.name_of[same_price]
    # Names are few, while a list may repeat one message many times.
    same_name = [
        index
        for index in np.unique(indexes).tolist()
        if _name_digest(priced, index) == name
    ]
    copies: MessageRows = same_price[np.isin(indexes, same_name)]
    return copies


def _name_digest(priced: PricedMessages, index: int) -> str:
    return "" if index == BY_TEXT else _short_digest(priced.names[index])


def why_gone(
    priced: PricedMessages, cursor: MessageCursor, begins_at: int | None
) -> CursorExpired:
    """Return the error for a last message that is not found.

    `priced` has all messages with its id; `begins_at` is the instant of the first
    message of the period, in microseconds.
    """
    if begins_at is not None and begins_at > cursor.instant[0]:
        why = "the billing period is another one than that of the last page"
    elif (priced.messages.ids == cursor.message_id).any():
        why = "the message at which the last page ended has another time now"
    else:
        why = "the message at which the last page ended is gone"
    return CursorExpired(why + _BEGIN_AGAIN)


def _is_same_set(
    priced: PricedMessages, rows: MessageRows, cursor: MessageCursor
) -> bool:
    """Return whether the same messages as before stand up to the end of the page.

    It decides where the mark is of another process, which has not seen the changes.
    Messages that were appended since then are newer than the cursor: they do not count.
    """
    return _digest_of(priced, rows[rows < cursor.messages]) == cursor.passed


def _rows_equal_to(
    priced: PricedMessages, message_id: int, instant: ExactInstant
) -> MessageRows:
    messages, (microseconds, fraction) = priced.messages, instant
    equal: MessageRows = np.flatnonzero(messages.ids == message_id)
    equal = equal[messages.instants[equal] == microseconds]
    if messages.fractions is not None:
        equal = equal[messages.fractions[equal] == fraction]
    elif fraction:
        equal = equal[:0]
    return equal


def _digest_of(priced: PricedMessages, rows: MessageRows) -> str:
    """Return a digest of the ids and times of some rows, whatever their order."""
    messages = priced.messages
    mixed = mix_messages(messages.ids[rows], messages.instants[rows])
    return digest_of_mixed(int(mixed.sum(dtype=np.uint64)))


def mix_messages(
    ids: NDArray[np.int64], instants: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Return a number of each message, `(n_messages,)` uint64; sums are digests."""
    mixed_instants = _mix(instants.view(np.uint64) ^ _MIX_1)
    return _mix(_mix(ids.view(np.uint64)) + mixed_instants)


def digest_of_mixed(total: int) -> str:
    """Return the digest of messages, by the sum of what `mix_messages` returns."""
    return f"{total % 2**64:016x}"


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed = (values ^ (values >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _short_digest(*parts: object) -> str:
    return blake2b(repr(parts).encode(), digest_size=_DIGEST_BYTES).hexdigest()
