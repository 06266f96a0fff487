"""Snapshots of whole kept periods, for queries that need all messages.

A snapshot is made of a period's chunks when it is asked for, and cached while memory
permits. Workers of their own have them, so no query delays a refresh.
"""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Final

from service.instants import format_instant
from service.storage.lru_cache import LruCache
from service.usage.periods.model import KeptPeriod
from service.usage.periods.reading.chunk_cache import ChunkCache
from service.usage.periods.reading.revision_rows import revision_id
from service.usage.periods.tables import CLOSED
from service.usage.pricing.plans import PLANS_BY_ID, Plan
from service.usage.reports import Resolved
from service.usage.snapshot import DerivedAnswers, Snapshot, answer_headers
from service.usage.snapshots.columns import Summary
from service.usage.snapshots.formats import JSON
from service.usage.snapshots.kept import StoredChunk, StoredChunks, pack_chunks
from service.usage.snapshots.logged_prices import PriceLogging
from service.usage.snapshots.store import SnapshotStore
from service.usage.snapshots.worker import PricingWorker, PricingWorkers
from service.web.http_cache.encodings import Answer
from service.web.lanes import Slot

MAX_CACHED_MESSAGES: Final = 2_000_000
WEIGHT_WITH_TEXTS: Final = 2
"""Messages without texts that take about the memory of one with its text."""
BYTES_PER_MESSAGE: Final = 100
"""About the size of a message in the upstream's body, which chooses the worker."""


class WholePeriods:
    """Snapshots of kept periods; one is loaded at a time."""

    def __init__(self, process_bytes: int, chunks: ChunkCache) -> None:
        self._chunks = chunks
        self._workers = PricingWorkers(process_bytes)
        self._numbers = itertools.count(1)
        self._cached = LruCache[tuple[int, int, bool], Snapshot](
            max_bytes=MAX_CACHED_MESSAGES, size_of=_size
        )
        self._loading = DerivedAnswers()
        # Also of requests whose clients have left, so that memory is bounded.
        self._turn = asyncio.Lock()

    async def snapshot(
        self, period: KeptPeriod, slot: Slot, *, with_texts: bool = False
    ) -> Snapshot:
        """Return a revision of a period, as the pricing worker has it.

        Texts are read only for a plan that needs them. Raises `PeriodReplaced`,
        `ChunkDamaged`, `WorkerLost` and `StorageError`.
        """
        key = period.number, period.revision, with_texts
        snapshot = self._cached.get(key)
        if snapshot is not None and snapshot.is_here:
            return snapshot
        return await self._loading.once(
            key, lambda: self._load(period, key), slot, is_cancellable=True
        )

    async def close(self) -> None:
        """End the workers."""
        await self._workers.close()

    async def _load(self, period: KeptPeriod, key: tuple[int, int, bool]) -> Snapshot:
        _, _, with_texts = key
        async with self._turn:
            stored = StoredChunks(
                period.plan,
                revision_id(period),
                await self._read(period, period.digests),
                await self._read(period, period.text_digests) if with_texts else [],
            )
            worker = self._workers.choose(BYTES_PER_MESSAGE * period.messages)
            number = next(self._numbers)
            adopting = _adopt(worker, number, stored)
            await self._chunks.checked(period, adopting)
            try:
                snapshot = await _snapshot_of(
                    period, worker, number, has_texts=with_texts
                )
            except BaseException:
                worker.drop(number)  # only a snapshot drops its columns itself
                raise
        self._cached.put(key, snapshot)
        return snapshot

    async def _read(
        self, period: KeptPeriod, digests: Sequence[bytes]
    ) -> list[StoredChunk]:
        contents = await self._chunks.contents(period, digests)
        return [(each, contents[each]) for each in digests]


async def price_anew(snapshot: Snapshot, plan: Plan, slot: Slot) -> Summary:
    """Return the totals under a plan, priced at the first request for it.

    Another plan than that of the period needs texts.
    """
    if plan is snapshot.plan:
        return snapshot.summary

    async def compute() -> Summary:
        logging = PriceLogging(snapshot.refresh_id, 0)
        price, number = SnapshotStore.price, snapshot.number
        priced = await snapshot.worker.query(price, number, plan.id, logging)
        return snapshot.under_other_plan(priced.summary)

    return await snapshot.derived.value(plan.id, compute, slot)


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
    period: KeptPeriod, worker: PricingWorker, number: int, *, has_texts: bool
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
        has_texts=has_texts,
        ends_on=ends_on,
    )


def summary_of(period: KeptPeriod) -> Summary:
    """Return the totals of a period."""
    return Summary(
        plan=period.plan,
        messages=period.messages,
        credits_total=period.hundredths / 100,
        degraded=period.degraded,
        begins_on=period.begins_on,
    )


def ends_on_of(period: KeptPeriod) -> str | None:
    """Return the date of the last message; None while the period is open."""
    return _date_of(period.last_at) if period.status == CLOSED else None


def _size(snapshot: Snapshot) -> int:
    weight = WEIGHT_WITH_TEXTS if snapshot.has_texts else 1
    return weight * snapshot.summary.messages


def _date_of(instant: int) -> str:
    return format_instant(instant).partition("T")[0]
