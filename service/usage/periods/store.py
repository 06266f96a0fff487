"""Kept periods in the database: reads, and chunks before `publication` lists them.

A revision is published by its row alone, which lists its chunks. Chunks that no
revision lists are removed later.
"""

import secrets
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import Any, Final

from sqlalchemy import (
    Row,
    bindparam,
    delete,
    func,
    insert,
    select,
)

from service.storage.bulk_inserts import insert_by
from service.storage.database import Database
from service.storage.uses import Use
from service.usage.periods.change_queries import (
    ChangesPlace,
    ChangeSums,
    FoundChanges,
    find_changes_since,
    read_sums,
)
from service.usage.periods.model import Adjustments, KeptPeriod, split_digests
from service.usage.periods.publication import StoredPages
from service.usage.periods.tables import (
    CLOSED,
    OPEN,
    adjustments,
    changes,
    chunks,
    outlines,
    periods,
    revisions,
)

CHUNKS_AT_ONCE: Final = 4
"""Chunks of one transaction; one is some hundred kilobytes."""
REMOVED_AT_ONCE: Final = 50
ATTEMPT_BYTES: Final = 8

MAX_INSTANT: Final = 2**62

_OPEN_PERIOD: Final = (
    select(periods)
    .where(periods.c.status == OPEN)
    .order_by(func.coalesce(periods.c.ends_at, MAX_INSTANT).desc())
    .limit(1)
)
_CLOSED_PERIODS: Final = (
    select(periods).where(periods.c.status == CLOSED).order_by(periods.c.number.desc())
)
_PERIOD: Final = select(periods).where(periods.c.period == bindparam("of_period"))
_KNOWN: Final = select(chunks.c.digest).where(
    chunks.c.period_number == bindparam("of_number")
)
_CHUNKS: Final = select(chunks.c.digest, chunks.c.content).where(
    chunks.c.period_number == bindparam("of_number"),
    chunks.c.digest.in_(bindparam("digests", expanding=True)),
)
_OUTLINE: Final = select(outlines.c.content).where(
    outlines.c.period_number == bindparam("of_number"),
    outlines.c.revision == bindparam("of_revision"),
)
_REMOVE_PAGES: Final = delete(changes).where(
    changes.c.period_number == bindparam("of_number"),
    changes.c.attempt.not_in(
        select(revisions.c.attempt).where(
            revisions.c.period_number == bindparam("of_number")
        )
    ),
)
_LOCKED: Final = (
    select(periods).where(periods.c.number == bindparam("of_number")).with_for_update()
)
_ADJUSTMENTS: Final = select(adjustments).where(
    adjustments.c.period_number.in_(bindparam("numbers", expanding=True))
)
_LATE_CHUNKS: Final = select(adjustments.c.chunks).where(
    adjustments.c.period_number == bindparam("of_number")
)
_REMOVE_CHUNKS: Final = delete(chunks).where(
    chunks.c.period_number == bindparam("of_number"),
    chunks.c.digest.in_(bindparam("digests", expanding=True)),
)


