"""The cache of the current snapshot: time to live, single flight, stale answers.

Requests take the current snapshot as long as it is fresh. For some time after that
they still take it at once, while one refresh runs in the background. They wait only
where no snapshot is young enough, and then all for the same refresh, which goes on
when a caller leaves.
"""

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec
import structlog
from structlog.contextvars import bound_contextvars

from service import metrics
from service.settings import Settings
from service.storage.shared_store import SharedStore
from service.upstream.client import UpstreamClient
from service.usage.encodings import Answer
from service.usage.errors import RefreshFailed, UnknownPlan, WorkerLost
from service.usage.freshness import Forward, Freshness, Policy
from service.usage.pricing.plans import PLANS, Plan
from service.usage.refresh import Refresher, log_prices
from service.usage.reports import ReportCache, ReportResolver
from service.usage.shared_cache import Known, Manifest, SharedCache, SharedSnapshot
from service.usage.shared_reports import RedisReports
from service.usage.snapshots.columns import Summary
from service.usage.snapshots.snapshot import Snapshot
from service.usage.snapshots.store import Logging, SnapshotStore
from service.usage.sources import MessageSource
from service.usage.view import View

MAX_REFRESHES: Final = 3
"""Refreshes that one query waits for: the first may adopt what has no texts."""

log = structlog.get_logger()


class Cached(NamedTuple):
    """The current snapshot, when it was fetched, and how other processes know it."""

    snapshot: Snapshot
    fetched_at: float
    manifest: Manifest | None = None


