"""Comparison of messages with the kept changes of their period.

The changes of a message add up to its credits. So a message whose credits differ from
them was altered after it was kept, or its changes were. And where a chunk is damaged,
they tell the credits of its messages.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.storage.database import Database
from service.usage.periods.change_queries import ChangeSums, read_sums
from service.usage.periods.changes import PackedChanges, pack_pages
from service.usage.periods.model import Change, ChangeKind, KeptPeriod
from service.usage.pricing.plans import HUNDREDTHS_PER_CREDIT
from service.usage.snapshots.item_rows import ItemRows

Column = NDArray[np.int64]
DAMAGED: Final = "what was kept of the message is damaged"


class AlteredMessage(NamedTuple):
    """A message whose credits are not the sum of its changes."""

    row: int | None
    """From 1; None if the period has no such message any more."""
    message_id: int
    reason: str


class RestoredChanges(NamedTuple):
    """Changes to a snapshot from a period of which a chunk is damaged."""

    packed: PackedChanges
    is_shared: bool
    """True if a message of the period has the same id and credits in the snapshot."""


class _Credits(NamedTuple):
    """The credits of each message id: `(n_ids,)` int64."""

    ids: Column
    present: Column
    """By the rows."""
    expected: Column
    """By the changes."""
    of_rows: NDArray[np.intp]
    """The place of each row among the ids."""


async def find_altered(
    database: Database, period: KeptPeriod, items: AsyncIterator[ItemRows]
) -> AlteredMessage | None:
    """Return the first message that differs from its changes, if one does.

    It holds 16 bytes for each message and for each change. Raises `StorageError`, and
    `ValueError` for damaged changes.
    """
    rows = [ChangeSums(each.ids, each.hundredths) async for each in items]
    changes = [each async for each in read_sums(database, period)]
    return await asyncio.to_thread(_find_altered, rows, changes)


def restore_changes(
    changes: Sequence[ChangeSums], rows: Sequence[ChangeSums]
) -> RestoredChanges:
    """Return what led from a period to these rows, by the changes that led to it.

    Nothing is known of its messages but their ids and credits. So a message that
    differs is one that was removed, and one that was added.
    """
    credits_of = _compare(rows, changes)
    restored = []
    for place in np.flatnonzero(credits_of.present != credits_of.expected).tolist():
        message_id = int(credits_of.ids[place])
        before, after = (
            int(each[place]) for each in (credits_of.expected, credits_of.present)
        )
        if before:
            removed = ChangeKind.REMOVED, message_id, before, 0, DAMAGED
            restored.append(Change(*removed))
        if after:
            restored.append(Change(ChangeKind.ADDED, message_id, 0, after, DAMAGED))
    is_equal = credits_of.present == credits_of.expected
    return RestoredChanges(
        PackedChanges(list(pack_pages(restored)), len(restored)),
        is_shared=bool((is_equal & (credits_of.present != 0)).any()),
    )


def _find_altered(
    rows: Sequence[ChangeSums], changes: Sequence[ChangeSums]
) -> AlteredMessage | None:
    ids, present, expected, of_rows = _compare(rows, changes)
    is_altered = present != expected
    if not is_altered.any():
        return None
    altered = np.flatnonzero(is_altered[of_rows])
    if len(altered):
        row = int(altered[0])
        place = of_rows[row]
    else:
        row, place = -1, np.flatnonzero(is_altered)[0]
    credits_kept, credits_changed = (
        each[place] / HUNDREDTHS_PER_CREDIT for each in (present, expected)
    )
    reason = f"{credits_kept} credits, and its changes add up to {credits_changed}"
    return AlteredMessage(row + 1 or None, int(ids[place]), reason)


def _compare(rows: Sequence[ChangeSums], changes: Sequence[ChangeSums]) -> _Credits:
    kept, changed = _join(rows), _join(changes)
    both = np.concatenate([kept.ids, changed.ids])
    ids, places = np.unique(both, return_inverse=True)
    of_rows, of_changes = places[: len(kept.ids)], places[len(kept.ids) :]
    # Sums of integers, which weights of `bincount` would round.
    present, expected = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
    np.add.at(present, of_rows, kept.hundredths)
    np.add.at(expected, of_changes, changed.hundredths)
    return _Credits(ids, present, expected, of_rows)


def _join(parts: Sequence[ChangeSums]) -> ChangeSums:
    columns = zip(*[(np.zeros(0, np.int64),) * 2, *parts], strict=True)
    return ChangeSums(*map(np.concatenate, columns))
