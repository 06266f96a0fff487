"""The parts of budgets, opened together with the task that delivers what they fire."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from service.settings import Settings
from service.storage.database import Database
from service.storage.maintenance import in_background
from service.usage.budgets.checks import BudgetChecks
from service.usage.budgets.delivery import Deliverer, running_deliverer
from service.usage.budgets.expectations import Expectations
from service.usage.budgets.firing import BudgetObserver
from service.usage.budgets.outbox import Outbox
from service.usage.budgets.state import BudgetStates
from service.usage.budgets.store import BudgetStore
from service.usage.budgets.webhooks import open_webhooks
from service.usage.cache import SnapshotCache
from service.usage.forecast.forecasts import Forecasts


class BudgetParts(NamedTuple):
    """The parts that answer requests, and the observer of kept periods."""

    store: BudgetStore
    states: BudgetStates
    outbox: Outbox
    deliverer: Deliverer
    observer: BudgetObserver


@asynccontextmanager
async def open_budgets(
    settings: Settings, database: Database, cache: SnapshotCache, forecasts: Forecasts
) -> AsyncIterator[BudgetParts]:
    """Open budgets; check them, and deliver what they fire, until the end."""
    async with (
        open_webhooks(settings.webhooks) as webhooks,
        running_deliverer(database, webhooks) as deliverer,
    ):
        expectations = Expectations(forecasts)
        store = BudgetStore(database, allow_private=settings.webhooks.allow_private)
        checks = BudgetChecks(store, cache, settings.periods.refresh_s)
        async with in_background(checks.run()):
            yield BudgetParts(
                store,
                BudgetStates(database, expectations),
                Outbox(database),
                deliverer,
                BudgetObserver(database, expectations, deliverer.wake),
            )
