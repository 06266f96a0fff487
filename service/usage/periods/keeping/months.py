"""Keeping of snapshots where calendar months are the periods."""

from contextlib import suppress
from typing import Final

import structlog

from service.storage.database import Database
from service.usage.periods.calendar import Schedule
from service.usage.periods.keeping.adjusting import Adjusting
from service.usage.periods.keeping.contents import Fetched, content_of
from service.usage.periods.keeping.revisions import Candidate, Revisions, log_doubt
from service.usage.periods.model import KeptPeriod
from service.usage.periods.observer import PeriodObserver
from service.usage.periods.publication import OtherRevision, is_newer, is_same
from service.usage.periods.tables import CLOSED
from service.usage.snapshots.spans import Span

KNOWN_MONTHS: Final = 24
"""Kept periods that new ones must not overlap."""
OTHER_MESSAGES: Final = "other_messages"
"""The doubt on a snapshot that has no message of its month as it is kept."""

log = structlog.get_logger()


class Months:
    """Keeps a snapshot as a revision of its month, or as an adjustment of it."""

    def __init__(
        self,
        database: Database,
        observer: PeriodObserver,
        schedule: Schedule,
        *,
        is_complete: bool,
        keep_texts: bool = False,
    ) -> None:
        """`is_complete` is true if each snapshot has the whole month for certain."""
        self._keep_texts = keep_texts
        self._revisions = Revisions(database, observer)
        self._adjusting = Adjusting(self._revisions)
        self._schedule = schedule
        self._is_complete = is_complete

    @property
    def revisions(self) -> Revisions:
        """The reader and writer of the months."""
        return self._revisions

    async def learn(self) -> None:
        """Read the months of kept periods; raises `StorageError`."""
        newest = await self._revisions.store.newest(None, KNOWN_MONTHS)
        self._schedule.learn(map(span_of, newest))

    def previous_month(self, instant: int) -> Span:
        """Return the month before that of an instant in microseconds."""
        return self._schedule.month_of(self._schedule.month_of(instant).begin - 1)

    async def keep(self, fetched: Fetched, skipped: int) -> None:
        """Keep a snapshot in its month.

        Raises `StorageError`, `SnapshotError` and `WorkerLost`.
        """
        content = await content_of(fetched, keep_texts=self._keep_texts)
        candidate = Candidate(fetched.snapshot, content, skipped)
        await self._revisions.keep(candidate, self._keep)

    async def close(self, period: KeptPeriod, grace_us: int) -> None:
        """Close a month whose grace is over; raises `StorageError`.

        Another process may have done it, or the database's clock may say otherwise.
        """
        with suppress(OtherRevision):
            await self._revisions.publisher.close(period, grace_us)
            log.info(
                "usage.period_closed",
                period=period.period,
                kept_revision=period.revision,
                messages=period.messages,
                credits_total=period.hundredths / 100,
            )

    async def _keep(self, candidate: Candidate) -> KeptPeriod | None:
        """Return the open period as it is kept now; None unless it is as the snapshot.

        A snapshot of other bounds is not kept: after a change of the settings, the next
        one has those of the kept periods.
        """
        await self.learn()
        span, store = candidate.snapshot.span, self._revisions.store
        if span is None or self._schedule.month_of(span.begin) != span:
            return None
        period = await store.find_month(span.begin)
        if period is None:
            previous = await store.find_unbounded()
            opened = await self._revisions.open(candidate, previous, span)
            await self.learn()
            return opened
        if period.status == CLOSED:
            difference = await self._revisions.compare(candidate, period)
            await self._adjusting.adjust(candidate, period, difference)
            return None
        return await self._revise(candidate, period)

    async def _revise(
        self, candidate: Candidate, period: KeptPeriod
    ) -> KeptPeriod | None:
        if not is_newer(candidate.content, period):
            return period if is_same(candidate.content, period) else None
        difference = await self._revisions.compare(candidate, period)
        if not self._is_complete and not await difference.belongs():
            # A period of the upstream has ended within the month. What it lists no
            # more was not removed.
            log_doubt(candidate, period, OTHER_MESSAGES)
            return None
        return await self._revisions.publish(candidate, period, difference)


def span_of(period: KeptPeriod) -> Span:
    """Return the time of a kept period, which no other one may have."""
    if period.starts_at is not None and period.ends_at is not None:
        return Span(period.starts_at, period.ends_at, period.begins_on)
    # A message with a time in the future must not take the time of later months.
    end = min(period.last_at, period.fetched_at) + 1
    return Span(min(period.first_at, end), end, period.begins_on)
