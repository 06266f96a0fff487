"""Keeping of snapshots where the upstream decides what a period is."""

from typing import Final

from service.storage.database import Database
from service.usage.periods.keeping.adjusting import Adjusting
from service.usage.periods.keeping.contents import Difference, Fetched, content_of
from service.usage.periods.keeping.revisions import Candidate, Revisions, log_doubt
from service.usage.periods.keeping.succession import Doubt, Succession
from service.usage.periods.model import KeptPeriod
from service.usage.periods.observer import PeriodObserver
from service.usage.periods.publication import is_newer, is_same

COMPARED_PERIODS: Final = 12
"""Closed periods with which a snapshot is compared before it becomes a period."""


class UpstreamPeriods:
    """Keeps a snapshot as a revision of the open period, or as a new period."""

    def __init__(
        self,
        database: Database,
        observer: PeriodObserver,
        *,
        keep_texts: bool = False,
    ) -> None:
        self._keep_texts = keep_texts
        self._revisions = Revisions(database, observer)
        self._adjusting = Adjusting(self._revisions)
        self._succession = Succession()

    async def keep(self, fetched: Fetched, skipped: int) -> None:
        """Keep a snapshot, unless a later one is kept or its period is doubtful.

        Raises `StorageError`, `SnapshotError` and `WorkerLost`.
        """
        content = await content_of(fetched, keep_texts=self._keep_texts)
        candidate = Candidate(fetched.snapshot, content, skipped)
        await self._revisions.keep(candidate, self._keep)

    async def _keep(self, candidate: Candidate) -> KeptPeriod | None:
        """Return the period as it is kept now; None unless it is as the snapshot."""
        period = await self._revisions.store.find_open()
        if period is None:
            return await self._revisions.open(candidate, None)
        if not is_newer(candidate.content, period):
            is_confirmed = is_same(candidate.content, period)
            if is_confirmed:
                self._succession.end_doubt()
            return period if is_confirmed else None
        difference = await self._revisions.compare(candidate, period)
        if not await difference.belongs():
            return await self._replace(candidate, period, difference)
        self._succession.end_doubt()
        return await self._revisions.publish(candidate, period, difference)

    async def _replace(
        self, candidate: Candidate, period: KeptPeriod, difference: Difference
    ) -> KeptPeriod | None:
        """Close a period with which the snapshot has no message in common.

        A doubtful snapshot is not kept: the upstream may have returned another period
        for a moment.
        """
        if await self._adjust(candidate):
            log_doubt(candidate, period, Doubt.CLOSED_PERIOD)
            return None
        before = difference.messages_before
        doubt = await self._succession.judge(period, before, candidate.content)
        if doubt is None:
            return await self._revisions.open(candidate, period)
        log_doubt(candidate, period, doubt)
        return None

    async def _adjust(self, candidate: Candidate) -> bool:
        """Adjust a closed period that has returned; return False if it is none."""
        content = candidate.content
        closed = await self._revisions.store.newest_closed(COMPARED_PERIODS)
        for period in closed:
            if content.first_at > period.last_at or content.last_at < period.first_at:
                continue
            difference = await self._revisions.compare(candidate, period)
            if await difference.belongs():
                await self._adjusting.adjust(candidate, period, difference)
                return True
        return False
