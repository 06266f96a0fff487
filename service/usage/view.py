"""One snapshot under one plan, from which one request answers.

A request uses a single view, so that its headers, its body and its links belong to the
same snapshot.
"""

from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from service.usage.pricing.plans import Plan
from service.usage.snapshot import Snapshot, answer_headers
from service.usage.snapshots.columns import Summary
from service.usage.snapshots.formats import JSON
from service.usage.snapshots.item_rows import ItemRows
from service.usage.snapshots.selection import Selection
from service.usage.snapshots.store import (
    Explained,
    Extract,
    SnapshotStore,
    encode_daily,
)
from service.web.http_cache.encodings import Answer
from service.web.http_cache.freshness import Freshness
from service.web.lanes import Slot

ROWS_AT_ONCE: Final = 8_192
"""Items that are encoded in some ten milliseconds."""


class SnapshotView(NamedTuple):
    """A snapshot, the plan that prices it, and its age."""

    snapshot: Snapshot
    plan: Plan
    summary: Summary
    """The totals under this plan."""
    freshness: Freshness
    slot: Slot

    @property
    def headers(self) -> dict[str, str]:
        """The headers that name the plan and the snapshot."""
        snapshot = self.snapshot
        return answer_headers(self.summary, snapshot.revision, snapshot.ends_on)

    @property
    def log_values(self) -> dict[str, str]:
        """The ids of the snapshot and of its refresh, for log lines."""
        return self.snapshot.log_values

    async def answer(self, media_type: str) -> Answer:
        """Return the whole period in a format."""
        snapshot, plan = self.snapshot, self.plan
        if plan is snapshot.plan and media_type == JSON:
            return snapshot.answer

        async def encode() -> Answer:
            worker, number = snapshot.worker, snapshot.number
            body = await worker.answer(number, plan.id, media_type)
            return await Answer.of(body, media_type, self.headers)

        return await snapshot.derived.value((plan.id, media_type), encode, self.slot)

    async def extract(self, media_type: str, selection: Selection) -> Extract:
        """Return an encoded page; raises `CursorExpired`."""
        snapshot, page = self.snapshot, (self.plan.id, media_type, selection)
        return await snapshot.derived.shared(
            page, lambda: snapshot.worker.extract(snapshot.number, *page), self.slot
        )

    async def items(self) -> AsyncIterator[ItemRows]:
        """Yield all items with their sources and steps, some thousands at a time."""
        worker, call = self.snapshot.worker, (self.snapshot.number, self.plan.id)
        for begin in range(0, self.summary.messages, ROWS_AT_ONCE):
            end = begin + ROWS_AT_ONCE
            yield await worker.query(SnapshotStore.rows, *call, begin, end)

    async def explain(self, message_id: int) -> Explained:
        """Return the price of one message; raises `MessageNotFound`."""
        worker, number = self.snapshot.worker, self.snapshot.number
        async with self.slot():
            return await worker.query(
                SnapshotStore.explain, number, self.plan.id, message_id
            )

    async def daily(self, zone: str | None) -> bytes:
        """Return the usage of each day in a time zone, as JSON."""
        snapshot, plan = self.snapshot, self.plan

        async def compute() -> bytes:
            # Here, because the worker may be pricing the next snapshot.
            if plan is snapshot.plan and snapshot.quarter_sums is not None:
                body = encode_daily(snapshot.quarter_sums, zone)
                if body is not None:
                    return body
            call = snapshot.number, plan.id, zone
            return await snapshot.worker.query(SnapshotStore.daily, *call)

        key = "daily", plan.id, zone
        return await snapshot.derived.body(key, compute, self.slot)

    async def by_report(self) -> bytes:
        """Return the usage of each report, as JSON."""
        worker, number = self.snapshot.worker, self.snapshot.number
        return await self.snapshot.derived.body(
            ("reports", self.plan.id),
            lambda: worker.query(SnapshotStore.by_report, number, self.plan.id),
            self.slot,
        )
