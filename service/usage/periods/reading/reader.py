"""Requests on kept periods: few chunks answer most, and the whole period the others."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeVar

from service.settings import Settings
from service.storage.database import Database
from service.usage.parameters import find_plan
from service.usage.periods.errors import PeriodNotKept, PeriodReplaced, TextsNotKept
from service.usage.periods.model import KeptPeriod
from service.usage.periods.reading.chunk_cache import ChunkCache
from service.usage.periods.reading.kept_items import read_items
from service.usage.periods.reading.revision_rows import RevisionRows
from service.usage.periods.reading.whole_periods import (
    WholePeriods,
    ends_on_of,
    price_anew,
    summary_of,
)
from service.usage.periods.store import PeriodStore
from service.usage.periods.tables import CLOSED
from service.usage.pricing.plans import Plan
from service.usage.snapshot import answer_headers, log_values_of
from service.usage.snapshots.columns import Summary
from service.usage.snapshots.item_rows import ItemRows
from service.usage.snapshots.selection import Selection
from service.usage.snapshots.store import Explained, Extract
from service.usage.view import SnapshotView
from service.web.http_cache.encodings import Answer
from service.web.http_cache.freshness import Freshness, Policy
from service.web.lanes import Slot, no_slot

MAX_TRIES: Final = 3
NEAREST: Final = 5
IMMUTABLE_S: Final = 31_536_000.0
"""RFC 2616 allowed caches a year at most, and the limit has stayed customary."""

T = TypeVar("T")


class Slots(NamedTuple):
    """The lanes of queries."""

    query: Slot
    whole: Slot
    """That of loading a whole period, which takes long."""


NO_LANES: Final = Slots(no_slot, no_slot)
"""For work that no request waits for."""


class KeptSnapshots:
    """Answers from kept periods."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.store = PeriodStore(database)
        self.chunks = ChunkCache(self.store)
        self.whole = WholePeriods(settings.usage.own_process_bytes, self.chunks)
        is_private = "usage:read" in settings.auth.required
        self._open = Policy.of(settings.cache, is_private=is_private)
        self._closed = Policy(IMMUTABLE_S, 0, 0, is_private, is_immutable=True)

    async def view(
        self, name: str, plan_name: str | None, slots: Slots = NO_LANES
    ) -> "KeptView":
        """Return a kept period, as the requests on it see it.

        Raises `PeriodNotKept`, `TextsNotKept`, `UnknownPlan` and `StorageError`.
        """
        plan = find_plan(plan_name) if plan_name is not None else None
        period = await self.find(name)
        return KeptView(self, period, slots, plan)

    async def find(self, name: str) -> KeptPeriod:
        """Return the row of a period; raises `PeriodNotKept` and `StorageError`."""
        # PostgreSQL refuses some characters, which no id has.
        is_valid = name.isascii() and name.isprintable()
        period = await self.store.find(name) if is_valid else None
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

    def judge(self, period: KeptPeriod) -> Freshness:
        """Return the time for which caches may use the answers of a period."""
        policy = self._closed if period.status == CLOSED else self._open
        return policy.judge(0.0)

    async def close(self) -> None:
        """End the workers."""
        await self.whole.close()