class PeriodStore:
    """Reads and writes kept periods; all methods raise `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_open(self) -> KeptPeriod | None:
        """Return the open period; the last month of several."""
        async with self._database.reading(Use.PERIODS) as connection:
            return _period_of((await connection.execute(_OPEN_PERIOD)).first())

    async def newest_closed(self, limit: int) -> list[KeptPeriod]:
        """Return the closed periods, the newest first."""
        async with self._database.reading(Use.PERIODS) as connection:
            rows = (await connection.execute(_CLOSED_PERIODS.limit(limit))).all()
        return [KeptPeriod(**row._mapping) for row in rows]

    async def find(self, period: str) -> KeptPeriod | None:
        """Return a period by its id."""
        async with self._database.reading(Use.PERIODS) as connection:
            found = await connection.execute(_PERIOD, {"of_period": period})
            return _period_of(found.first())

    async def newest(self, before: int | None, limit: int) -> list[KeptPeriod]:
        """Return the newest periods, with numbers below `before`."""
        query = select(periods).order_by(periods.c.number.desc()).limit(limit)
        if before is not None:
            query = query.where(periods.c.number < before)
        async with self._database.reading(Use.PERIODS) as connection:
            rows = (await connection.execute(query)).all()
        return [KeptPeriod(**row._mapping) for row in rows]

    async def changes(
        self,
        period: KeptPeriod,
        since: tuple[int | None, int | None],
        place: ChangesPlace | None,
        limit: int,
    ) -> FoundChanges:
        """Return changes after a revision or an instant, from a place on.

        Raises `ChunkDamaged` for a damaged page.
        """
        async with self._database.reading(Use.PERIODS) as connection:
            return await find_changes_since(connection, period, since, place, limit)

    def change_sums(self, period: KeptPeriod) -> AsyncIterator[ChangeSums]:
        """Yield the changes of all revisions that led to the period, page by page.

        Raises `ChunkDamaged` for a damaged page.
        """
        return read_sums(self._database, period)

    async def find_adjustments(self, number: int) -> Adjustments:
        """Return what came after a period was closed."""
        found = await self.adjustments_of([number])
        return found.get(number, Adjustments(period_number=number))

    async def adjustments_of(self, numbers: Collection[int]) -> dict[int, Adjustments]:
        """Return the adjustments of these periods, by the numbers of the periods."""
        async with self._database.reading(Use.PERIODS) as connection:
            rows = await connection.execute(_ADJUSTMENTS, {"numbers": list(numbers)})
            return {row.period_number: Adjustments(**row._mapping) for row in rows}

    async def find_month(self, starts_at: int) -> KeptPeriod | None:
        """Return the period of the calendar month that begins at an instant."""
        query = select(periods).where(periods.c.starts_at == starts_at)
        async with self._database.reading(Use.PERIODS) as connection:
            return _period_of((await connection.execute(query)).first())

    async def find_unbounded(self) -> KeptPeriod | None:
        """Return the open period that has no calendar month."""
        query = select(periods).where(
            periods.c.status == OPEN, periods.c.starts_at.is_(None)
        )
        async with self._database.reading(Use.PERIODS) as connection:
            return _period_of((await connection.execute(query)).first())

    async def open_months(self, ended_at: int) -> list[KeptPeriod]:
        """Return the open periods whose month has ended, the oldest first."""
        query = (
            select(periods)
            .where(periods.c.status == OPEN, periods.c.ends_at <= ended_at)
            .order_by(periods.c.number)
        )
        async with self._database.reading(Use.PERIODS) as connection:
            rows = (await connection.execute(query)).all()
        return [KeptPeriod(**row._mapping) for row in rows]

    async def known_digests(self, number: int) -> set[bytes]:
        """Return the digests of all stored chunks of a period."""
        async with self._database.reading(Use.PERIODS) as connection:
            rows = await connection.execute(_KNOWN, {"of_number": number})
            return set(rows.scalars())

    async def read_chunks(
        self, number: int, digests: Sequence[bytes]
    ) -> dict[bytes, bytes]:
        """Return the content of some chunks of a period, by their digests."""
        found: dict[bytes, bytes] = {}
        for begin in range(0, len(digests), CHUNKS_AT_ONCE):
            some = list(digests[begin : begin + CHUNKS_AT_ONCE])
            async with self._database.reading(Use.PERIODS) as connection:
                rows = await connection.execute(
                    _CHUNKS, {"of_number": number, "digests": some}
                )
                found.update((row.digest, row.content) for row in rows)
        return found

    async def read_outline(self, number: int, revision: int) -> bytes | None:
        """Return the outline of a revision; None if another one has replaced it."""
        values = {"of_number": number, "of_revision": revision}
        async with self._database.reading(Use.PERIODS) as connection:
            content: bytes | None = await connection.scalar(_OUTLINE, values)
        return content

    async def next_number(self) -> int:
        """Return the number of a period that does not exist yet."""
        async with self._database.reading(Use.PERIODS) as connection:
            last = await connection.scalar(select(func.max(periods.c.number)))
        return (last or 0) + 1

    async def add_chunks(
        self, number: int, contents: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """Store chunks; one that is stored already may be damaged, and is replaced."""
        rows = [
            {"period_number": number, "digest": digest, "content": content}
            for digest, content in contents
        ]
        # Before the transaction, since the first call loads modules.
        adding = insert_by(self._database.dialect, chunks)
        statement = adding.on_conflict_do_update(
            index_elements=list(chunks.primary_key.columns),
            set_={"content": adding.excluded.content},
        )
        async with self._database.writing(Use.PERIODS) as connection:
            await connection.execute(statement, rows)

    async def add_pages(
        self, number: int, pages: AsyncIterator[list[bytes]]
    ) -> StoredPages:
        """Store pages of changes that no revision has yet, one batch a transaction."""
        attempt, stored = secrets.token_hex(ATTEMPT_BYTES), 0
        async for batch in pages:
            rows = [
                {
                    "period_number": number,
                    "attempt": attempt,
                    "page": page,
                    "content": content,
                }
                for page, content in enumerate(batch, start=stored)
            ]
            stored += len(rows)
            async with self._database.writing(Use.PERIODS) as connection:
                await connection.execute(insert(changes), rows)
        return StoredPages(attempt, stored)

    async def remove_unlisted(self, number: int) -> None:
        """Remove what no revision of a period lists: chunks, and pages of changes."""
        while True:
            async with self._database.writing(Use.PERIODS) as connection:
                # The lock of the row keeps others from publishing meanwhile.
                found = await connection.execute(_LOCKED, {"of_number": number})
                period = _period_of(found.first())
                if period is None:
                    return
                known = await connection.execute(_KNOWN, {"of_number": number})
                late = await connection.scalar(_LATE_CHUNKS, {"of_number": number})
                listed = period.digests + period.text_digests
                listed += split_digests(late or b"")
                unlisted = sorted(set(known.scalars()) - set(listed))
                await connection.execute(
                    _REMOVE_CHUNKS,
                    {"of_number": number, "digests": unlisted[:REMOVED_AT_ONCE]},
                )
                if len(unlisted) <= REMOVED_AT_ONCE:
                    await connection.execute(_REMOVE_PAGES, {"of_number": number})
                    return


def _period_of(row: Row[Any] | None) -> KeptPeriod | None:
    return None if row is None else KeptPeriod(**row._mapping)
