"""Kept periods in the database: chunks first, then one transaction that publishes.

A revision is published by its row alone, which lists its chunks. So readers see all of
a revision or nothing. Chunks that no revision lists are removed later.
"""

import secrets
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from itertools import count
from typing import Any, Final, NamedTuple

from msgspec.structs import replace
from sqlalchemy import (
    Row,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.elements import ColumnElement

from service.storage.bulk_inserts import insert_by
from service.storage.database import Database
from service.storage.uses import Use
from service.usage.periods.change_queries import (
    ChangesPlace,
    FoundChanges,
    Revision,
    find_changes_since,
)
from service.usage.periods.model import KeptPeriod, SnapshotContent
from service.usage.periods.observer import PeriodObserver, UnobservedPeriods
from service.usage.periods.tables import (
    CLOSED,
    OPEN,
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

_OPEN_PERIOD: Final = select(periods).where(periods.c.status == OPEN)
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
_REMOVE_OUTLINE: Final = delete(outlines).where(
    outlines.c.period_number == bindparam("of_number")
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
_REMOVE_CHUNKS: Final = delete(chunks).where(
    chunks.c.period_number == bindparam("of_number"),
    chunks.c.digest.in_(bindparam("digests", expanding=True)),
)


class StoredPages(NamedTuple):
    """The stored pages of changes of one attempt to publish a revision."""

    attempt: str
    stored: int


class OtherRevision(Exception):
    """Another process has published a revision of the period."""


class PeriodStore:
    """Reads and writes kept periods; all methods raise `StorageError`."""

    def __init__(
        self, database: Database, observer: PeriodObserver | None = None
    ) -> None:
        self._database = database
        self._observer = observer or UnobservedPeriods()

    async def find_open(self) -> KeptPeriod | None:
        """Return the open period."""
        async with self._database.reading(Use.PERIODS) as connection:
            return _period_of((await connection.execute(_OPEN_PERIOD)).first())

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
        """Return changes after a revision or an instant, from a place on."""
        async with self._database.reading(Use.PERIODS) as connection:
            return await find_changes_since(connection, period, since, place, limit)

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
        """Store chunks that no revision lists yet; equal ones are stored once."""
        rows = [
            {"period_number": number, "digest": digest, "content": content}
            for digest, content in contents
        ]
        async with self._database.writing(Use.PERIODS) as connection:
            statement = insert_by(connection.dialect.name, chunks)
            statement = statement.on_conflict_do_nothing()
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

    async def publish(
        self, before: KeptPeriod, content: SnapshotContent, pages: StoredPages
    ) -> KeptPeriod:
        """Publish the next revision of the open period, with its changes; return it.

        Raises `OtherRevision`; then nothing was written.
        """
        async with self._database.writing(Use.PERIODS) as connection:
            revision = before.revision + 1
            # Another process may have fetched later, and been slower.
            is_later = periods.c.fetched_at < content.fetched_at
            values = {"revision": revision, **_values_of(content)}
            await _update(connection, before, values, is_later)
            published = Revision(
                revision, content.fetched_at, before.hundredths, content.hundredths
            )
            await _add_revision(connection, before.number, published, pages.attempt)
            await _put_outline(connection, before.number, revision, content.outline)
            await _check_content(connection, before.number, content, pages)
            period = replace(before, **values)
            await self._observer.published(connection, period)
        return period

    async def open(
        self,
        number: int,
        previous: KeptPeriod | None,
        content: SnapshotContent,
        pages: StoredPages,
    ) -> KeptPeriod:
        """Close the previous period, and open one; return it.

        Raises `OtherRevision` or a storage error if another process was faster.
        """
        async with self._database.writing(Use.PERIODS) as connection:
            if previous is not None:
                closed = {"status": CLOSED, "closed_at": content.fetched_at}
                await _update(connection, previous, closed)
            begins_on = periods.c.period.startswith(content.begins_on, autoescape=True)
            taken = await connection.execute(select(periods.c.period).where(begins_on))
            values = {
                "number": number,
                "period": _free_name(content.begins_on, set(taken.scalars())),
                "status": OPEN,
                "revision": 1,
                **_values_of(content),
            }
            await connection.execute(insert(periods), values)
            first = Revision(1, content.fetched_at, 0, content.hundredths)
            await _add_revision(connection, number, first, pages.attempt)
            await _put_outline(connection, number, first.revision, content.outline)
            await _check_content(connection, number, content, pages)
            period = KeptPeriod(**values)
            await self._observer.published(connection, period)
        return period

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
                unlisted = sorted(set(known.scalars()) - set(period.digests))
                await connection.execute(
                    _REMOVE_CHUNKS,
                    {"of_number": number, "digests": unlisted[:REMOVED_AT_ONCE]},
                )
                if len(unlisted) <= REMOVED_AT_ONCE:
                    await connection.execute(_REMOVE_PAGES, {"of_number": number})
                    return


async def _add_revision(
    connection: AsyncConnection, number: int, published: Revision, attempt: str
) -> None:
    values = {"period_number": number, "attempt": attempt, **published._asdict()}
    await connection.execute(insert(revisions), values)


async def _put_outline(
    connection: AsyncConnection, number: int, revision: int, content: bytes
) -> None:
    await connection.execute(_REMOVE_OUTLINE, {"of_number": number})
    values = {"period_number": number, "revision": revision, "content": content}
    await connection.execute(insert(outlines), values)


async def _check_content(
    connection: AsyncConnection,
    number: int,
    content: SnapshotContent,
    pages: StoredPages,
) -> None:
    """Raise `OtherRevision` if a listed chunk, or a page of changes, is not stored."""
    # Another process may have removed one, which was not listed yet.
    listed = {each.digest for each in content.chunks}
    known = await connection.execute(_KNOWN, {"of_number": number})
    of_attempt = select(func.count()).where(
        changes.c.period_number == number, changes.c.attempt == pages.attempt
    )
    stored = await connection.scalar(of_attempt)
    if not listed <= set(known.scalars()) or stored != pages.stored:
        raise OtherRevision


async def _update(
    connection: AsyncConnection,
    period: KeptPeriod,
    values: Mapping[str, Any],
    *conditions: ColumnElement[bool],
) -> None:
    """Update an open period; raises `OtherRevision` if another process has."""
    updated = await connection.execute(
        update(periods)
        .where(
            periods.c.number == period.number,
            periods.c.revision == period.revision,
            periods.c.status == OPEN,
            *conditions,
        )
        .values(values)
    )
    if not updated.rowcount:
        raise OtherRevision


def _free_name(begins_on: str, taken: Collection[str]) -> str:
    """Return the id of a period: its first date, with `-2` and so on if it is taken."""
    if begins_on not in taken:
        return begins_on
    return next(name for at in count(2) if (name := f"{begins_on}-{at}") not in taken)


def _values_of(content: SnapshotContent) -> dict[str, Any]:
    return {
        "plan": content.plan,
        "first_at": content.first_at,
        "last_at": content.last_at,
        "messages": content.messages,
        "hundredths": content.hundredths,
        "degraded": content.degraded,
        "fetched_at": content.fetched_at,
        "chunks": content.digests,
    }


def _period_of(row: Row[Any] | None) -> KeptPeriod | None:
    return None if row is None else KeptPeriod(**row._mapping)
