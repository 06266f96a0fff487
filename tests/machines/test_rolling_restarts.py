"""Machines are replaced under load, and no request fails."""

from typing import Final

import pytest

from service.keys.store import add_key
from service.settings.auth import SCOPES
from service.storage.database import Database
from tests.machines.load import Load, mixed_load
from tests.machines.site import MakeSite, Site
from tests.running import until

pytestmark = pytest.mark.services

WORKERS: Final = (1, 2, 2)
ANSWERS: Final = 300
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


async def test_no_request_fails_in_a_rolling_restart(
    make_site: MakeSite, key: str
) -> None:
    """Pages, events, requests that wait and look-ups: all are answered, once each."""
    site = make_site(*WORKERS)
    await site.start()
    async with mixed_load(site.balancer.port, key) as load:
        await restart_all(site, load)
    print(load)  # noqa: T201 - for the output of the test

    await load.check()
