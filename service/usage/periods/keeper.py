"""Keeping of one snapshot: as a revision of the open period, or as a new period."""

from contextlib import suppress
from typing import Final

import structlog

from service.storage.database import Database
from service.usage.periods import metrics
from service.usage.periods.contents import Contents, Difference, Fetched, content_of
from service.usage.periods.model import KeptPeriod, SnapshotContent
from service.usage.periods.observer import PeriodObserver
from service.usage.periods.publication import (
    OtherRevision,
    Publication,
    Publisher,
    is_newer,
    is_same,
)
from service.usage.periods.store import PeriodStore
from service.usage.periods.succession import Doubt, Succession
from service.usage.snapshot import Snapshot

MAX_TRIES: Final = 5
"""Tries against other processes that publish revisions of the same period."""
COMPARED_PERIODS: Final = 12
"""Closed periods with which a snapshot is compared before it becomes a period."""

log = structlog.get_logger()


class Keeper:
    """Keeps snapshots where the upstream decides what a period is."""

    def __init__(self, database: Database, observer: PeriodObserver) -> None:
        self._store = PeriodStore(database)
        self._contents = Contents(self._store)
        self._publisher = Publisher(database, observer)
        self._observer = observer
        self._succession = Succession()

    async def keep(self, fetched: Fetched, skipped: int) -> None:
        """Keep a snapshot, unless a later one is kept or its period is doubtful.

        Raises `StorageError`, `SnapshotError` and `WorkerLost`.
        """
        content = await content_of(fetched)
        for _ in range(MAX_TRIES):
            with suppress(OtherRevision):
                period = await self._keep(fetched.snapshot, content, skipped)
                if period is not None:
                    await self._observer.confirmed(period)
                return
        raise OtherRevision("other processes publish all the time")

    async def _keep(
        self, snapshot: Snapshot, content: SnapshotContent, skipped: int
    ) -> KeptPeriod | None:
        """Return the period as it is kept now; None unless it is as the snapshot."""
        period = await self._store.find_open()
        if period is None:
            return await self._open(snapshot, content, None, skipped)
        if not is_newer(content, period):
            is_confirmed = is_same(content, period)
            if is_confirmed:
                self._succession.settle()
            return period if is_confirmed else None
        difference = await self._contents.compare(
            snapshot, content, period.number, period.chunks
        )
        if not await difference.belongs():
            return await self._replace(snapshot, content, (period, difference), skipped)
        self._succession.settle()
        return await self._publish(snapshot, content, (period, difference), skipped)

    async def _publish(
        self,
        snapshot: Snapshot,
        content: SnapshotContent,
        compared: tuple[KeptPeriod, Difference],
        skipped: int,
    ) -> KeptPeriod:
        """Publish a snapshot as the next revision of a period."""
        period, difference = compared
        changes = await difference.find_changes()
        await self._contents.add(period.number, difference.new)
        pages = await self._contents.add_changes(period.number, changes)
        publication = Publication(content, pages, skipped)
        kept = await self._publisher.publish(period, publication)
        await self._store.remove_unlisted(period.number)
        metrics.changed(changes.changes)
        log.info(
            "usage.period_kept",
            period=period.period,
            kept_revision=kept.revision,
            changes=changes.changes,
            credits_before=period.hundredths / 100,
            credits_after=content.hundredths / 100,
            **snapshot.log_values,
        )
        return kept

    async def _replace(
        self,
        snapshot: Snapshot,
        content: SnapshotContent,
        compared: tuple[KeptPeriod, Difference],
        skipped: int,
    ) -> KeptPeriod | None:
        """Close a period with which the snapshot has no message in common.

        A doubtful snapshot is not kept: the upstream may have returned another period
        for a moment.
        """
        period, difference = compared
        doubt: Doubt | None = Doubt.CLOSED_PERIOD
        if not await self._is_closed(snapshot, content):
            before = difference.messages_before
            doubt = await self._succession.judge(period, before, content)
        if doubt is None:
            return await self._open(snapshot, content, period, skipped)
        log.warning(
            "usage.period_doubtful",
            period=period.period,
            reason=doubt.value,
            begins_on=content.begins_on,
            messages=content.messages,
            **snapshot.log_values,
        )
        metrics.doubted()
        return None

    async def _is_closed(self, snapshot: Snapshot, content: SnapshotContent) -> bool:
        """Return whether a snapshot is a closed period that has returned."""
        for period in await self._store.newest_closed(COMPARED_PERIODS):
            if content.first_at > period.last_at or content.last_at < period.first_at:
                continue
            difference = await self._contents.compare(
                snapshot, content, period.number, period.chunks
            )
            if await difference.belongs():
                return True
        return False

    async def _open(
        self,
        snapshot: Snapshot,
        content: SnapshotContent,
        previous: KeptPeriod | None,
        skipped: int,
    ) -> KeptPeriod:
        number = await self._store.next_number()
        new = await self._contents.encode_unknown(snapshot, content, number)
        await self._contents.add(number, new)
        pages = await self._contents.add_first(snapshot.worker, number, content)
        published = Publication(content, pages, skipped)
        period = await self._publisher.open(number, previous, published)
        log.info(
            "usage.period_opened",
            period=period.period,
            closed=previous.period if previous else None,
            messages=content.messages,
            credits_total=content.hundredths / 100,
            **snapshot.log_values,
        )
        return period
