"""Services that keep periods are killed: nothing is lost, doubled or changed."""

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from service.sandbox.server import RunningSandbox
from service.settings import StorageSettings
from service.storage.database import Database
from tests.faults.budget_kills import BudgetKills
from tests.faults.period_kills import SEED, show
from tests.launcher import Launcher, Service
from tests.usage.budgets.conftest import Receiver, receiver

__all__ = ["receiver"]

KILLS: Final = 8
"""Of each service, and 32 of all."""
SERVICES: Final = [
    pytest.param("sqlite", 1, id="sqlite-1"),
    pytest.param("sqlite", 3, id="sqlite-3"),
    pytest.param("postgresql", 2, id="postgresql-2", marks=pytest.mark.services),
    pytest.param("postgresql", 4, id="postgresql-4", marks=pytest.mark.services),
]

KillWorkers = Callable[[int, int], Awaitable[Counter[str]]]


@pytest.fixture
def kill_workers(
    launcher: Launcher,
    tmp_path: Path,
    sandbox: RunningSandbox,
    *,
    storage: StorageSettings,
    database: Database,
    receiver: Receiver,
) -> KillWorkers:
    """Kill a service of so many workers so many times, and check what it has kept.

    Returns what the kills have left unfinished.
    """

    async def kill(workers: int, kills: int) -> Counter[str]:
        show(kills=kills, workers=workers, database=database.dialect)
        service = Service(
            launcher,
            tmp_path / "log",
            upstream__base_url=sandbox.url,
            upstream__timeout_s=60.0,
            upstream__deadline_s=300.0,
            events__enabled=False,
            vehicles__enabled=False,
            periods__enabled=True,
            health__warm_up=False,
            # Each request refreshes.
            cache__ttl_s=0.0,
            cache__stale_while_revalidate_s=0.0,
            cache__confirm_shrink_s=0.0,
            storage__url=storage.url,
            server__workers=workers,
            webhooks__allow_private=True,
        )
        killing = BudgetKills(service, database, sandbox.sandbox, SEED)
        await killing.watch(receiver)
        await killing.run(kills)
        return killing.unfinished

    return kill


@pytest.mark.parametrize("storage, workers", SERVICES, indirect=["storage"])
async def test_kills_lose_and_double_nothing(
    kill_workers: KillWorkers, workers: int
) -> None:
    """No closed period changes by a byte, and the changes explain all totals.

    Each threshold that a revision has reached fires once, and is delivered.
    """
    await kill_workers(workers, KILLS)
