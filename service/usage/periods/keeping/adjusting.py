"""Adjustments: messages that came after their period was closed.

The rows of the period never change. Late messages are listed beside them, each once,
with its price at that time.
"""

import structlog

from service.usage.periods import metrics
from service.usage.periods.keeping.contents import Difference
from service.usage.periods.keeping.late_messages import find_late
from service.usage.periods.keeping.revisions import Candidate, Revisions
from service.usage.periods.model import (
    Adjustments,
    KeptPeriod,
    split_digests,
)
from service.usage.periods.publication import Adjustment

log = structlog.get_logger()


class Adjusting:
    """Adjusts closed periods."""

    def __init__(self, revisions: Revisions) -> None:
        self._revisions = revisions

    async def adjust(
        self, candidate: Candidate, period: KeptPeriod, difference: Difference
    ) -> None:
        """List the messages of a snapshot that a closed period lacks.

        A message that is missing now stays in the period. Raises `StorageError` and
        `OtherRevision`.
        """
        if candidate.content.degraded:
            return  # a later snapshot will have the prices
        contents, number = self._revisions.contents, period.number
        before = await self._revisions.store.find_adjustments(number)
        known = await contents.read(number, split_digests(before.chunks))
        late = await candidate.snapshot.worker.run(
            find_late, [*difference.old, *known.items()], difference.added
        )
        if not late.changes.changes:
            return
        await contents.add(number, late.chunks)
        pages = await contents.add_changes(number, late.changes)
        adjustment = Adjustment(
            Adjustments(
                period_number=number,
                revision=max(before.revision, period.revision) + 1,
                fetched_at=candidate.content.fetched_at,
                messages=before.messages + late.changes.changes,
                hundredths=before.hundredths + late.hundredths,
                chunks=before.chunks + b"".join(late.chunks),
            ),
            pages,
        )
        await self._revisions.publisher.adjust(period, before, adjustment)
        await self._revisions.store.remove_unlisted(number)
        metrics.changed(late.changes.changes)
        log.warning(
            "usage.period_adjusted",
            period=period.period,
            messages=late.changes.changes,
            adjustments=adjustment.after.hundredths / 100,
            **candidate.snapshot.log_values,
        )
