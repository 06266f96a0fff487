"""The list of kept periods, as the API and the commands show it."""

from typing import NamedTuple

from msgspec import UNSET

from service.instants import format_instant
from service.storage.database import Database
from service.usage.periods.model import Adjustments, KeptPeriod, PeriodItem
from service.usage.periods.statements.digests import Statement
from service.usage.periods.statements.store import StatementStore
from service.usage.periods.store import PeriodStore
from service.usage.pricing.plans import HUNDREDTHS_PER_CREDIT


class ListedPeriods(NamedTuple):
    """A page of periods, the newest first."""

    items: list[PeriodItem]
    last: int | None
    """The number of the last period of the page; None for an empty one."""
    has_more: bool


class Listing:
    """Reads periods with their statements; methods raise `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._periods = PeriodStore(database)
        self._statements = StatementStore(database)

    async def page(self, before: int | None, limit: int) -> ListedPeriods:
        """Return the newest periods, with numbers below `before`."""
        found = await self._periods.newest(before, limit + 1)
        listed = found[:limit]
        last = listed[-1].number if listed else None
        return ListedPeriods(await self._items(listed), last, len(found) > limit)

    async def item(self, period: KeptPeriod) -> PeriodItem:
        """Return one period as it is listed."""
        (item,) = await self._items([period])
        return item

    async def _items(self, listed: list[KeptPeriod]) -> list[PeriodItem]:
        closed = [each.number for each in listed if each.closed_at is not None]
        statements = await self._statements.of_periods(closed)
        adjustments = await self._periods.adjustments_of(
            [each.number for each in listed]
        )
        return [
            _item(each, statements.get(each.number), adjustments.get(each.number))
            for each in listed
        ]


def _item(
    period: KeptPeriod, statement: Statement | None, adjustments: Adjustments | None
) -> PeriodItem:
    adjusted = adjustments or Adjustments(period_number=period.number)
    is_open = period.closed_at is None
    return PeriodItem(
        period=period.period,
        status="open" if is_open else "closed",
        first=format_instant(period.first_at),
        last=format_instant(period.last_at),
        messages=period.messages,
        credits_used=period.hundredths / HUNDREDTHS_PER_CREDIT,
        adjustments=adjusted.hundredths / HUNDREDTHS_PER_CREDIT,
        revision=max(period.revision, adjusted.revision),
        plan=period.plan,
        closed_at=UNSET
        if period.closed_at is None
        else format_instant(period.closed_at),
        digest=UNSET if statement is None else statement.digest,
        previous_digest=UNSET if statement is None else statement.previous_digest,
    )
