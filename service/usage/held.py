"""A fetched period as it is held, and what callers can ask of it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from service.usage.bookkeeping import Bookkeeper
from service.usage.books import Books, Contents, Extract, Priced
from service.usage.encodings import Answer
from service.usage.freshness import Freshness
from service.usage.generations import Head
from service.usage.model import DailyUsage, Explanation, UsageByReport
from service.usage.rating import Plan
from service.usage.reports import Settled
from service.usage.selection import Selection
from service.usage.shared_parts import Packed

MOST_SUMS: Final = 64
"""Sums of one period that are held; a time zone each makes a sum."""


@dataclass(eq=False)
class HeldPeriod:
    """One fetched period: where its books are, and the answers made of it so far."""

    keeper: Bookkeeper
    contents: Contents
    settled: Settled
    etag: str | None
    """Upstream's tag of the messages."""
    fetched_at: float
    priced: dict[str, Priced]
    """What pricing came to, by the plan's id."""
    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)
    """Whole answers by plan and media type."""
    body: bytearray | Packed | None = None
    """Upstream's messages, while others can be offered them."""
    head: Head | None = None
    """What it is to other processes, if they can see it."""
    sums: dict[tuple[Plan, Callable[..., Any], tuple[Any, ...]], Any] = field(
        default_factory=dict
    )
    """Sums by plan, method of the books and arguments."""
    making: asyncio.Lock = field(default_factory=asyncio.Lock)


class View(NamedTuple):
    """The held period under one plan, as one caller sees it now."""

    period: HeldPeriod
    plan: Plan
    freshness: Freshness

    @property
    def headers(self) -> dict[str, str]:
        """The plan, and how many messages it prices by text for want of a report."""
        return self.period.priced[self.plan.id].headers

    async def answer(self, media_type: str) -> Answer:
        """The whole period in a format: made once, then held."""
        key = self.plan.id, media_type
        answer = self.period.answers.get(key)
        if answer is not None:
            return answer
        async with self.period.making:
            if key not in self.period.answers:
                body = await self.period.keeper.answer(self.plan, media_type)
                made = await Answer.of(body, media_type, self.headers)
                self.period.answers[key] = made
            return self.period.answers[key]

    async def extract(self, media_type: str, selection: Selection) -> Extract:
        """Some of the messages; `CursorExpired` where the page's start is gone."""
        ask = self.period.keeper.call
        return await ask(Books.extract, self.plan, media_type, selection)

    async def explain(self, message_id: int) -> Explanation:
        """Why a message costs what it costs; `MessageNotFound` without one."""
        return await self.period.keeper.call(Books.explain, self.plan, message_id)

    async def daily(self, zone: str | None) -> DailyUsage:
        """What each day of a time zone has used."""
        daily: DailyUsage = await self._sum(Books.daily, zone)
        return daily

    async def by_report(self) -> UsageByReport:
        """What each report has used."""
        by_report: UsageByReport = await self._sum(Books.by_report)
        return by_report

    async def _sum(self, method: Callable[..., Any], *args: Any) -> Any:
        """A sum over the period: worked out once, then held with it."""
        sums, key = self.period.sums, (self.plan, method, args)
        if key in sums:
            return sums[key]
        value = await self.period.keeper.call(method, self.plan, *args)
        if len(sums) < MOST_SUMS:
            sums[key] = value
        return value
