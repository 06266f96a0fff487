"""The cache of the current snapshot: time to live, single flight, stale answers.

Requests use the current snapshot while it is fresh. For some time after that, they use
the stale snapshot while one refresh runs in the background. If no snapshot is young
enough, all requests wait for the same refresh. It continues when a client disconnects.
"""

import asyncio
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from service.instants import now_us
from service.observability.stages import stage
from service.settings import Settings
from service.storage.redis_store import RedisStore
from service.upstream.client import UpstreamClient
from service.usage import metrics
from service.usage.errors import RefreshFailed, WorkerLost
from service.usage.failures import Failures
from service.usage.parameters import find_plan
from service.usage.preparation import (
    CachedSnapshot,
    can_answer,
    load_columns,
    price,
)
from service.usage.pricing.plans import Plan
from service.usage.refresh import Refresher
from service.usage.shared_cache import KnownSnapshot, SharedCache
from service.usage.shared_reports import make_resolver
from service.usage.shared_snapshot import SharedSnapshot
from service.usage.snapshot import Snapshot
from service.usage.snapshots.spans import Span
from service.usage.snapshots.worker import INLINE_MESSAGES
from service.usage.sources import MessageSource
from service.usage.view import SnapshotView
from service.web.http_cache.encodings import Answer
from service.web.http_cache.freshness import Forward, Freshness, Policy
from service.web.lanes import Slot, no_slot

NOTE_AGAIN_S: Final = 1.0
"""Time after which an answer from the same snapshot is noted for the metrics again."""
MAX_REFRESHES: Final = 3
"""Refreshes that one query waits for: the first may adopt a snapshot without texts."""

log = structlog.get_logger()


