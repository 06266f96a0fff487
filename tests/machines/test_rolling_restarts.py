"""Machines are replaced under load, and no request fails."""

import asyncio
from typing import Final

import pytest
from aiohttp import ClientSession

from service.keys.store import add_key
from service.settings.auth import SCOPES
from service.storage.database import Database
from tests.machines.load import Load, mixed_load
from tests.machines.site import Machine, MakeSite, Site
from tests.patience import GIVE_UP_S
from tests.running import LOOK_AGAIN_S, until

pytestmark = pytest.mark.services

WORKERS: Final = (1, 2, 2)
FEW: Final = {"usage": 1, "page": 1, "vehicle": 1, "new": 1, "send": 2, "poll": 2}
"""Clients of the short test: more of them only delay the starts of the machines."""
ANSWERS: Final = 100
"""Answers between two changes, so that the load is steady."""


@pytest.fixture
async def key(database: Database) -> str:
    """A key that may do everything, at any rate."""
    return await add_key(database, "shop", SCOPES, 1_000_000)


async def until_answered(load: Load) -> None:
    """Wait for some more answers."""
    enough = load.answered.total() + ANSWERS
    await until(lambda: load.answered.total() >= enough)


async def restart_all(site: Site, load: Load) -> None:
    """Replace one machine after the other."""
    for each in site.machines:
        await until_answered(load)
        await site.restart(each)
    await until_answered(load)


async def kill(site: Site, machine: Machine, load: Load) -> None:
    """Kill a machine under load, and start it again."""
    await until_answered(load)
    machine.kill()
    await until_answered(load)
    machine.start()
    await machine.until_up()
    await site.until_serving(machine)


async def check_counts(site: Site, key: str, load: Load) -> None:
    """Wait until each machine has counted each accepted event once."""
    for each in site.machines:
        async with asyncio.timeout(GIVE_UP_S):
            while await count_of(each, key) != len(load.accepted):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_AGAIN_S)


async def count_of(machine: Machine, key: str) -> int:
    """Return the number of events that a machine has counted."""
    headers = {"Authorization": f"Bearer {key}"}
    url = f"http://127.0.0.1:{machine.port}/events/stats?by=category"
    async with ClientSession(headers=headers) as session, session.get(url) as answer:
        return sum(each["events"] for each in (await answer.json())["counts"])


async def test_no_request_fails_in_a_rolling_restart(
    make_site: MakeSite, key: str
) -> None:
    """Pages, events, requests that wait and look-ups: all are answered, once each.

    After it a machine is killed. HAProxy sends again what was in flight there.
    """
    site = make_site(*WORKERS)
    await site.start()
    async with mixed_load(site.balancer.port, key, FEW) as load:
        await restart_all(site, load)
        await kill(site, site.machines[-1], load)
    print(load)  # noqa: T201 - for the output of the test

    load.check()
    await check_counts(site, key, load)
