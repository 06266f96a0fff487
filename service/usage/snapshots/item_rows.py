"""Priced messages as rows with all that is kept of them: prices, sources and steps.

A snapshot and a chunk of a kept period give the same rows. Exports and digests are made
of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from service.usage.pricing.plans import HUNDREDTHS_PER_CREDIT, Hundredths
from service.usage.snapshots.answers import UsageItem
from service.usage.snapshots.columns import PricedMessages
from service.usage.snapshots.errors import ChunkDamaged
from service.usage.snapshots.formats import csv_rows
from service.usage.snapshots.kept import KeptColumns, decode_chunk


@dataclass(frozen=True, eq=False, kw_only=True)
class ItemRows:
    """Some messages of a period under one plan, in the upstream's order."""

    plan: str
    ids: NDArray[np.int64]
    """`(n_rows,)`."""
    timestamps: list[str]
    names: list[str | None]
    """The name of the report that priced the message; None if its text priced it."""
    hundredths: Hundredths
    """`(n_rows,)` int64: prices in hundredths of a credit."""
    steps: Hundredths
    """`(n_steps, n_rows)` int64; 0 where a report priced the message."""

    def __len__(self) -> int:
        return len(self.timestamps)

    def items(self) -> Iterator[UsageItem]:
        """Yield the items of the API."""
        names = [UNSET if name is None else name for name in self.names]
        prices = (self.hundredths / HUNDREDTHS_PER_CREDIT).tolist()
        columns = self.ids.tolist(), self.timestamps, names, prices
        return map(UsageItem, *columns)


def csv_of_chunk(content: bytes, digest: bytes) -> bytes:
    """Return the items of a compressed chunk as CSV, without the header.

    Raises `ChunkDamaged`.
    """
    return csv_rows(rows_of_chunk(decode_chunk(content, digest)).items())


def rows_of(priced: PricedMessages, begin: int, end: int) -> ItemRows:
    """Return rows of a snapshot."""
    rows = slice(begin, end)
    return ItemRows(
        plan=priced.plan.id,
        ids=priced.messages.ids[rows],
        timestamps=list(priced.messages.timestamps[rows]),
        names=_names_of(priced.names, priced.name_of[rows]),
        hundredths=priced.hundredths[rows],
        steps=priced.steps[:, rows].astype(np.int64, copy=False),
    )


def rows_of_chunk(chunk: KeptColumns) -> ItemRows:
    """Return the rows of a chunk; raises `ChunkDamaged`."""
    count = len(chunk.timestamps)
    try:
        name_of = np.frombuffer(chunk.name_of, "<i4").reshape(count)
        return ItemRows(
            plan=chunk.plan,
            ids=np.frombuffer(chunk.ids, "<i8").reshape(count),
            timestamps=chunk.timestamps,
            names=_names_of(chunk.names, name_of),
            hundredths=np.frombuffer(chunk.hundredths, "<i8").reshape(count),
            steps=np.frombuffer(chunk.steps, "<i8").reshape(-1, count),
        )
    except (ValueError, IndexError) as error:
        raise ChunkDamaged(f"a chunk is damaged: {error}") from error


def _names_of(names: list[str], name_of: NDArray[np.int32]) -> list[str | None]:
    # `BY_TEXT` is -1, and selects the last one.
    listed: list[str | None] = np.array([*names, None], object)[name_of].tolist()
    return listed