class SnapshotCache:
    """The current snapshot of this process, and its refreshes."""

    def __init__(
        self,
        settings: Settings,
        client: UpstreamClient,
        source: MessageSource,
        clock: Callable[[], float] = time.monotonic,
        *,
        store: RedisStore | None = None,
    ) -> None:
        self.clock = clock
        self.current: CachedSnapshot | None = None
        self.published = 0
        """Snapshots published so far: it tells others that `current` is replaced."""
        self._policy = Policy.of(
            settings.cache, is_private="usage:read" in settings.auth.required
        )
        self._stale_wait_s = settings.cache.stale_wait_s
        self._try_s = settings.upstream.timeout_s
        self.failures = Failures(settings.cache.pause_after_failure_s, clock)
        self._max_logged = settings.logging.steps_per_refresh
        self._plan = find_plan(settings.usage.plan)
        resolver = make_resolver(settings, client, clock, store)
        self.refreshers = partial(
            Refresher, settings, resolver=resolver, plan=self._plan, clock=clock
        )
        """Makes refreshers of other sources, with the same reports and plan."""
        self._refresher = self.refreshers(source=source)
        self._shared = SharedCache(settings, store) if store else None
        self._refreshing: asyncio.Task[None] | None = None
        self._refresh_began = -math.inf
        self._publishing: asyncio.Task[None] | None = None
        self._renewed_at = -math.inf
        self._noted = 0
        self._noted_at = -math.inf
        self.on_refresh: Callable[[Snapshot, int], None] = lambda *_: None
        """Receives each snapshot of a refresh of this process, and its fetch's time."""
        self.find_span: Callable[[], Span | None] = lambda: None
        """Returns the current billing month; None where the upstream decides."""

    @property
    def default_plan(self) -> Plan:
        """The plan of requests that name none."""
        return self._plan

    async def view(
        self,
        plan_name: str | None = None,
        slot: Slot = no_slot,
        *,
        is_query: bool = True,
    ) -> SnapshotView:
        """Return the current period under a plan, the configured one by default.

        `is_query` is false if the encoded answer is enough. Queries enter the lane of
        `slot`, also that which prices another plan. Raises `UnknownPlan`, and
        `RefreshFailed` if no snapshot is young enough.
        """
        plan = self._plan if plan_name is None else find_plan(plan_name)
        cached, forward = await self._find()
        if is_query or plan is not self._plan:
            cached = await self._prepare(cached, plan)
        snapshot = cached.snapshot
        if snapshot.summary.messages <= INLINE_MESSAGES:
            slot = no_slot  # the event loop answers at once
        with stage("query"):
            summary = await price(snapshot, plan, self._max_logged, slot)
        freshness = self._policy.judge(self._age(cached), forward)
        self.note_answer(cached)
        return SnapshotView(snapshot, plan, summary, freshness, slot)

    def immediate_answer(self) -> tuple[Answer, Freshness, float] | None:
        """Return the default answer, its freshness, and the end of its use.

        None if a request has to start a refresh or to wait for one. While one runs, a
        stale answer needs neither. The end is in seconds, by the clock of the cache.
        """
        cached, policy = self.current, self._policy
        if cached is None:
            return None
        age_s = self._age(cached)
        state, use_s = policy.state(age_s), policy.ttl_s
        is_looking = self._shared is not None and self._shared.is_looking
        if state == "revalidating" and self._refreshing is not None and not is_looking:
            use_s += policy.stale_while_revalidate_s
        elif state != "fresh":
            return None
        return cached.snapshot.answer, policy.judge(age_s), cached.fetched_at + use_s

    @property
    def is_servable(self) -> bool:
        """True while a snapshot is cached that may be served if refreshes fail."""
        return self.current is not None and self._covers_failure(self.current)

    def lists(self, month: Span) -> bool | None:
        """Return whether the upstream lists messages of a month that has ended.

        Only a snapshot of a later month shows that; without one, this is None.
        """
        snapshot = self.current.snapshot if self.current else None
        if snapshot is None or snapshot.span is None or snapshot.span.begin < month.end:
            return None
        return snapshot.earlier > 0

    @property
    def is_shared(self) -> bool:
        """True if processes share snapshots through Redis."""
        return self._shared is not None

    async def wait_until_shared(self) -> None:
        """Wait until the last snapshot is in Redis, if processes share it."""
        if self._publishing is not None:
            await asyncio.wait([self._publishing])

    @property
    def refreshing(self) -> asyncio.Task[None] | None:
        """The refresh that runs, or None."""
        return self._refreshing

    @property
    def refresh_began(self) -> float:
        """When the last refresh began, by the time of the event loop."""
        return self._refresh_began

    def start_refresh(self, *, is_alone: bool = False) -> asyncio.Task[None]:
        """Return the running refresh, or start one.

        Requests share it, so a client that disconnects does not cancel it. With
        `is_alone`, a new refresh does not adopt the snapshot of another process.
        """
        if self._refreshing is None or self._refreshing.done():
            self._refresh_began = asyncio.get_running_loop().time()
            if self._shared is not None and not is_alone:
                self._shared.begin_look()
            self._refreshing = asyncio.create_task(self._renew(is_alone=is_alone))
            self._refreshing.add_done_callback(self._forget_refresh)
        return self._refreshing

    def note_answer(self, cached: CachedSnapshot) -> None:
        """Note for the metrics that this snapshot answers, not more than needed."""
        now = self.clock()
        # By number, because a reference would keep a replaced snapshot in memory.
        if self.published != self._noted or now >= self._noted_at + NOTE_AGAIN_S:
            self._noted, self._noted_at = self.published, now
            metrics.answered(self._age(cached))

    async def close(self) -> None:
        """Stop refreshing and forget the snapshot."""
        for task in (self._refreshing, self._publishing):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if self._shared is not None:
            await self._shared.release()
        await self._refresher.close()

    def _age(self, cached: CachedSnapshot) -> float:
        return self.clock() - cached.fetched_at

    async def _find(self) -> tuple[CachedSnapshot, Forward | None]:
        """Return the snapshot to answer from, and the reason for a wait, if any."""
        cached, started_at = self.current, self.clock()
        if cached is not None and self._age(cached) < self._policy.ttl_s:
            return cached, None
        with stage("refresh"):
            found = await self._find_stale_or_refresh(cached)
        # Without a refresh since then, the request was not forwarded (RFC 9211).
        if self._renewed_at < started_at:
            return found, None
        if cached is None:
            return found, "miss"
        return found, "stale" if found.fetched_at > cached.fetched_at else None

    async def _find_stale_or_refresh(
        self, cached: CachedSnapshot | None
    ) -> CachedSnapshot:
        """Return the snapshot while it is young enough, else wait for a refresh."""
        is_usable = cached is not None and self._covers_failure(cached)
        # After a failure the upstream gets a pause, while a stale answer covers it.
        if cached is not None and is_usable and self.failures.is_pausing:
            return cached
        refreshing = self.start_refresh()
        # `stale-while-revalidate` of RFC 5861: the client does not wait.
        if cached is not None and self._is_revalidating(cached):
            if self._shared is not None:
                await self._shared.wait_for_look()
            return self.current or cached
        if cached is not None and is_usable:
            # One wait for all requests, counted from the start of the refresh.
            # Otherwise an upstream that hangs would fill `server.max_in_flight`.
            await asyncio.wait(
                [refreshing], timeout=self._remaining_s(self._stale_wait_s)
            )
            return self.current or cached
        try:
            # A client that disconnects must not cancel the refresh of the others.
            await asyncio.shield(refreshing)
        except RefreshFailed:
            # The refresh may have adopted a stale snapshot before it failed.
            if self.current is None or not self._covers_failure(self.current):
                raise
        return self._require_current()

    def _covers_failure(self, cached: CachedSnapshot) -> bool:
        return self._policy.covers_failure(self._age(cached))

    def _is_revalidating(self, cached: CachedSnapshot) -> bool:
        return self._policy.state(self._age(cached)) == "revalidating"

    def _remaining_s(self, wait_s: float) -> float:
        """Return the rest of a wait that begins with the refresh, in seconds."""
        running_s = asyncio.get_running_loop().time() - self._refresh_began
        return max(0.0, wait_s - running_s)

    def _require_current(self) -> CachedSnapshot:
        if self.current is None:
            raise WorkerLost("a refresh has ended without a snapshot")
        return self.current

    async def _prepare(self, cached: CachedSnapshot, plan: Plan) -> CachedSnapshot:
        """Return a snapshot whose worker can answer queries under a plan.

        Refreshes if the columns of the given snapshot are lost, or if the plan needs
        its texts and only another process has them. Raises `RefreshFailed`.
        """
        for _ in range(MAX_REFRESHES):
            if not can_answer(cached.snapshot, plan):
                await load_columns(cached, self._shared)
            if can_answer(cached.snapshot, plan):
                return cached
            with stage("refresh"):
                await self._wait_for_refresh()
            cached = self._require_current()
        raise WorkerLost

    async def _wait_for_refresh(self) -> None:
        """Wait for a refresh of this process, as long as one call of upstream may take.

        Raises `RefreshFailed`.
        """
        # Requests that wait for a refresh's deadline would use up
        # `server.max_in_flight`.
        if self.failures.is_pausing:
            raise WorkerLost("the period is lost, and the last refresh has failed")
        refreshing = self.start_refresh(is_alone=True)
        await asyncio.wait([refreshing], timeout=self._remaining_s(self._try_s))
        if not refreshing.done():
            raise WorkerLost("the period is being computed again")
        refreshing.result()

    def _forget_refresh(self, refresh: asyncio.Task[None]) -> None:
        """Forget a refresh, since its error refers to the body that it has fetched."""
        if not refresh.cancelled():
            refresh.exception()  # otherwise asyncio logs that nobody retrieved it
        if self._refreshing is refresh:
            self._refreshing = None

    async def _renew(self, *, is_alone: bool) -> None:
        """Adopt the snapshot of another process, or refresh and share the result."""
        # Publishing ends with the release of the lock, which the next refresh needs.
        if self._publishing is not None:
            await asyncio.wait([self._publishing])
        try:
            if self._shared is None or is_alone or await self._join(self._shared):
                await self._refresh()
            self.failures.end()
        except Exception as error:
            self.failures.note(error)
            if self._shared is not None:
                # Waiting processes fail too, and do not refresh one by one.
                failed = error if isinstance(error, RefreshFailed) else None
                await self._shared.release(failed)
            raise

    async def _join(self, shared: SharedCache) -> bool:
        """Adopt a newer shared snapshot; return whether this process must refresh."""
        max_age_s = self._policy.ttl_s + self._policy.stale_while_revalidate_s
        joined = await shared.join(self._known(), max_age_s)
        if joined.found is not None:
            self._adopt(joined.found)
        shared.end_look()
        return joined.must_refresh

    def _known(self) -> KnownSnapshot:
        if (cached := self.current) is None:
            return KnownSnapshot()
        revision = cached.snapshot.revision
        return KnownSnapshot(revision, self._age(cached), cached.manifest)

    async def _refresh(self) -> None:
        # The age counts from before the fetch: messages may change during it.
        cached, fetched_at, asked_at = self.current, self.clock(), now_us()
        if cached is not None:
            # The next snapshot is compared with these columns, which may be in Redis.
            await load_columns(cached, self._shared)
        refreshing = self._refresher.run(
            cached.snapshot if cached else None,
            is_servable=cached is not None and self._covers_failure(cached),
            span=self.find_span(),
        )
        snapshot = await asyncio.create_task(refreshing)
        is_same = cached is not None and snapshot.revision == cached.snapshot.revision
        manifest = cached.manifest if cached and is_same else None
        self._publish(CachedSnapshot(snapshot, fetched_at, manifest))
        self._renewed_at = self.clock()
        self.on_refresh(snapshot, asked_at)
        if self._shared is not None:
            # In the background: requests of this process do not wait for Redis.
            sharing = self._share(self._shared, self._require_current())
            self._publishing = asyncio.create_task(sharing)

    def _publish(self, cached: CachedSnapshot) -> None:
        """Make a snapshot the current one."""
        self.current = cached
        self.published += 1
        summary = cached.snapshot.summary
        metrics.snapshot_cached(summary.plan, summary.messages, summary.credits_total)

    async def _share(self, shared: SharedCache, cached: CachedSnapshot) -> None:
        """Share a snapshot with other processes, and keep its manifest."""
        manifest = await shared.publish(
            cached.snapshot, self._age(cached), cached.manifest
        )
        if self.current is cached:
            self.current = cached._replace(manifest=manifest)
        # A process that was stopped for a while publishes later than another one.
        if manifest is None and (newer := await shared.find_newer(self._known())):
            self._adopt(newer)

    def _adopt(self, found: SharedSnapshot) -> None:
        """Publish the snapshot of another process; its columns load when needed."""
        manifest, fetched_at = found.manifest, self.clock() - found.age_s
        snapshot = self._refresher.adopt(found) or self._require_current().snapshot
        self._publish(CachedSnapshot(snapshot, fetched_at, manifest))
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
