"""The check of one statement: the rows of its period, their sums, and their digest."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from msgspec import Struct

from service.instants import format_instant
from service.storage.database import Database
from service.usage.periods.model import KeptPeriod
from service.usage.periods.statements.digests import Statement, StatementHash
from service.usage.periods.statements.kept_credits import find_altered
from service.usage.periods.store import CHUNKS_AT_ONCE, PeriodStore
from service.usage.pricing.plans import HUNDREDTHS_PER_CREDIT
from service.usage.pricing.timestamps import read_instants
from service.usage.snapshots.errors import ChunkDamaged
from service.usage.snapshots.formats import csv_rows
from service.usage.snapshots.item_rows import ItemRows, rows_of_chunk
from service.usage.snapshots.kept import decode_chunk

OnChunk = Callable[[], object]
"""Is called after each chunk that is checked."""


class Difference(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The first difference between a statement and what is kept of its period."""

    what: str
    row: int | None = None
    """The row of the CSV, from 1 after the header; None if it is not one row."""
    message_id: int | None = None


@dataclass
class _Sums:
    """The sums of the rows so far."""

    messages: int = 0
    hundredths: int = 0
    first_at: int = 2**63 - 1
    last_at: int = -(2**63)

    def add(self, rows: ItemRows) -> None:
        instants = read_instants(rows.timestamps).microseconds
        self.messages += len(rows)
        self.hundredths += int(rows.hundredths.sum())
        self.first_at = min(self.first_at, int(np.min(instants)))
        self.last_at = max(self.last_at, int(np.max(instants)))

    def differences(self, period: KeptPeriod) -> Iterator[Difference]:
        """Yield the totals of the period that are not those of its rows."""
        for name, stated, found in (
            ("messages", period.messages, self.messages),
            ("credits_used", *map(_credits, (period.hundredths, self.hundredths))),
            ("from", *map(format_instant, (period.first_at, self.first_at))),
            ("to", *map(format_instant, (period.last_at, self.last_at))),
        ):
            if stated != found:
                what = f"{name} is {stated}, and {found} by the rows"
                yield Difference(what=what)


class PeriodCheck:
    """Checks the period of a statement; methods raise `StorageError`."""

    def __init__(self, database: Database, period: KeptPeriod) -> None:
        self._database = database
        self._store = PeriodStore(database)
        self._period = period
        self._sums = _Sums()

    async def run(self, statement: Statement, on_chunk: OnChunk) -> Difference | None:
        """Return the first difference, if there is one."""
        computed = StatementHash(statement.previous_digest, self._period)
        async for digest, content in self._contents():
            row = self._sums.messages + 1
            if content is None:
                what = f"chunk {digest.hex()} is missing, from this row on"
                return Difference(what=what, row=row)
            try:
                await asyncio.to_thread(self._add, computed, content, digest)
            except ValueError as error:
                return await self._locate(Difference(what=str(error), row=row))
            on_chunk()
        for difference in self._sums.differences(self._period):
            return await self._locate(difference)
        if (found := computed.hexdigest()) == statement.digest:
            return None
        what = f"the digest is {statement.digest}, and {found} by the rows"
        return await self._locate(Difference(what=what))

    def _add(self, computed: StatementHash, content: bytes, digest: bytes) -> None:
        rows = rows_of_chunk(decode_chunk(content, digest))
        if rows.plan != self._period.plan:
            raise ChunkDamaged(
                f"plan is {self._period.plan}, and {rows.plan} by the rows"
            )
        self._sums.add(rows)
        computed.add(csv_rows(rows.items()))

    async def _locate(self, found: Difference) -> Difference:
        """Return the message that was altered, if the kept changes show it."""
        with suppress(ValueError):
            items = self._readable_items()
            altered = await find_altered(self._database, self._period, items)
            if altered is not None:
                what = f"{altered.reason}; {found.what}"
                return Difference(
                    what=what, row=altered.row, message_id=altered.message_id
                )
        return found

    async def _readable_items(self) -> AsyncIterator[ItemRows]:
        """Yield the rows of all chunks, whether or not they were altered."""
        async for _, content in self._contents():
            if content is None:
                raise ChunkDamaged("a chunk is missing")
            yield await asyncio.to_thread(_rows_of, content)

    async def _contents(self) -> AsyncIterator[tuple[bytes, bytes | None]]:
        digests = self._period.digests
        for begin in range(0, len(digests), CHUNKS_AT_ONCE):
            some = digests[begin : begin + CHUNKS_AT_ONCE]
            contents = await self._store.read_chunks(self._period.number, some)
            for each in some:
                yield each, contents.get(each)


def _rows_of(content: bytes) -> ItemRows:
    return rows_of_chunk(decode_chunk(content))


def _credits(hundredths: int) -> float:
    return hundredths / HUNDREDTHS_PER_CREDIT
