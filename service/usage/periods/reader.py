"""Snapshots of kept periods, from which requests are answered as from the current one.

A snapshot is made of a period's chunks when it is asked for, and cached while memory
permits. Workers of their own have them, so no query delays a refresh.
"""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Final

from service.instants import format_instant
from service.settings import Settings
from service.storage.database import Database
from service.storage.lru_cache import LruCache
from service.usage.errors import WorkerLost
from service.usage.parameters import find_plan
from service.usage.periods.errors import PeriodNotKept, TextsNotKept
from service.usage.periods.model import KeptPeriod
from service.usage.periods.store import PeriodStore
from service.usage.periods.tables import CLOSED
from service.usage.pricing.plans import PLANS_BY_ID
from service.usage.reports import Resolved
from service.usage.snapshot import DerivedAnswers, Slot, Snapshot, answer_headers
from service.usage.snapshots.columns import Summary
from service.usage.snapshots.formats import JSON
from service.usage.snapshots.kept import decode_chunk, join_chunks
from service.usage.snapshots.worker import PricingWorkers
from service.usage.view import SnapshotView
from service.web.http_cache.encodings import Answer
from service.web.http_cache.freshness import Policy

MAX_CACHED_MESSAGES: Final = 2_000_000
BYTES_PER_MESSAGE: Final = 100
"""About the size of a message in the upstream's body, which chooses the worker."""
MAX_TRIES: Final = 3
NEAREST: Final = 5
IMMUTABLE_S: Final = 31_536_000.0
"""RFC 2616 allowed caches a year at most, and the limit has stayed customary."""


class KeptSnapshots:
    """Answers from kept periods."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.store = PeriodStore(database)
        self._workers = PricingWorkers(settings.usage.own_process_bytes)
        self._numbers = itertools.count(1)
        self._cached = LruCache[tuple[int, int], Snapshot](
            max_bytes=MAX_CACHED_MESSAGES, size_of=_size
        )
        self._loading = DerivedAnswers()
        is_private = "usage:read" in settings.auth.required
        self._open = Policy.of(settings.cache, is_private=is_private)
        self._closed = Policy(IMMUTABLE_S, 0, 0, is_private, is_immutable=True)

    async def view(self, name: str, plan_name: str | None, slot: Slot) -> SnapshotView:
        """Return a kept period, as the requests on it see it.

        Raises `PeriodNotKept`, `TextsNotKept`, `UnknownPlan` and `StorageError`.
        """
        plan = find_plan(plan_name) if plan_name is not None else None
        for _ in range(MAX_TRIES):
            period = await self.find(name)
            if plan is not None and plan.id != period.plan:
                raise TextsNotKept(period.period, period.plan)
            snapshot = await self._snapshot(period, slot)
            if snapshot is not None:
                policy = self._closed if period.status == CLOSED else self._open
                return SnapshotView(
                    snapshot, snapshot.plan, snapshot.summary, policy.judge(0.0), slot
                )
        raise WorkerLost(f"period {name} changes all the time")

    async def find(self, name: str) -> KeptPeriod:
        """Return the row of a period; raises `PeriodNotKept` and `StorageError`."""
        period = await self.store.find(name)
        if period is None:
            listed = [each.period for each in await self.store.newest(None, 100)]
            raise PeriodNotKept(name, _nearest(name, listed))
        return period

    async def find_or_open(self, name: str | None) -> KeptPeriod:
        """Return the row of a period; for None, that of the open one."""
        if name is not None:
            return await self.find(name)
        period = await self.store.find_open()
        if period is None:
            raise PeriodNotKept("", ())
        return period

    async def close(self) -> None:
        """End the workers."""
        await self._workers.close()

    async def _snapshot(self, period: KeptPeriod, slot: Slot) -> Snapshot | None:
        """Return a revision of a period; None if another one has replaced it."""
        key = period.number, period.revision
        snapshot = self._cached.get(key)
        if snapshot is not None and snapshot.is_here:
            return snapshot
        loaded = await self._loading.once(key, lambda: self._load(period), slot)
        if loaded is not None:
            self._cached.put(key, loaded)
        return loaded

    async def _load(self, period: KeptPeriod) -> Snapshot | None:
        digests = period.digests
        contents = await self.store.read_chunks(period.number, digests)
        if not contents.keys() >= set(digests):
            return None
        packed = await asyncio.to_thread(_join, period, contents)
        worker = self._workers.choose(BYTES_PER_MESSAGE * period.messages)
        number, plan = next(self._numbers), PLANS_BY_ID[period.plan]
        await worker.adopt(number, packed)
        summary = Summary(
            plan=period.plan,
            messages=period.messages,
            credits_total=period.hundredths / 100,
            degraded=period.degraded,
            begins_on=_date_of(period.first_at),
        )
        ends_on = _date_of(period.last_at) if period.status == CLOSED else None
        body = await worker.answer(number, plan.id, JSON)
        revision = str(period.revision)
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


def _join(period: KeptPeriod, contents: dict[bytes, bytes]) -> bytes:
    chunks = [decode_chunk(contents[each]) for each in period.digests]
    return join_chunks(chunks, period.plan, f"{period.period}.{period.revision}")


def _size(snapshot: Snapshot) -> int:
    return snapshot.summary.messages


def _date_of(instant: int) -> str:
    return format_instant(instant).partition("T")[0]


def _nearest(name: str, listed: Sequence[str]) -> list[str]:
    """Return the ids of the periods around an id, which begins with a date."""
    ordered = sorted(listed, key=lambda each: (each < name, each))
    return ordered[:NEAREST]
