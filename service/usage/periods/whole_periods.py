"""Snapshots of whole kept periods, for queries that need all messages.

A snapshot is made of a period's chunks when it is asked for, and cached while memory
permits. Workers of their own have them, so no query delays a refresh.
"""

import asyncio
import itertools
from typing import Final

from service.instants import format_instant
from service.storage.lru_cache import LruCache
from service.usage.periods.chunk_cache import ChunkCache
from service.usage.periods.model import KeptPeriod
from service.usage.periods.revision_rows import revision_id
from service.usage.periods.tables import CLOSED
from service.usage.pricing.plans import PLANS_BY_ID
from service.usage.reports import Resolved
from service.usage.snapshot import DerivedAnswers, Slot, Snapshot, answer_headers
from service.usage.snapshots.columns import Summary
from service.usage.snapshots.formats import JSON
from service.usage.snapshots.kept import StoredChunks, pack_chunks
from service.usage.snapshots.worker import PricingWorker, PricingWorkers
from service.web.http_cache.encodings import Answer

MAX_CACHED_MESSAGES: Final = 2_000_000
BYTES_PER_MESSAGE: Final = 100
"""About the size of a message in the upstream's body, which chooses the worker."""


class WholePeriods:
    """Snapshots of kept periods; one is loaded at a time."""

    def __init__(self, process_bytes: int, chunks: ChunkCache) -> None:
        self._chunks = chunks
        self._workers = PricingWorkers(process_bytes)
        self._numbers = itertools.count(1)
        self._cached = LruCache[tuple[int, int], Snapshot](
            max_bytes=MAX_CACHED_MESSAGES, size_of=_size
        )
        self._loading = DerivedAnswers()
        # Also of requests whose clients have left, so that memory is bounded.
        self._turn = asyncio.Lock()

    async def snapshot(self, period: KeptPeriod, slot: Slot) -> Snapshot:
        """Return a revision of a period, as the pricing worker has it.

        Raises `PeriodReplaced`, `ChunkDamaged`, `WorkerLost` and `StorageError`.
        """
        key = period.number, period.revision
        snapshot = self._cached.get(key)
        if snapshot is not None and snapshot.is_here:
            return snapshot
        return await self._loading.once(
            key, lambda: self._load(period), slot, is_cancellable=True
        )

    async def close(self) -> None:
        """End the workers."""
        await self._workers.close()

    async def _load(self, period: KeptPeriod) -> Snapshot:
        async with self._turn:
            digests = period.digests
            contents = await self._chunks.contents(period, digests)
            stored = StoredChunks(
                period.plan,
                revision_id(period),
                digests,
                [contents[each] for each in digests],
            )
            worker = self._workers.choose(BYTES_PER_MESSAGE * period.messages)
            number = next(self._numbers)
            adopting = _adopt(worker, number, stored)
            await self._chunks.checked(period, adopting)
            snapshot = await _snapshot_of(period, worker, number)
        self._cached.put((period.number, period.revision), snapshot)
        return snapshot


async def _adopt(worker: PricingWorker, number: int, stored: StoredChunks) -> None:
    packed = await asyncio.to_thread(pack_chunks, stored)
    adopting = asyncio.ensure_future(worker.adopt(number, packed, is_kept=True))
    try:
        await asyncio.shield(adopting)
    except asyncio.CancelledError:
        # The worker continues. Only then can it drop what nobody needs.
        await asyncio.wait([adopting])
        worker.drop(number)
        raise


async def _snapshot_of(
    period: KeptPeriod, worker: PricingWorker, number: int
) -> Snapshot:
    plan, summary = PLANS_BY_ID[period.plan], summary_of(period)
    ends_on = ends_on_of(period)
    revision = str(period.revision)
    body = await worker.answer(number, plan.id, JSON)
    headers = answer_headers(summary, revision, ends_on)
    return Snapshot(
        number=number,
        revision=revision,
        refresh_id=revision,
        etag=None,
        digest=revision,
        reports=Resolved({}, set()),
        plan=plan,
        summary=summary,
        answer=await Answer.of(body, JSON, headers),
        worker=worker,
        has_texts=False,
        ends_on=ends_on,
    )


def summary_of(period: KeptPeriod) -> Summary:
    """Return the totals of a period."""
    return Summary(
        plan=period.plan,
        messages=period.messages,
        credits_total=period.hundredths / 100,
        degraded=period.degraded,
        begins_on=_date_of(period.first_at),
    )


def ends_on_of(period: KeptPeriod) -> str | None:
    """Return the date of the last message; None while the period is open."""
    return _date_of(period.last_at) if period.status == CLOSED else None


def _size(snapshot: Snapshot) -> int:
    return snapshot.summary.messages


def _date_of(instant: int) -> str:
    return format_instant(instant).partition("T")[0]
