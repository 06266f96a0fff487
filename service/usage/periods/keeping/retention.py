"""Retention: the oldest closed periods are removed beyond `periods.retention`.

The row of a period is removed first, in one transaction that notes it in its statement.
From then on nobody finds the period. Its chunks and changes follow in short steps, also
after a kill. The statement stays: its digest is the anchor of the chain.
"""

from collections.abc import Sequence
from typing import Final

import structlog
from sqlalchemy import Table, delete, exists, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.instants import now_us
from service.storage import free_space
from service.storage.database import Database
from service.storage.maintenance import Batches, Work, repeat_logged
from service.storage.uses import Use
from service.usage.periods import metrics
from service.usage.periods.tables import (
    CLOSED,
    adjustments,
    changes,
    chunks,
    outlines,
    periods,
    revisions,
    statements,
)

EVERY_S: Final = 60.0
SHARE: Final = 0.3
"""Share of the time for removals."""
MIN_ROWS: Final = 4
"""A chunk has some hundred kilobytes."""
PARTS: Final = (adjustments, changes, chunks, outlines, revisions)
"""Tables whose rows belong to a period."""

_CLOSED_PERIODS: Final = (
    select(func.count()).select_from(periods).where(periods.c.status == CLOSED)
)
# Digests are computed in this order, so the oldest period has the first one.
_OLDEST: Final = (
    select(periods.c.number, periods.c.messages, statements.c.period)
    .add_columns(statements.c.digest)
    .join_from(periods, statements, statements.c.period_number == periods.c.number)
    .where(periods.c.status == CLOSED)
    .order_by(periods.c.number)
    .limit(1)
)
_REMOVED: Final = select(statements.c.period_number).where(
    statements.c.removed_at.is_not(None)
)

log = structlog.get_logger()


class PeriodRetention:
    """Removes closed periods beyond a number of them."""

    def __init__(
        self, kept: int, database: Database, more_parts: Sequence[Table] = ()
    ) -> None:
        """Keep the newest `kept` closed periods; all for 0.

        Rows of removed periods are removed from `more_parts`, too.
        """
        self._kept = kept
        self._database = database
        self._more_parts = more_parts

    async def run(self) -> None:
        """Remove at every interval; a failure is logged and repeated."""
        await repeat_logged("usage.period_removal_failed", self.remove, EVERY_S)

    async def remove(self) -> None:
        """Remove periods, and what is left of removed ones; raises `StorageError`."""
        while self._kept and await self._remove_oldest():
            pass
        rows = 0
        for table in (*PARTS, *self._more_parts):
            if await self._has_left(table):
                rows += await self._remove_parts(table)
        if rows and self._database.is_sqlite:
            await self._release_space()

    async def _remove_oldest(self) -> bool:
        """Remove the row of the oldest period if there are too many."""
        async with self._database.reading(Use.RETENTION) as connection:
            closed = await connection.scalar(_CLOSED_PERIODS) or 0
            oldest = (await connection.execute(_OLDEST)).first()
        if oldest is None or closed <= self._kept:
            return False
        number = oldest.number
        async with self._database.writing(Use.RETENTION) as connection:
            removed = await connection.execute(
                delete(periods).where(periods.c.number == number)
            )
            await connection.execute(
                update(statements)
                .where(statements.c.period_number == number)
                .values(removed_at=now_us())
            )
        # Another process may have been faster.
        if removed.rowcount:
            metrics.removed()
            log.info(
                "usage.period_removed",
                period=oldest.period,
                digest=oldest.digest,
                messages=oldest.messages,
            )
        return True

    async def _has_left(self, table: Table) -> bool:
        left = exists().where(table.c.period_number.in_(_REMOVED))
        async with self._database.reading(Use.RETENTION) as connection:
            return bool(await connection.scalar(select(left)))

    async def _remove_parts(self, table: Table) -> int:
        batches, work = Batches(self._database, SHARE, MIN_ROWS), _removal(table)
        total = 0
        while removed := await batches.run(work):
            total += removed
        return total

    async def _release_space(self) -> None:
        async with self._database.reading(Use.RETENTION) as connection:
            if not await free_space.is_shrinkable(connection):
                return
        batches = Batches(self._database, SHARE, MIN_ROWS)
        while await batches.run(free_space.release):
            pass


def _removal(table: Table) -> Work:
    """Return the work that removes rows of removed periods, up to a limit."""
    key = list(table.primary_key.columns)

    async def remove(connection: AsyncConnection, limit: int) -> int:
        left = select(*key).where(table.c.period_number.in_(_REMOVED)).limit(limit)
        result = await connection.execute(delete(table).where(tuple_(*key).in_(left)))
        return int(result.rowcount)

    return remove