class SnapshotCache:
    """Keeps the current snapshot and refreshes it; one for each process."""

    def __init__(
        self,
        settings: Settings,
        client: UpstreamClient,
        source: MessageSource,
        clock: Callable[[], float] = time.monotonic,
        *,
        store: SharedStore | None = None,
    ) -> None:
        self.clock = clock
        self.current: Cached | None = None
        self._policy = Policy.of(settings.cache)
        self._stale_wait_s = settings.cache.stale_wait_s
        self._try_s = settings.upstream.timeout_s
        self._pause_s = settings.cache.pause_after_failure_s
        self._max_logged = settings.logging.steps_per_refresh
        self._plan = find_plan(settings.usage.plan)
        reports = ReportCache(settings.cache, clock)
        resolver = ReportResolver(
            client,
            reports,
            RedisReports(reports, store) if store else None,
            concurrency=settings.upstream.concurrency,
            on_error=settings.usage.on_report_error,
        )
        self._refresher = Refresher(settings, source, resolver, self._plan, clock)
        self._shared = SharedCache(settings, store) if store else None
        self._refreshing: asyncio.Task[None] | None = None
        self._refresh_began = -math.inf
        self._publishing: asyncio.Task[None] | None = None
        self._paused_until = -math.inf
        self._renewed_at = -math.inf

    @property
    def default_plan(self) -> Plan:
        """The plan that prices where a request names none."""
        return self._plan

    async def view(
        self, plan_name: str | None = None, *, is_query: bool = True
    ) -> View:
        """Return the current period under a plan, the configured one by default.

        `is_query` is false where the encoded answer is all that is needed. Raises
        `UnknownPlan`; `RefreshFailed` where no snapshot is young enough.
        """
        plan = self._plan if plan_name is None else find_plan(plan_name)
        cached, forward = await self._find()
        if is_query or plan is not self._plan:
            cached = await self._prepare(cached, plan)
        snapshot = cached.snapshot
        summary = await self._price(snapshot, plan)
        freshness = self._policy.judge(self._age(cached), forward)
        return View(snapshot, plan, summary, freshness)

    def fresh_answer(self) -> tuple[Answer, Freshness, float] | None:
        """Return the default answer and until when it is fresh; None without one."""
        cached = self.current
        if cached is None:
            return None
        age_s = self._age(cached)
        if age_s >= self._policy.ttl_s:
            return None
        fresh_until = cached.fetched_at + self._policy.ttl_s
        return cached.snapshot.answer, self._policy.judge(age_s), fresh_until

    async def close(self) -> None:
        """Stop refreshing and forget the snapshot."""
        for task in (self._refreshing, self._publishing):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if self._shared is not None:
            await self._shared.give_up()
        await self._refresher.workers.close()

    def _age(self, cached: Cached) -> float:
        return self.clock() - cached.fetched_at

    async def _find(self) -> tuple[Cached, Forward | None]:
        """Return what to answer from, and why the caller waited for it, if it did."""
        cached, asked_at = self.current, self.clock()
        if cached is not None and self._age(cached) < self._policy.ttl_s:
            return cached, None
        found = await self._find_stale_or_refresh(cached)
        if self._renewed_at < asked_at:
            return found, None
        if cached is None:
            return found, "miss"
        return found, "stale" if found.fetched_at > cached.fetched_at else None

    async def _find_stale_or_refresh(self, cached: Cached | None) -> Cached:
        """Return the snapshot while it is young enough, else wait for a refresh."""
        is_usable = cached is not None and self._covers_failure(cached)
        if cached is not None and is_usable and self.clock() < self._paused_until:
            return cached
        refreshing = self._start_refresh()
        if cached is not None and self._is_revalidating(cached):
            return cached
        if cached is not None and is_usable:
            await asyncio.wait(
                [refreshing], timeout=self._left_to_wait_s(self._stale_wait_s)
            )
            return self.current or cached
        try:
            await asyncio.shield(refreshing)
        except RefreshFailed:
            # Another process may have had a stale snapshot, and adopting is enough.
            if self.current is None or not self._covers_failure(self.current):
                raise
        return self._in_force()

    def _covers_failure(self, cached: Cached) -> bool:
        return self._policy.covers_failure(self._age(cached))

    def _is_revalidating(self, cached: Cached) -> bool:
        return self._policy.state(self._age(cached)) == "revalidating"

    def _left_to_wait_s(self, wait_s: float) -> float:
        """Return what is left of a wait that is counted from the refresh's start."""
        running_s = asyncio.get_running_loop().time() - self._refresh_began
        return max(0.0, wait_s - running_s)

    def _in_force(self) -> Cached:
        if self.current is None:
            raise WorkerLost("a refresh has ended without a snapshot")
        return self.current

    async def _prepare(self, cached: Cached, plan: Plan) -> Cached:
        """Return a snapshot whose worker can answer queries under a plan.

        That is the one given, unless its columns are gone with their process or with
        Redis, or only its texts could tell the prices. Then a refresh follows here.
        """
        for _ in range(MAX_REFRESHES):
            if not self._can_answer(cached, plan):
                await self._load_columns(cached)
            if self._can_answer(cached, plan):
                return cached
            await self._wait_for_refresh()
            cached = self._in_force()
        raise WorkerLost

    async def _wait_for_refresh(self) -> None:
        """Wait for a refresh of this process, for about one try to call upstream.

        Requests that waited for its deadline would keep others from being served.
        """
        if self.clock() < self._paused_until:
            raise WorkerLost("the period is lost, and the last refresh has failed")
        refreshing = self._start_refresh(is_alone=True)
        await asyncio.wait([refreshing], timeout=self._left_to_wait_s(self._try_s))
        if not refreshing.done():
            raise WorkerLost("the period is being computed anew")
        refreshing.result()

    def _can_answer(self, cached: Cached, plan: Plan) -> bool:
        snapshot = cached.snapshot
        return snapshot.is_here and (plan is snapshot.plan or snapshot.has_texts)

    async def _load_columns(self, cached: Cached) -> None:
        """Have the worker of an adopted snapshot read the shared columns."""
        snapshot, manifest, shared = cached.snapshot, cached.manifest, self._shared
        if shared is None or manifest is None or snapshot.is_here:
            return

        async def adopt() -> bool:
            columns = await shared.columns(manifest)
            if columns is None:
                return False
            with suppress(msgspec.DecodeError, KeyError, ValueError, WorkerLost):
                await snapshot.worker.adopt(snapshot.number, columns)
            return snapshot.is_here

        await snapshot.derived.once("columns", adopt)

    async def _price(self, snapshot: Snapshot, plan: Plan) -> Summary:
        """Return the totals under a plan, priced now where nobody asked before."""
        if plan is snapshot.plan:
            return snapshot.summary

        async def price() -> Summary:
            priced = await snapshot.worker.query(
                SnapshotStore.price,
                snapshot.number,
                plan.id,
                Logging(snapshot.refresh_id, self._max_logged),
            )
            with bound_contextvars(**snapshot.log_values):
                await log_prices(priced)
            return priced.summary

        return await snapshot.derived.value(plan.id, price)

    def _start_refresh(self, *, is_alone: bool = False) -> asyncio.Task[None]:
        """Return the refresh that runs, or a new one. It belongs to no caller."""
        if self._refreshing is None or self._refreshing.done():
            self._refresh_began = asyncio.get_running_loop().time()
            self._refreshing = asyncio.create_task(self._renew(is_alone=is_alone))
            self._refreshing.add_done_callback(_retrieve)
        return self._refreshing

    async def _renew(self, *, is_alone: bool) -> None:
        """Adopt what another process has fetched, or refresh and share the outcome."""
        if self._publishing is not None:
            await asyncio.wait([self._publishing])
        try:
            if self._shared is None or is_alone or await self._is_ours(self._shared):
                await self._refresh()
        except Exception as error:
            self._paused_until = self.clock() + self._pause_s
            if self._shared is not None:
                failed = error if isinstance(error, RefreshFailed) else None
                await self._shared.give_up(failed)
            raise

    async def _is_ours(self, shared: SharedCache) -> bool:
        """Return whether this process has to refresh; adopt what others have first."""
        cached, known = self.current, Known()
        if cached is not None:
            known = Known(cached.snapshot.revision, self._age(cached), cached.manifest)
        max_age_s = self._policy.ttl_s + self._policy.stale_while_revalidate_s
        joined = await shared.join(known, max_age_s)
        if joined.found is not None:
            self._adopt(joined.found)
        return joined.is_ours

    async def _refresh(self) -> None:
        cached, fetched_at = self.current, self.clock()
        if cached is not None:
            await self._load_columns(cached)
        refreshing = self._refresher.run(
            cached.snapshot if cached else None,
            is_servable=cached is not None and self._covers_failure(cached),
        )
        snapshot = await asyncio.create_task(refreshing)
        same = cached is not None and snapshot.revision == cached.snapshot.revision
        manifest = cached.manifest if cached and same else None
        self._publish(Cached(snapshot, fetched_at, manifest))
        self._renewed_at = self.clock()
        if self._shared is not None:
            sharing = self._share(self._shared, self._in_force())
            self._publishing = asyncio.create_task(sharing)

    def _publish(self, cached: Cached) -> None:
        """Make a snapshot the current one, by one assignment."""
        self.current = cached
        summary = cached.snapshot.summary
        metrics.snapshot_cached(
            summary.plan, summary.messages, summary.credits_total, self._age(cached)
        )

    async def _share(self, shared: SharedCache, cached: Cached) -> None:
        """Let other processes adopt a snapshot."""
        manifest = await shared.publish(
            cached.snapshot, self._age(cached), cached.manifest
        )
        if self.current is cached:
            self.current = cached._replace(manifest=manifest)

    def _adopt(self, found: SharedSnapshot) -> None:
        """Publish what another process has fetched; its columns follow when needed."""
        manifest, fetched_at = found.manifest, self.clock() - found.age_s
        snapshot = self._refresher.adopt(found) or self._in_force().snapshot
        self._publish(Cached(snapshot, fetched_at, manifest))
        if found.age_s < self._policy.ttl_s:
            self._renewed_at = self.clock()
        log.info(
            "cache.shared.adopted",
            plan=manifest.summary.plan,
            messages=manifest.summary.messages,
            credits_total=manifest.summary.credits_total,
            age_s=round(found.age_s, 3),
            **snapshot.log_values,
        )


def find_plan(name: str) -> Plan:
    """Return the plan of this name, with or without its version; else `UnknownPlan`."""
    for plan in PLANS.values():
        if name in {plan.name, plan.id}:
            return plan
    raise UnknownPlan(name, PLANS)


def _retrieve(refresh: asyncio.Task[None]) -> None:
    """Take note of a failure, which may have no caller who waits for it any more."""
    if not refresh.cancelled():
        refresh.exception()
