"""Requests on the changes of a period, of which only some run at once."""

import asyncio
from typing import Any

import pytest

from service.settings import StorageSettings
from service.usage.periods.store import PeriodStore
from tests.conftest import MakeClient
from tests.usage.periods.conftest import MONTHS, Keep

pytestmark = pytest.mark.parametrize("storage", ["sqlite"], indirect=True)


async def test_changes_wait_in_the_lane_of_queries(
    storage: StorageSettings,
    client: MakeClient,
    keep: Keep,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One client cannot decode any number of pages at once; the rest is answered."""
    service = await client(
        storage={"url": storage.url},
        periods={"enabled": True},
        limits={"max_queue": 1},
    )
    await keep(service, MONTHS[0])
    are_released, changes = asyncio.Event(), PeriodStore.changes

    async def wait(self: PeriodStore, *arguments: Any) -> Any:
        await are_released.wait()
        return await changes(self, *arguments)

    monkeypatch.setattr(PeriodStore, "changes", wait)
    asking = [asyncio.create_task(service.get("/usage/changes")) for _ in range(4)]
    done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    refused = await done.pop()
    assert (refused.status, (await refused.json())["code"]) == (
        503,
        "usage_queries_full",
    )
    assert (await service.get("/usage")).status == 200
    are_released.set()
    statuses = [answer.status for answer in await asyncio.gather(*asking)]
    assert sorted(statuses) == [200, 200, 503, 503]
