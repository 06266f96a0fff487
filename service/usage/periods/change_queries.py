"""Queries on the changes of a kept period, revision by revision."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Final, NamedTuple

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from sqlalchemy import and_, bindparam, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.database import Database
from service.storage.uses import Use
from service.usage.periods.changes import unpack_page
from service.usage.periods.model import Change, KeptPeriod
from service.usage.periods.tables import changes, revisions

MAX_INTEGER: Final = 2**31 - 1

_STORED_CHANGES: Final = (
    select(revisions.c.revision, revisions.c.at, changes.c.page, changes.c.content)
    .join_from(
        revisions,
        changes,
        and_(
            changes.c.period_number == revisions.c.period_number,
            changes.c.attempt == revisions.c.attempt,
        ),
    )
    .where(revisions.c.period_number == bindparam("of_number"))
    .order_by(revisions.c.revision, changes.c.page)
)
_LAST_TOTAL: Final = (
    select(revisions.c.hundredths_after)
    .where(revisions.c.period_number == bindparam("of_number"))
    .order_by(revisions.c.revision.desc())
    .limit(1)
)


class Revision(NamedTuple):
    """A published revision; the time in microseconds, credits in hundredths."""

    revision: int
    at: int
    hundredths_before: int
    hundredths_after: int
    skipped: int = 0
    """Snapshots before it that were never compared."""


class ChangesPlace(NamedTuple):
    """The place of a page of changes: the changes of a stored page that precede it."""

    revision: Annotated[int, Meta(ge=1, le=MAX_INTEGER)]
    page: Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
    offset: Annotated[int, Meta(ge=0, le=MAX_INTEGER)]


class ChangeSums(NamedTuple):
    """The ids of messages, and how their credits change: `(n_changes,)` int64."""

    ids: NDArray[np.int64]
    hundredths: NDArray[np.int64]


class ListedChange(NamedTuple):
    """A change, its revision, and the time of that in microseconds."""

    revision: int
    at: int
    change: Change


class FoundChanges(NamedTuple):
    """A page of changes, and the credits before and after all changes of the query."""

    changes: list[ListedChange]
    before: int
    after: int
    next: ChangesPlace | None
    skipped: int = 0
    """Snapshots that were never compared, so that changes in between are unknown."""


class _Bounds(NamedTuple):
    """The first and the last revision of a query."""

    first: int
    last: int
    skipped: int


async def find_changes_since(
    connection: AsyncConnection,
    period: KeptPeriod,
    since: tuple[int | None, int | None],
    place: ChangesPlace | None,
    limit: int,
) -> FoundChanges:
    """Return changes after a revision or an instant, from a place on.

    Raises `ChunkDamaged` for a damaged page.
    """
    bounds = await _find_bounds(connection, period, since)
    if bounds is None:
        # Adjustments are in the last revision, and not in the row of the period.
        last = await connection.scalar(_LAST_TOTAL, {"of_number": period.number})
        total = period.hundredths if last is None else last
        return FoundChanges([], total, total, None)
    totals = await connection.execute(
        select(
            revisions.c.revision,
            revisions.c.hundredths_before,
            revisions.c.hundredths_after,
        ).where(
            revisions.c.period_number == period.number,
            revisions.c.revision.in_(bounds[:2]),
        )
    )
    ends = {row.revision: row for row in totals}
    listed, following = await _read_changes(connection, period, bounds, place, limit)
    before = ends[bounds.first].hundredths_before
    after = ends[bounds.last].hundredths_after
    return FoundChanges(listed, before, after, following, bounds.skipped)


async def _find_bounds(
    connection: AsyncConnection,
    period: KeptPeriod,
    since: tuple[int | None, int | None],
) -> _Bounds | None:
    """Return the revisions after a revision or an instant; None without any."""
    revision, instant = since
    # A month has a revision a minute. The database is faster than 40,000 rows here.
    query = select(
        func.min(revisions.c.revision),
        func.max(revisions.c.revision),
        func.sum(revisions.c.skipped),
    ).where(revisions.c.period_number == period.number)
    if revision is not None:
        query = query.where(revisions.c.revision > revision)
    if instant is not None:
        query = query.where(revisions.c.at > instant)
    found = (await connection.execute(query)).one()
    return None if found[0] is None else _Bounds(*found)


async def read_sums(
    database: Database, period: KeptPeriod
) -> AsyncIterator[ChangeSums]:
    """Yield the changes of all revisions that led to the period, page by page.

    Raises `StorageError`, and `ChunkDamaged` for a damaged page.
    """
    query = _STORED_CHANGES.where(revisions.c.revision <= period.revision)
    async with database.reading(Use.PERIODS) as connection:
        async for row in await connection.stream(query, {"of_number": period.number}):
            yield await asyncio.to_thread(_sums_of, row.content)


def _sums_of(content: bytes) -> ChangeSums:
    page = unpack_page(content)
    ids = np.array([each.message_id for each in page], np.int64)
    return ChangeSums(
        ids, np.array([each.after - each.before for each in page], np.int64)
    )


async def _read_changes(
    connection: AsyncConnection,
    period: KeptPeriod,
    bounds: _Bounds,
    place: ChangesPlace | None,
    limit: int,
) -> tuple[list[ListedChange], ChangesPlace | None]:
    """Return up to `limit` changes, and the place of those that follow."""
    first = place or ChangesPlace(bounds.first, 0, 0)
    query = _STORED_CHANGES.where(
        revisions.c.revision.between(bounds.first, bounds.last),
        tuple_(revisions.c.revision, changes.c.page)
        >= tuple_(first.revision, first.page),
    )
    listed: list[ListedChange] = []
    rows = await connection.stream(query, {"of_number": period.number})
    async for row in rows:
        is_first = (row.revision, row.page) == first[:2]
        skipped = first.offset if is_first else 0
        stored = (await asyncio.to_thread(unpack_page, row.content))[skipped:]
        free = limit - len(listed)
        listed += [ListedChange(row.revision, row.at, each) for each in stored[:free]]
        if len(stored) > free:
            await rows.close()
            return listed, ChangesPlace(row.revision, row.page, skipped + free)
    return listed, None
