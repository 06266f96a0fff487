"""Firing of thresholds: in the transaction that publishes the figures of a period.

The row of a firing is unique for its budget, period and threshold, and is also what is
to be delivered. So a threshold fires once, whichever process finds it reached, and a
process that is killed loses nothing.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET
from sqlalchemy import Select, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.instants import US_PER_S, format_instant, now_us
from service.storage.bulk_inserts import insert_by
from service.storage.database import Database
from service.storage.uses import Use
from service.usage.budgets.expectations import Expectations
from service.usage.budgets.model import Budget, FiringData, FiringPayload, Kind
from service.usage.budgets.retries import MAX_ATTEMPTS
from service.usage.budgets.store import LOCKED, UNCHANGED, read_budgets
from service.usage.budgets.tables import PENDING, budgets, firings
from service.usage.budgets.thresholds import Reached, Threshold, find_reached
from service.usage.periods.model import KeptPeriod
from service.usage.periods.tables import OPEN, periods
from service.usage.pricing.plans import HUNDREDTHS_PER_CREDIT

ID_PREFIX: Final = "msg_"
ID_BYTES: Final = 16
EVENT_TYPE: Final = "budget.threshold_reached"
CHECK_EVERY_US: Final = 10 * US_PER_S
"""The time of the last comparison is written no more often than this."""


class Figures(NamedTuple):
    """The credits of a period in hundredths: used, and expected if it is known."""

    period: KeptPeriod
    expected: int | None = None

    def find_reached(
        self, budgets: Iterable[Budget], fired: set[Threshold]
    ) -> Iterator[Reached]:
        """Yield the thresholds that these figures fire."""
        compared = _compared(budgets, self.period)
        yield from find_reached(compared, Kind.USED, self.period.hundredths, fired)
        if self.expected is not None:
            yield from find_reached(compared, Kind.FORECAST, self.expected, fired)


class BudgetObserver:
    """Compares the figures of the open period with all budgets."""

    parts: Final = (firings,)

    def __init__(
        self,
        database: Database,
        expectations: Expectations | None,
        on_fired: Callable[[], None],
    ) -> None:
        self._database = database
        self._expectations = expectations
        self._on_fired = on_fired

    async def published(self, connection: AsyncConnection, period: KeptPeriod) -> None:
        """Fire what a new revision has reached, in the transaction that publishes it.

        Raises `StorageError`.
        """
        found = await read_budgets(connection, UNCHANGED)
        if found and period.status == OPEN:
            fired = await read_fired(connection, period.number)
            await _fire(connection, Figures(period), found, fired)

    async def confirmed(self, period: KeptPeriod) -> None:
        """Fire what the forecast, and budgets that are new or changed, have reached.

        A fresh snapshot has just had the figures of the published revision. Raises
        `StorageError`.
        """
        self._on_fired()
        async with self._database.reading(Use.BUDGETS) as connection:
            found = await read_budgets(connection)
            fired = await read_fired(connection, period.number)
        if not found:
            return
        figures = Figures(period, await self._expected(period, found, fired))
        due_before = now_us() - CHECK_EVERY_US
        is_due = any(figures.find_reached(found, fired))
        if is_due or any(each.checked_at < due_before for each in found):
            await self._check(figures)

    async def _expected(
        self, period: KeptPeriod, found: list[Budget], fired: set[Threshold]
    ) -> int | None:
        """Return the credits that a forecast expects, if a threshold depends on it."""
        waiting = (
            Threshold(budget.id, Kind.FORECAST, percent)
            for budget in _compared(found, period)
            for percent in budget.forecast_thresholds
        )
        if self._expectations is None or fired.issuperset(waiting):
            return None
        forecast = await self._expectations.of(period)
        if forecast is None or forecast.expected is UNSET:
            return None
        return round(forecast.expected * HUNDREDTHS_PER_CREDIT)

    async def _check(self, figures: Figures) -> None:
        async with self._database.writing(Use.BUDGETS) as connection:
            # The period may be closed, or have other figures, since they were read. A
            # publication locks the row of the period first, too.
            if await connection.scalar(_same(figures.period)) is None:
                return
            found = await read_budgets(connection, LOCKED)
            fired = await read_fired(connection, figures.period.number)
            await _fire(connection, figures, found, fired)
            await connection.execute(update(budgets).values(checked_at=now_us()))
        self._on_fired()


async def read_fired(connection: AsyncConnection, number: int) -> set[Threshold]:
    """Return the thresholds that have fired in a period."""
    query = select(firings.c.budget_id, firings.c.kind, firings.c.percent)
    rows = await connection.execute(query.where(firings.c.period_number == number))
    return {Threshold(row[0], Kind(row[1]), row[2]) for row in rows}


def _compared(found: Iterable[Budget], period: KeptPeriod) -> list[Budget]:
    """Return the budgets without those that are newer than the end of a month."""
    ends_at = period.ends_at
    return [each for each in found if ends_at is None or each.created_at < ends_at]


def _same(period: KeptPeriod) -> Select[Any]:
    return (
        select(periods.c.number)
        .where(
            periods.c.number == period.number,
            periods.c.revision == period.revision,
            periods.c.status == OPEN,
        )
        .with_for_update(read=True)
    )


async def _fire(
    connection: AsyncConnection,
    figures: Figures,
    found: list[Budget],
    fired: set[Threshold],
) -> None:
    """Write firings; one that another transaction has written is left as it is."""
    now = now_us()
    # The times differ, so that the log of deliveries has the order of the thresholds.
    rows = [
        _row(figures, each, now + place)
        for place, each in enumerate(figures.find_reached(found, fired))
    ]
    if rows:
        statement = insert_by(connection.dialect.name, firings)
        await connection.execute(statement.on_conflict_do_nothing(), rows)


def _row(figures: Figures, reached: Reached, now: int) -> dict[str, Any]:
    threshold, budget, period = reached.threshold, reached.budget, figures.period
    is_forecast = threshold.kind is Kind.FORECAST
    payload = FiringPayload(
        type=EVENT_TYPE,
        timestamp=format_instant(now),
        data=FiringData(
            budget=budget.name,
            period=period.period,
            revision=period.revision,
            kind=threshold.kind,
            threshold=threshold.percent,
            credits=budget.hundredths / HUNDREDTHS_PER_CREDIT,
            credits_used=period.hundredths / HUNDREDTHS_PER_CREDIT,
            share=period.hundredths / budget.hundredths,
            as_of=format_instant(period.fetched_at),
            credits_expected=(
                reached.hundredths / HUNDREDTHS_PER_CREDIT if is_forecast else UNSET
            ),
        ),
    )
    return {
        "id": ID_PREFIX + secrets.token_hex(ID_BYTES),
        "budget_id": budget.id,
        "period_number": period.number,
        "kind": threshold.kind.value,
        "percent": threshold.percent,
        "period": period.period,
        "fired_at": now,
        "payload": msgspec.json.encode(payload).decode(),
        "state": PENDING,
        "attempts": 0,
        "max_attempts": MAX_ATTEMPTS,
        "next_at": now,
    }
