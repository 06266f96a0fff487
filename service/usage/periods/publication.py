"""Publication of kept periods: each method is one transaction.

Readers see all of a transaction or nothing. Its conditions, and the unique columns of
the tables, decide between processes that publish at the same time.
"""

from collections.abc import Collection, Mapping
from itertools import count
from typing import Any, Final, NamedTuple

from msgspec.structs import asdict, replace
from sqlalchemy import (
    BigInteger,
    bindparam,
    cast,
    delete,
    extract,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.elements import ColumnElement

from service.instants import US_PER_S, now_us
from service.storage.database import Database
from service.storage.errors import Collided
from service.storage.uses import Use
from service.usage.periods.change_queries import Revision
from service.usage.periods.model import (
    Adjustments,
    KeptPeriod,
    SnapshotContent,
    split_digests,
)
from service.usage.periods.observer import PeriodObserver
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
from service.usage.snapshots.spans import Span

CLOCK_SKEW_US: Final = 300 * US_PER_S
"""A time that is so far ahead of this process is of a clock that was wrong."""

_KNOWN: Final = select(chunks.c.digest).where(
    chunks.c.period_number == bindparam("of_number")
)
_LOCKED: Final = (
    select(periods.c.number)
    .where(periods.c.number == bindparam("of_number"))
    .with_for_update()
)
_REMOVE_OUTLINE: Final = delete(outlines).where(
    outlines.c.period_number == bindparam("of_number")
)


class StoredPages(NamedTuple):
    """The stored pages of changes of one attempt to publish a revision."""

    attempt: str
    stored: int


class Publication(NamedTuple):
    """A revision to be published: its content, its changes, and what it missed."""

    content: SnapshotContent
    pages: StoredPages
    skipped: int = 0
    """Snapshots before it that were never compared."""
    span: Span | None = None
    """The billing month of a period that is opened."""


class Adjustment(NamedTuple):
    """All adjustments of a period after another one, and the changes that it is."""

    after: Adjustments
    pages: StoredPages


class OtherRevision(Exception):
    """Another process has published a revision of the period."""


class Publisher:
    """Publishes revisions; all methods raise `StorageError`."""

    def __init__(self, database: Database, observer: PeriodObserver) -> None:
        self._database = database
        self._observer = observer

    async def publish(self, before: KeptPeriod, published: Publication) -> KeptPeriod:
        """Publish the next revision of an open period, with its changes; return it.

        Raises `OtherRevision`; then nothing was written.
        """
        content = published.content
        async with self._database.writing(Use.PERIODS) as connection:
            revision = Revision(
                before.revision + 1,
                content.fetched_at,
                before.hundredths,
                content.hundredths,
            )
            values = {"revision": revision.revision, **_values_of(content)}
            await _update(connection, before, values, _is_later(content.fetched_at))
            period = replace(before, **values)
            await self._add_revision(connection, period, revision, published)
        return period

    async def open(
        self, number: int, previous: KeptPeriod | None, published: Publication
    ) -> KeptPeriod:
        """Close the previous period, and open one; return it.

        Raises `OtherRevision` if another process was faster.
        """
        try:
            return await self._open(number, previous, published)
        except Collided as error:
            raise OtherRevision("another process has opened a period") from error

    async def _open(
        self, number: int, previous: KeptPeriod | None, published: Publication
    ) -> KeptPeriod:
        content = published.content
        async with self._database.writing(Use.PERIODS) as connection:
            if previous is not None:
                await _close(connection, previous, content.fetched_at)
            if published.span is None:
                await _close_months(connection, content.fetched_at)
            begins_on = periods.c.period.startswith(content.begins_on, autoescape=True)
            taken = await connection.execute(select(periods.c.period).where(begins_on))
            values = {
                "number": number,
                "period": _free_name(content.begins_on, set(taken.scalars())),
                "status": OPEN,
                "revision": 1,
                **_values_of(content),
                **_bounds_of(published.span),
            }
            await connection.execute(insert(periods), values)
            period = KeptPeriod(**values)
            first = Revision(1, content.fetched_at, 0, content.hundredths)
            await self._add_revision(connection, period, first, published)
        return period

    async def close(self, period: KeptPeriod, grace_us: int) -> KeptPeriod:
        """Close a period whose month and grace are over, by the database's clock too.

        Raises `OtherRevision` if they are not, or if another process has published.
        """
        now = extract("epoch", func.current_timestamp())
        is_over = periods.c.ends_at + grace_us <= cast(now, BigInteger) * US_PER_S
        async with self._database.writing(Use.PERIODS) as connection:
            closed_at = now_us()
            await _close(connection, period, closed_at, is_over)
        return replace(period, status=CLOSED, closed_at=closed_at)

    async def adjust(
        self, period: KeptPeriod, before: Adjustments, adjustment: Adjustment
    ) -> None:
        """Publish adjustments of a closed period, whose row stays as it is.

        Raises `OtherRevision` if another process has published some.
        """
        after, total = adjustment.after, period.hundredths
        revision = Revision(
            after.revision,
            after.fetched_at,
            total + before.hundredths,
            total + after.hundredths,
        )
        try:
            async with self._database.writing(Use.PERIODS) as connection:
                # The lock keeps others from removing chunks that are not listed yet.
                await connection.execute(_LOCKED, {"of_number": period.number})
                await _insert_revision(
                    connection, period.number, revision, adjustment.pages
                )
                await connection.execute(
                    delete(adjustments).where(
                        adjustments.c.period_number == period.number
                    )
                )
                await connection.execute(insert(adjustments), asdict(after))
                await _check_content(
                    connection,
                    period.number,
                    split_digests(after.chunks),
                    adjustment.pages,
                )
        except Collided as error:
            raise OtherRevision("another process has adjusted the period") from error

    async def _add_revision(
        self,
        connection: AsyncConnection,
        period: KeptPeriod,
        revision: Revision,
        published: Publication,
    ) -> None:
        """Add a revision to the transaction: the one place that all of them pass."""
        revision = revision._replace(skipped=published.skipped)
        pages, content = published.pages, published.content
        await _insert_revision(connection, period.number, revision, pages)
        await _put_outline(connection, period, content.outline)
        digests = [*split_digests(content.digests), *content.texts]
        await _check_content(connection, period.number, digests, pages)
        await self._observer.published(connection, period)


async def _close(
    connection: AsyncConnection,
    period: KeptPeriod,
    at: int,
    *conditions: ColumnElement[bool],
) -> None:
    """Close a period: the one place from which its rows never change."""
    closed = {"status": CLOSED, "closed_at": at}
    await _update(connection, period, closed, *conditions)


async def _close_months(connection: AsyncConnection, at: int) -> None:
    """Close months that were open when the boundary was set to the upstream's."""
    await connection.execute(
        update(periods)
        .where(periods.c.status == OPEN, periods.c.starts_at.is_not(None))
        .values(status=CLOSED, closed_at=at)
    )


async def _insert_revision(
    connection: AsyncConnection, number: int, revision: Revision, pages: StoredPages
) -> None:
    values = {"period_number": number, "attempt": pages.attempt, **revision._asdict()}
    await connection.execute(insert(revisions), values)


async def _put_outline(
    connection: AsyncConnection, period: KeptPeriod, content: bytes
) -> None:
    await connection.execute(_REMOVE_OUTLINE, {"of_number": period.number})
    values = {
        "period_number": period.number,
        "revision": period.revision,
        "content": content,
    }
    await connection.execute(insert(outlines), values)


async def _check_content(
    connection: AsyncConnection,
    number: int,
    digests: Collection[bytes],
    pages: StoredPages,
) -> None:
    """Raise `OtherRevision` if a listed chunk, or a page of changes, is not stored."""
    # Another process may have removed one, which was not listed yet.
    known = await connection.execute(_KNOWN, {"of_number": number})
    of_attempt = select(func.count()).where(
        changes.c.period_number == number, changes.c.attempt == pages.attempt
    )
    stored = await connection.scalar(of_attempt)
    if not set(digests) <= set(known.scalars()) or stored != pages.stored:
        raise OtherRevision("another process has removed a part of the revision")


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
        raise OtherRevision("another process has published a revision")


def _is_later(fetched_at: int) -> ColumnElement[bool]:
    """Match a period whose snapshot was fetched earlier.

    Another process may have fetched later, and been slower. A clock that was ahead must
    not stop all others until its time, so such times are ignored.
    """
    return or_(
        periods.c.fetched_at < fetched_at,
        periods.c.fetched_at > now_us() + CLOCK_SKEW_US,
    )


def is_same(content: SnapshotContent, period: KeptPeriod) -> bool:
    """Return whether a period is kept exactly as a snapshot has it."""
    has_texts = period.texts is not None or not content.texts
    is_same_content = content.digests == period.chunks and has_texts
    return is_same_content and content.plan == period.plan


def is_newer(content: SnapshotContent, period: KeptPeriod) -> bool:
    """Return whether a snapshot adds something to a period that is kept."""
    is_implausible = period.fetched_at > now_us() + CLOCK_SKEW_US
    is_later = content.fetched_at > period.fetched_at or is_implausible
    return is_later and not is_same(content, period)


def _free_name(begins_on: str, taken: Collection[str]) -> str:
    """Return the id of a period: its first date, with `-2` and so on if it is taken."""
    if begins_on not in taken:
        return begins_on
    return next(name for at in count(2) if (name := f"{begins_on}-{at}") not in taken)


def _bounds_of(span: Span | None) -> dict[str, Any]:
    return {} if span is None else {"starts_at": span.begin, "ends_at": span.end}


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
        "texts": b"".join(content.texts) or None,
    }
