"""A view: one snapshot under one plan, as one request sees it.

A request takes one view and answers from it alone, so that its headers, its body and
every link in it belong to the same snapshot.
"""

from typing import NamedTuple

from service.usage.encodings import Answer, answer_headers
from service.usage.freshness import Freshness
from service.usage.pricing.plans import Plan
from service.usage.snapshots.columns import Summary
from service.usage.snapshots.formats import JSON
from service.usage.snapshots.selection import Selection
from service.usage.snapshots.snapshot import Snapshot
from service.usage.snapshots.store import Explained, Extract, SnapshotStore


class View(NamedTuple):
    """A snapshot, the plan that prices it, and its age."""

    snapshot: Snapshot
    plan: Plan
    summary: Summary
    """The totals under this plan."""
    freshness: Freshness

    @property
    def headers(self) -> dict[str, str]:
        """The headers that name the plan and the snapshot."""
        return answer_headers(self.summary, self.snapshot.revision)

    async def answer(self, media_type: str) -> Answer:
        """Return the whole period in a format."""
        snapshot, plan = self.snapshot, self.plan
        if plan is snapshot.plan and media_type == JSON:
            return snapshot.answer

        async def encode() -> Answer:
            worker, number = snapshot.worker, snapshot.number
            body = await worker.answer(number, plan.id, media_type)
            return await Answer.of(body, media_type, self.headers)

        return await snapshot.derived.value((plan.id, media_type), encode)

    async def extract(self, media_type: str, selection: Selection) -> Extract:
        """Return a page; `CursorExpired` where the message before it is gone."""
        worker, number = self.snapshot.worker, self.snapshot.number
        return await worker.query(
            SnapshotStore.extract, number, self.plan.id, media_type, selection
        )

    async def explain(self, message_id: int) -> Explained:
        """Return the price of one message; `MessageNotFound` without one."""
        worker, number = self.snapshot.worker, self.snapshot.number
        return await worker.query(
            SnapshotStore.explain, number, self.plan.id, message_id
        )

    async def daily(self, zone: str | None) -> bytes:
        """Return the usage of each day in a time zone, as JSON."""
        worker, number = self.snapshot.worker, self.snapshot.number
        return await self.snapshot.derived.body(
            ("daily", self.plan.id, zone),
            lambda: worker.query(SnapshotStore.daily, number, self.plan.id, zone),
        )

    async def by_report(self) -> bytes:
        """Return the usage of each report, as JSON."""
        worker, number = self.snapshot.worker, self.snapshot.number
        return await self.snapshot.derived.body(
            ("reports", self.plan.id),
            lambda: worker.query(SnapshotStore.by_report, number, self.plan.id),
        )
