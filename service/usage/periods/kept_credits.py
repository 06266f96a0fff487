"""Comparison of a period with its changes, to find the message that was altered.

The changes of a message add up to its credits. So a message whose credits differ from
them was altered after it was kept, or its changes were.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.storage.database import Database
from service.usage.periods.change_queries import ChangeSums, read_sums
from service.usage.periods.model import KeptPeriod
from service.usage.pricing.plans import HUNDREDTHS_PER_CREDIT
from service.usage.snapshots.item_rows import ItemRows

Column = NDArray[np.int64]


class AlteredMessage(NamedTuple):
    """A message whose credits are not the sum of its changes."""

    row: int | None
    """From 1; None if the period has no such message any more."""
    message_id: int
    reason: str


async def find_altered(
    database: Database, period: KeptPeriod, items: AsyncIterator[ItemRows]
) -> AlteredMessage | None:
    """Return the first message that differs from its changes, if one does.

    It holds 16 bytes for each message and for each change. Raises `StorageError`, and
    `ValueError` for damaged changes.
    """
    rows = [ChangeSums(each.ids, each.hundredths) async for each in items]
    changes = [each async for each in read_sums(database, period)]
    return await asyncio.to_thread(_compare, rows, changes)


def _compare(
    rows: Sequence[ChangeSums], changes: Sequence[ChangeSums]
) -> AlteredMessage | None:
    kept, changed = _join(rows), _join(changes)
    both = np.concatenate([kept.ids, changed.ids])
    ids, places = np.unique(both, return_inverse=True)
    of_rows, of_changes = places[: len(kept.ids)], places[len(kept.ids) :]
    # Sums of integers, which weights of `bincount` would round.
    present, expected = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
    np.add.at(present, of_rows, kept.hundredths)
    np.add.at(expected, of_changes, changed.hundredths)
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


def _join(parts: Sequence[ChangeSums]) -> ChangeSums:
    columns = zip(*[(np.zeros(0, np.int64),) * 2, *parts], strict=True)
    return ChangeSums(*map(np.concatenate, columns))
