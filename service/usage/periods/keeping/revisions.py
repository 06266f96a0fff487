"""Revisions of kept periods: comparison with a snapshot, and its publication."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple

import structlog

from service.storage.database import Database
from service.usage.periods import metrics
from service.usage.periods.keeping.contents import Contents, Difference
from service.usage.periods.model import KeptPeriod, SnapshotContent
from service.usage.periods.observer import PeriodObserver
from service.usage.periods.publication import OtherRevision, Publication, Publisher
from service.usage.periods.store import PeriodStore
from service.usage.snapshot import Snapshot
from service.usage.snapshots.spans import Span

MAX_TRIES: Final = 5
"""Tries against other processes that publish revisions of the same period."""

log = structlog.get_logger()


class Candidate(NamedTuple):
    """A snapshot that may be kept."""

    snapshot: Snapshot
    content: SnapshotContent
    skipped: int = 0
    """Snapshots before it that were never compared."""


KeepOnce = Callable[[Candidate], Awaitable[KeptPeriod | None]]


class Revisions:
    """Writes revisions; all methods raise `StorageError` and `OtherRevision`."""

    def __init__(self, database: Database, observer: PeriodObserver) -> None:
        self.store = PeriodStore(database)
        self.contents = Contents(self.store)
        self.publisher = Publisher(database, observer)
        self._observer = observer

    async def keep(self, candidate: Candidate, keep_once: KeepOnce) -> None:
        """Keep a snapshot, and repeat it while other processes publish revisions.

        `keep_once` returns the period if its figures are those of the snapshot now.
        """
        for _ in range(MAX_TRIES):
            with suppress(OtherRevision):
                period = await keep_once(candidate)
                if period is not None:
                    await self._observer.confirmed(period)
                return
        raise OtherRevision("other processes publish all the time")

    async def compare(self, candidate: Candidate, period: KeptPeriod) -> Difference:
        """Return the chunks that only one of a snapshot and a period has.

        Raises `ChunkDamaged` if one of a closed period is damaged.
        """
        snapshot, content, _ = candidate
        return await self.contents.compare(snapshot, content, period)

    async def publish(
        self, candidate: Candidate, period: KeptPeriod, difference: Difference
    ) -> KeptPeriod:
        """Publish a snapshot as the next revision of an open period."""
        snapshot, content, skipped = candidate
        changes = await difference.find_changes()
        await self.contents.add(period.number, difference.new)
        pages = await self.contents.add_changes(period.number, changes)
        publication = Publication(content, pages, skipped)
        kept = await self.publisher.publish(period, publication)
        await self.store.remove_unlisted(period.number)
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

    async def open(
        self,
        candidate: Candidate,
        previous: KeptPeriod | None,
        span: Span | None = None,
    ) -> KeptPeriod:
        """Open a period, and close the previous one."""
        snapshot, content, skipped = candidate
        number = await self.store.next_number()
        await self.contents.add_unknown(number, snapshot, content)
        pages = await self.contents.add_first(snapshot.worker, number, content)
        published = Publication(content, pages, skipped, span)
        period = await self.publisher.open(number, previous, published)
        log.info(
            "usage.period_opened",
            period=period.period,
            closed=previous.period if previous else None,
            messages=content.messages,
            credits_total=content.hundredths / 100,
            **snapshot.log_values,
        )
        return period


def log_doubt(candidate: Candidate, period: KeptPeriod, reason: str) -> None:
    """Log and count a snapshot that is not kept."""
    content = candidate.content
    log.warning(
        "usage.period_doubtful",
        period=period.period,
        reason=reason,
        begins_on=content.begins_on,
        messages=content.messages,
        **candidate.snapshot.log_values,
    )
    metrics.doubted()
