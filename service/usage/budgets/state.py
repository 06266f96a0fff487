"""Budgets with the figures of the open period, as the API and the command show them."""

from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from msgspec import UNSET
from sqlalchemy import Row

from service.instants import format_instant
from service.storage.database import Database
from service.usage.budgets.expectations import Expectations
from service.usage.budgets.model import (
    Budget,
    BudgetItem,
    FiredItem,
    ForecastItem,
    Kind,
    WebhookItem,
)
from service.usage.budgets.outbox import Outbox
from service.usage.periods.model import KeptPeriod
from service.usage.periods.store import PeriodStore
from service.usage.pricing.plans import HUNDREDTHS_PER_CREDIT


class Figures(NamedTuple):
    """The open period and its forecast; None where they are unknown."""

    period: KeptPeriod | None
    forecast: ForecastItem | None


class BudgetStates:
    """Compares budgets with the open period; all methods raise `StorageError`."""

    def __init__(self, database: Database, expectations: Expectations) -> None:
        self._expectations = expectations
        self._periods = PeriodStore(database)
        self._outbox = Outbox(database)

    async def of(
        self, budgets: Iterable[Budget], *, secret: str | None = None
    ) -> list[BudgetItem]:
        """Return budgets with their figures; `secret` is shown with them."""
        period = await self._periods.find_open()
        rows = await self._outbox.of_period(period.number) if period else ()
        forecast = await self._expectations.of(period) if period else None
        figures = Figures(period, forecast)
        return [
            _item(
                each, figures, [row for row in rows if row.budget_id == each.id], secret
            )
            for each in budgets
        ]


def _item(
    budget: Budget,
    figures: Figures,
    fired: Iterable[Row[Any]],
    secret: str | None,
) -> BudgetItem:
    period = figures.period
    used = None if period is None else period.hundredths
    left = None if used is None else budget.hundredths - used
    return BudgetItem(
        name=budget.name,
        credits=budget.hundredths / HUNDREDTHS_PER_CREDIT,
        thresholds=budget.thresholds,
        forecast_thresholds=budget.forecast_thresholds,
        webhook=_webhook(budget, secret),
        created_at=format_instant(budget.created_at),
        period=None if period is None else period.period,
        as_of=None if period is None else format_instant(period.fetched_at),
        credits_used=_credits(used),
        credits_remaining=_credits(left),
        share=None if used is None else used / budget.hundredths,
        forecast=figures.forecast,
        fired=[
            FiredItem(
                kind=Kind(each.kind),
                threshold=each.percent,
                at=format_instant(each.fired_at),
                delivery=each.id,
                state=each.state,
            )
            for each in fired
        ],
    )


def _webhook(budget: Budget, secret: str | None) -> WebhookItem | None:
    if budget.webhook_url is None:
        return None
    parts = urlsplit(budget.webhook_url)
    disabled_at = budget.disabled_at
    return WebhookItem(
        url=f"{parts.scheme}://{parts.netloc}/…",
        disabled_at=UNSET if disabled_at is None else format_instant(disabled_at),
        secret=UNSET if secret is None else secret,
    )


def _credits(hundredths: int | None) -> float | None:
    return None if hundredths is None else hundredths / HUNDREDTHS_PER_CREDIT