class KeptView:
    """One revision of a kept period, from which one request answers.

    Methods raise `StorageError`, `ChunkDamaged` and `WorkerLost`. If another revision
    replaces this one before it has answered, that one answers.
    """

    def __init__(
        self,
        kept: KeptSnapshots,
        period: KeptPeriod,
        slots: Slots,
        plan: Plan | None = None,
    ) -> None:
        """Without `plan`, answer with the prices that are kept.

        Raises `TextsNotKept`, and `UnknownPlan` if this version lacks the kept one.
        """
        self._kept, self._slots = kept, slots
        self._requested = plan
        self._use(period)

    def _use(self, period: KeptPeriod) -> None:
        self._period = period
        self._summary = summary_of(period)._replace(plan=self.plan.id)
        if self._is_priced_anew and period.texts is None:
            raise TextsNotKept(period.period, period.plan)

    @property
    def _is_priced_anew(self) -> bool:
        return self.plan.id != self._period.plan

    @property
    def plan(self) -> Plan:
        """The plan that prices the period; raises `UnknownPlan`."""
        # A newer version of the service may have priced it by a plan of its own.
        return self._requested or find_plan(self._period.plan)

    @property
    def summary(self) -> Summary:
        """The totals of the period; under another plan, once it has answered."""
        return self._summary

    @property
    def freshness(self) -> Freshness:
        """The time for which caches may use the answer."""
        return self._kept.judge(self._period)

    @property
    def headers(self) -> dict[str, str]:
        """The headers that name the plan and the revision."""
        period = self._period
        revision, ends_on = str(period.revision), ends_on_of(period)
        return answer_headers(self.summary, revision, ends_on)

    @property
    def log_values(self) -> dict[str, str]:
        """The id of the revision, for log lines."""
        revision = str(self._period.revision)
        return log_values_of(revision, revision)

    async def answer(self, media_type: str) -> Answer:
        """Return the whole period in a format."""
        return await self._answer(None, lambda view: view.answer(media_type))

    async def extract(self, media_type: str, selection: Selection) -> Extract:
        """Return an encoded page; raises `CursorExpired`."""
        return await self._answer(
            lambda rows: rows.page(media_type, selection),
            lambda view: view.extract(media_type, selection),
        )

    async def explain(self, message_id: int) -> Explained:
        """Return the price of one message; raises `MessageNotFound`."""
        return await self._answer(
            lambda rows: rows.explain(message_id),
            lambda view: view.explain(message_id),
        )

    async def daily(self, zone: str | None) -> bytes:
        """Return the usage of each day in a time zone, as JSON."""
        return await self._answer(
            lambda rows: rows.daily(zone), lambda view: view.daily(zone)
        )

    async def by_report(self) -> bytes:
        """Return the usage of each report, as JSON."""
        return await self._answer(
            lambda rows: rows.by_report(), lambda view: view.by_report()
        )

    async def items(self) -> AsyncIterator[ItemRows]:
        """Yield all items with their sources and steps, some thousands at a time.

        Raises `PeriodReplaced` if the revision of an open period is gone.
        """
        # The chunks of an open period may be removed meanwhile.
        is_whole = self._period.status != CLOSED or self._is_priced_anew
        items = (
            (await self._whole()).items()
            if is_whole
            else read_items(self._kept.chunks, self._period)
        )
        async for rows in items:
            yield rows

    async def _answer(
        self,
        of_rows: Callable[[RevisionRows], Awaitable[T | None]] | None,
        of_whole: Callable[[SnapshotView], Awaitable[T]],
    ) -> T:
        """Return what few chunks answer, or the whole period."""
        for _ in range(MAX_TRIES):
            try:
                found = None
                if of_rows is not None and not self._is_priced_anew:
                    found = await self._from_rows(of_rows)
                if found is None:
                    found = await of_whole(await self._whole())
                return found
            except PeriodReplaced:
                self._use(await self._kept.find(self._period.period))
        period = self._period
        if period.status == CLOSED:
            # Nothing replaces a closed period, and `find` does not find a removed one.
            raise self._kept.chunks.damaged(period, "the period lacks a chunk")
        raise PeriodReplaced(f"period {period.period} changes all the time")

    async def _from_rows(
        self, answer: Callable[[RevisionRows], Awaitable[T | None]]
    ) -> T | None:
        async with self._slots.query():
            chunks = self._kept.chunks
            outline = await chunks.outline(self._period)
            if outline is None:
                return None
            return await answer(RevisionRows(self._period, outline, chunks))

    async def _whole(self) -> SnapshotView:
        period, slot = self._period, self._slots.query
        snapshot = await self._kept.whole.snapshot(
            period, self._slots.whole, with_texts=self._is_priced_anew
        )
        priced = await price_anew(snapshot, self.plan, slot)
        self._summary = priced._replace(degraded=period.degraded)
        return SnapshotView(snapshot, self.plan, self._summary, self.freshness, slot)


UsageView = SnapshotView | KeptView
"""What a request on usage answers from."""


def _nearest(name: str, listed: Sequence[str]) -> list[str]:
    """Return the ids of the periods around an id, which begins with a date."""
    ordered = sorted(listed, key=lambda each: (each < name, each))
    return ordered[:NEAREST]
