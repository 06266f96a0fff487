"""Rows of few chunks of a kept period, and cursors that continue after them.

Bodies and cursors are equal to those of a snapshot that has the whole period.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from msgspec import structs

from service.usage.pricing.timestamps import read_instants
from service.usage.snapshots.columns import PricedMessages
from service.usage.snapshots.cursors import (
    MessageCursor,
    cursor_after,
    digest_of_mixed,
    find_last,
    mark_of,
    mix_messages,
    moved,
    query_digest,
    why_gone,
)
from service.usage.snapshots.errors import MessageNotFound
from service.usage.snapshots.formats import FORMATS
from service.usage.snapshots.kept import KeptColumns, Rows, join_chunks, take_rows
from service.usage.snapshots.outline import Outline
from service.usage.snapshots.queries import explain
from service.usage.snapshots.selection import EVERYTHING, Selection, find_range
from service.usage.snapshots.sharing import unpack

MAX_COPIES: Final = 1_000
"""More messages of one id take longer than the event loop may wait."""


class Found(NamedTuple):
    """A chunk, and the number of messages of the period that precede it."""

    begin: int
    chunk: KeptColumns

    def id_of(self, row: int) -> int:
        """Return the id of a message by its row in the period."""
        return int(np.frombuffer(self.chunk.ids, "<i8")[row - self.begin])


class Copies(NamedTuple):
    """All messages of one id: their rows in the period, and their prices."""

    rows: Rows
    priced: PricedMessages


class Place(NamedTuple):
    """A number of messages of a period, and the sum of `mix_messages` of them."""

    row: int
    mixed: int


class Revision(NamedTuple):
    """The plan of a kept period, and the id of its revision."""

    plan: str
    name: str


def encode_rows(
    revision: Revision, found: Sequence[Found], bounds: tuple[int, int], media_type: str
) -> bytes:
    """Encode the rows from the first to before the second bound; they are in chunks."""
    begin, end = bounds
    parts = []
    for first, chunk in found:
        size = len(chunk.timestamps)
        rows = np.arange(max(begin - first, 0), min(end - first, size))
        parts.append(take_rows(chunk, rows))
    priced = _priced(revision, parts)
    return bytes(FORMATS[media_type](priced, None))


def explain_message(
    revision: Revision, found: Sequence[Found], message_id: int
) -> bytes:
    """Encode the price of a message; raises `MessageNotFound`."""
    for _, chunk in found:
        rows = _rows_of(chunk, message_id)
        if len(rows):
            priced = _priced(revision, [take_rows(chunk, rows[:1])])
            return msgspec.json.encode(explain(priced, 0))
    raise MessageNotFound(message_id)


def find_copies(
    revision: Revision, found: Sequence[Found], message_id: int
) -> Copies | None:
    """Return the messages of an id; None if they are more than `MAX_COPIES`.

    `found` are all chunks that may have it.
    """
    rows = [(each, _rows_of(each.chunk, message_id)) for each in found]
    if sum(len(of_chunk) for _, of_chunk in rows) > MAX_COPIES:
        return None
    used = [(each, of_chunk) for each, of_chunk in rows if len(of_chunk)]
    places = [each.begin + of_chunk for each, of_chunk in used]
    parts = [take_rows(each.chunk, of_chunk) for each, of_chunk in used]
    return Copies(
        np.concatenate([np.zeros(0, np.intp), *places]), _priced(revision, parts)
    )


def find_rows(found: Found, selection: Selection) -> tuple[int, int] | None:
    """Return the rows of a chunk within the range of a selection: begin and end.

    None if other messages are between them.
    """
    rows = find_range(read_instants(found.chunk.timestamps), selection)
    if not len(rows):
        return found.begin, found.begin
    begin, end = int(rows[0]), int(rows[-1]) + 1
    if end - begin != len(rows):
        return None
    return found.begin + begin, found.begin + end


def place_of(outline: Outline, found: Found, row: int) -> Place:
    """Return the place after a row of a chunk."""
    size = row + 1 - found.begin
    ids = np.frombuffer(found.chunk.ids, "<i8")[:size]
    instants = read_instants(found.chunk.timestamps[:size]).microseconds
    mixed = int(mix_messages(ids, instants).sum(dtype=np.uint64))
    return Place(row + 1, outline.mixed_before(found.begin) + mixed)


def row_of_cursor(outline: Outline, copies: Copies, cursor: MessageCursor) -> int:
    """Return the row of a cursor's message; raises `CursorExpired`."""
    at = find_last(copies.priced, cursor)
    if at < 0:
        begins_at = int(outline.chunks.first_at.min())
        raise why_gone(copies.priced, cursor, begins_at)
    return int(copies.rows[at])


def check_passed(copies: Copies, passed: Place, cursor: MessageCursor) -> None:
    """Raise `CursorExpired` if other messages now precede the end of the last page.

    `passed` is the place of the cursor, or of the end of its period if that was before.
    """
    is_same = cursor.mark == mark_of(copies.priced, EVERYTHING.sort)
    if not is_same and digest_of_mixed(passed.mixed) != cursor.passed:
        raise moved()


def make_cursor(
    copies: Copies, end: Place, messages: int, selection: Selection
) -> MessageCursor:
    """Return the cursor of a page that ends before this place."""
    (at,) = np.flatnonzero(copies.rows == end.row - 1)
    priced, sort = copies.priced, selection.sort
    query = query_digest(priced.plan.id, sort, selection.since, selection.until)
    cursor = cursor_after(priced, np.arange(at + 1), query, sort)
    passed = digest_of_mixed(end.mixed)
    return structs.replace(cursor, messages=messages, passed=passed)


def _rows_of(chunk: KeptColumns, message_id: int) -> Rows:
    return np.flatnonzero(np.frombuffer(chunk.ids, "<i8") == message_id)


def _priced(revision: Revision, parts: Sequence[KeptColumns]) -> PricedMessages:
    return unpack(join_chunks(parts, revision.plan, revision.name))
