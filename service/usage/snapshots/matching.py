"""Matching of messages with those of the previous refresh."""

from collections.abc import Sequence
from operator import eq
from typing import Final, NamedTuple

import numpy as np

from service.usage.pricing.text import Flags
from service.usage.snapshots.columns import MessageRows
from service.usage.snapshots.messages import Messages

NO_ROW: Final = -1
"""Marks a message without a row among the previous messages."""


class Matched(NamedTuple):
    """The row of each message among the previous ones, in `(n_messages,)` columns."""

    rows: MessageRows
    """The previous row with the same id and text, or `NO_ROW`."""
    has_same_time: Flags
    """True where the timestamp is the same too."""
    in_place: int = 0
    """Number of first messages that are unchanged and in their place."""


def match(messages: Messages, before: Messages) -> Matched:
    """Match each message with the previous one of the same id and text.

    Equal ids are enough where texts are missing.
    """
    # Upstream mostly appends, so rows are compared in place, and only the rest by id.
    count, common = len(messages.ids), min(len(messages.ids), len(before.ids))
    same = _find_same(messages, before, common)
    rows = np.full(count, NO_ROW, np.intp)
    in_place = np.flatnonzero(same)
    rows[in_place] = in_place
    same_time = np.zeros(count, np.bool_)
    same_time[:common] = same
    changed = np.flatnonzero(~same)
    moved = [*changed.tolist(), *range(common, len(before.ids))]
    moved_ids = before.ids[np.array(moved, np.intp)].tolist()
    row_by_id = dict(zip(moved_ids, moved, strict=True))
    for row in np.flatnonzero(rows == NO_ROW).tolist():
        old = row_by_id.get(int(messages.ids[row]), NO_ROW)
        if old != NO_ROW and _has_same_text(messages, row, before, old):
            rows[row] = old
            same_time[row] = messages.timestamps[row] == before.timestamps[old]
    return Matched(rows, same_time, int(changed[0]) if len(changed) else common)


def _find_same(messages: Messages, before: Messages, common: int) -> Flags:
    """Return the rows with the same message in the same place: `(common,)` bool."""
    if messages.sent is not None and before.sent is not None:
        kept = messages.sent.count_shared(before.sent)
        compared = slice(kept, common)
        others = _equal(messages.sent[compared], before.sent[compared])
        return np.concatenate([np.ones(kept, np.bool_), others])
    same_time = _equal(messages.timestamps[:common], before.timestamps[:common])
    same: Flags = same_time & (messages.ids[:common] == before.ids[:common])
    return same


def _equal(left: Sequence[object], right: Sequence[object]) -> Flags:
    return np.fromiter(map(eq, left, right), np.bool_, len(left))


def _has_same_text(messages: Messages, row: int, before: Messages, old: int) -> bool:
    if messages.sent is None or before.sent is None:
        return True
    return messages.sent[row].text == before.sent[old].text
