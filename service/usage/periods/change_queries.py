"""Queries on the changes of a kept period, revision by revision."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from sqlalchemy import and_, bindparam, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.database import Database
from service.storage.uses import Use
from service.usage.periods.changes import unpack_page
from service.usage.periods.model import Change, KeptPeriod
from service.usage.periods.tables import changes, revisions

MAX_INTEGER: Final = 2**31 - 1

_STORED_CHANGES: Final = (
    select(revisions.c.revision, changes.c.page, changes.c.content)
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


class FoundChanges(NamedTuple):
    """A page of changes, and the credits before and after all changes of the query."""

    changes: list[tuple[Revision, Change]]
    before: int
    after: int
    next: ChangesPlace | None
    skipped: int = 0
    """Snapshots that were never compared, so that changes in between are unknown."""


async def find_changes_since(
    connection: AsyncConnection,
    period: KeptPeriod,
    since: tuple[int | None, int | None],
    place: ChangesPlace | None,
    limit: int,
) -> FoundChanges:
    """Return changes after a revision or an instant, from a place on."""
    revision, instant = since
    query = (
        select(
            revisions.c.revision,
            revisions.c.at,
            revisions.c.hundredths_before,
            revisions.c.hundredths_after,
            revisions.c.skipped,
        )
        .where(revisions.c.period_number == period.number)
        .order_by(revisions.c.revision)
    )
    if revision is not None:
        query = query.where(revisions.c.revision > revision)
    if instant is not None:
        query = query.where(revisions.c.at > instant)
    found = [Revision(*row) for row in (await connection.execute(query)).all()]
    if not found:
        # Adjustments are in the last revision, and not in the row of the period.
        last = await connection.scalar(_LAST_TOTAL, {"of_number": period.number})
        total = period.hundredths if last is None else last
        return FoundChanges([], total, total, None)
    page = await _read_changes(connection, period, found, place, limit)
    ends = found[0].hundredths_before, found[-1].hundredths_after
    skipped = sum(each.skipped for each in found)
    return FoundChanges(page[0], *ends, page[1], skipped)


async def read_sums(
    database: Database, period: KeptPeriod
) -> AsyncIterator[ChangeSums]:
    """Yield the changes of all revisions that led to the period, page by page.

    Raises `StorageError`, and `ValueError` for a damaged page.
    """
    query = _STORED_CHANGES.where(revisions.c.revision <= period.revision)
    async with database.reading(Use.PERIODS) as connection:
        async for row in await connection.stream(query, {"of_number": period.number}):
            yield await asyncio.to_thread(_sums_of, row.content)


def _sums_of(content: bytes) -> ChangeSums:
    try:
        page = unpack_page(content)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise ValueError(f"the kept changes are damaged: {error}") from error
    ids = np.array([each.message_id for each in page], np.int64)
    return ChangeSums(
        ids, np.array([each.after - each.before for each in page], np.int64)
    )


async def _read_changes(
    connection: AsyncConnection,
    period: KeptPeriod,
    found: Sequence[Revision],
    place: ChangesPlace | None,
    limit: int,
) -> tuple[list[tuple[Revision, Change]], ChangesPlace | None]:
    """Return up to `limit` changes, and the place of those that follow."""
    by_number = {each.revision: each for each in found}
    first = place or ChangesPlace(found[0].revision, 0, 0)
    query = _STORED_CHANGES.where(
        tuple_(revisions.c.revision, changes.c.page)
        >= tuple_(first.revision, first.page)
    )
    listed: list[tuple[Revision, Change]] = []
    rows = await connection.stream(query, {"of_number": period.number})
    async for row in rows:
        if row.revision not in by_number:
            continue
        is_first = (row.revision, row.page) == first[:2]
        skipped = first.offset if is_first else 0
        stored = unpack_page(row.content)[skipped:]
        free = limit - len(listed)
        listed += [(by_number[row.revision], each) for each in stored[:free]]
        if len(stored) > free:
            await rows.close()
            return listed, ChangesPlace(row.revision, row.page, skipped + free)
    return listed, None
