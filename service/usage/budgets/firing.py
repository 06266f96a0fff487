"""Firing of thresholds: in the transaction that publishes the figures of a period.

The row of a firing is unique for its budget, period and threshold, and is also what is
to be delivered. So a threshold fires once, whichever process finds it reached, and a
process that is killed loses nothing.
"""

import secrets
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from sqlalchemy import Select, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.instants import US_PER_S, format_instant, now_us
from service.storage.bulk_inserts import insert_by
from service.storage.database import Database
from service.storage.uses import Use
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


class BudgetObserver:
    """Compares the figures of the open period with all budgets."""

    def __init__(self, database: Database, on_fired: Callable[[], None]) -> None:
        self._database = database
        self._on_fired = on_fired

    async def published(self, connection: AsyncConnection, period: KeptPeriod) -> None:
        """Fire what a new revision has reached, in the transaction that publishes it.

        Raises `StorageError`.
        """
        found = await read_budgets(connection, UNCHANGED)
        if found:
            fired = await read_fired(connection, period.number)
            await _fire(connection, period, _reached(found, period, fired))

    async def confirmed(self, period: KeptPeriod) -> None:
        """Fire what budgets that are new or changed have reached.

        A fresh snapshot has just had the figures of the published revision. Raises
        `StorageError`.
        """
        self._on_fired()
        async with self._database.reading(Use.BUDGETS) as connection:
            found = await read_budgets(connection)
            fired = await read_fired(connection, period.number)
        if not found:
            return
        due_before = now_us() - CHECK_EVERY_US
        is_due = any(_reached(found, period, fired))
        if is_due or any(each.checked_at < due_before for each in found):
            await self._check(period)

    async def _check(self, period: KeptPeriod) -> None:
        async with self._database.writing(Use.BUDGETS) as connection:
            # It may be closed, or have other figures, since they were read. A
            # publication locks the row of the period first, too.
            if await connection.scalar(_same(period)) is None:
                return
            found = await read_budgets(connection, LOCKED)
            fired = await read_fired(connection, period.number)
            await _fire(connection, period, _reached(found, period, fired))
            await connection.execute(update(budgets).values(checked_at=now_us()))
        self._on_fired()


async def read_fired(connection: AsyncConnection, number: int) -> set[Threshold]:
    """Return the thresholds that have fired in a period."""
    query = select(firings.c.budget_id, firings.c.kind, firings.c.percent)
    rows = await connection.execute(query.where(firings.c.period_number == number))
    return {Threshold(row[0], Kind(row[1]), row[2]) for row in rows}


def _reached(
    found: list[Budget], period: KeptPeriod, fired: set[Threshold]
) -> Iterator[Reached]:
    compared = [each for each in found if _is_compared(each, period)]
    return find_reached(compared, Kind.USED, period.hundredths, fired)


def _is_compared(budget: Budget, period: KeptPeriod) -> bool:
    """Return False for a month that had ended before the budget was created."""
    return period.ends_at is None or budget.created_at < period.ends_at


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
    connection: AsyncConnection, period: KeptPeriod, reached: Iterator[Reached]
) -> None:
    """Write firings; one that another transaction has written is left as it is."""
    now = now_us()
    # The times differ, so that the log of deliveries has the order of the thresholds.
    rows = [_row(period, each, now + place) for place, each in enumerate(reached)]
    if rows:
        statement = insert_by(connection.dialect.name, firings)
        await connection.execute(statement.on_conflict_do_nothing(), rows)


def _row(period: KeptPeriod, reached: Reached, now: int) -> dict[str, Any]:
    threshold, budget = reached.threshold, reached.budget
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
