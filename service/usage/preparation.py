"""Preparation of a cached snapshot for queries: columns, and prices of other plans."""

from contextlib import suppress
from typing import NamedTuple

import msgspec
from structlog.contextvars import bound_contextvars

from service.usage.errors import WorkerLost
from service.usage.price_log import log_prices
from service.usage.pricing.plans import Plan
from service.usage.shared_cache import SharedCache
from service.usage.shared_snapshot import Manifest
from service.usage.snapshot import Snapshot
from service.usage.snapshots.columns import Summary
from service.usage.snapshots.logged_prices import PriceLogging
from service.usage.snapshots.store import SnapshotStore
from service.web.lanes import Slot


class CachedSnapshot(NamedTuple):
    """The current snapshot, the time of its fetch, and its manifest if it is shared."""

    snapshot: Snapshot
    fetched_at: float
    """In seconds, by the clock of the cache."""
    manifest: Manifest | None = None


def can_answer(snapshot: Snapshot, plan: Plan) -> bool:
    """Return whether the snapshot's worker can answer queries under a plan."""
    return snapshot.is_here and (plan is snapshot.plan or snapshot.has_texts)


async def load_columns(cached: CachedSnapshot, shared: SharedCache | None) -> None:
    """Have the worker of an adopted snapshot read the shared columns, if it can."""
    snapshot, manifest = cached.snapshot, cached.manifest
    if shared is None or manifest is None or snapshot.is_here:
        return

    async def adopt() -> bool:
        columns = await shared.columns(manifest)
        if columns is None:
            return False
        # Columns of another version, or a lost worker: the caller refreshes instead.
        with suppress(msgspec.DecodeError, KeyError, ValueError, WorkerLost):
            await snapshot.worker.adopt(snapshot.number, columns)
        return snapshot.is_here

    await snapshot.derived.once("columns", adopt)


async def price(snapshot: Snapshot, plan: Plan, max_logged: int, slot: Slot) -> Summary:
    """Return the totals under a plan, priced at the first request for it.

    The steps of at most `max_logged` messages are logged.
    """
    if plan is snapshot.plan:
        return snapshot.summary

    async def price_and_log() -> Summary:
        priced = await snapshot.worker.query(
            SnapshotStore.price,
            snapshot.number,
            plan.id,
            PriceLogging(snapshot.refresh_id, max_logged),
        )
        with bound_contextvars(**snapshot.log_values):
            await log_prices(priced)
        return snapshot.under_other_plan(priced.summary)

    return await snapshot.derived.value(plan.id, price_and_log, slot)
