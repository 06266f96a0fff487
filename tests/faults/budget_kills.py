"""Budgets of services that are killed: each threshold fires once, and is delivered."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import text

from service.storage.database import Database
from service.storage.errors import Collided
from service.usage.budgets.model import NewBudget, NewWebhook
from service.usage.budgets.signing import new_secret
from service.usage.budgets.store import BudgetStore
from tests.faults.period_kills import ONE_STATE, Kills
from tests.patience import GIVE_UP_S
from tests.running import LOOK_AGAIN_S
from tests.usage.budgets.conftest import Receiver

CREDITS: Final = 40
THRESHOLDS: Final = tuple(range(10, 210, 10))
SECRET: Final = new_secret()
REACHED: Final = text(
    "SELECT period_number, max(hundredths_after) FROM usage_revisions "
    "GROUP BY period_number"
)
FIRED: Final = text("SELECT period_number, percent FROM usage_firings")
# A killed process has claimed some, which others would take over later.
END_CLAIMS: Final = text("UPDATE usage_firings SET next_at = 0 WHERE state = 'pending'")
PENDING: Final = text("SELECT count(*) FROM usage_firings WHERE state = 'pending'")


class BudgetKills(Kills):
    """Kills of a service that delivers what a budget fires to a receiver."""

    receiver: Receiver

    async def watch(self, receiver: Receiver) -> None:
        """Create a budget whose thresholds fire all the time."""
        self.receiver = receiver
        webhook = NewWebhook(receiver.url, SECRET)
        budget = NewBudget(credits=CREDITS, thresholds=THRESHOLDS, webhook=webhook)
        await BudgetStore(self._database, allow_private=True).put("office", budget)

    async def _check(self) -> None:
        await super()._check()
        async with self._database.reading() as connection:
            if not self._database.is_sqlite:
                await connection.execute(text(ONE_STATE))
            reached = (await connection.execute(REACHED)).all()
            fired = (await connection.execute(FIRED)).all()
        assert sorted(map(tuple, fired)) == sorted(_expected(reached))

    async def _check_end(self) -> None:
        await super()._check_end()
        async with asyncio.timeout(GIVE_UP_S):
            while await self._pending():
                # A service that claims some meanwhile may win.
                with suppress(Collided):
                    async with self._database.writing() as connection:
                        await connection.execute(END_CLAIMS)
                await asyncio.sleep(10 * LOOK_AGAIN_S)
        await check_received(self._database, self.receiver)

    async def _pending(self) -> int:
        async with self._database.reading() as connection:
            return int(await connection.scalar(PENDING) or 0)


def _expected(reached: Iterable[Any]) -> list[tuple[int, int]]:
    """Return the thresholds that the revisions of each period have reached."""
    return [
        (number, percent)
        for number, hundredths in reached
        for percent in THRESHOLDS
        if hundredths >= percent * CREDITS
    ]


async def check_received(database: Database, receiver: Receiver) -> None:
    """Fail unless the receiver has got each firing, with figures that reach it."""
    async with database.reading() as connection:
        ids = set(await connection.scalars(text("SELECT id FROM usage_firings")))
    assert {each.id for each in receiver.received} == ids
    for each in receiver.received:
        data = each.verified(SECRET)["data"]
        assert 100 * data["credits_used"] >= data["threshold"] * CREDITS
