"""What machines keep together is kept once, with different clocks and after kills."""

import asyncio
import secrets
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import ClientSession
from sqlalchemy import text

from service.keys.store import add_key
from service.sandbox.server import RunningSandbox
from service.settings.auth import SCOPES
from service.storage.database import Database
from service.storage.migrations import revisions
from service.usage.budgets.model import NewBudget, NewWebhook
from service.usage.budgets.store import BudgetStore
from tests.conftest import message
from tests.faults.budget_kills import END_CLAIMS, PENDING, SECRET, check_received
from tests.faults.period_kills import check_period
from tests.launcher import Launcher
from tests.machines.conftest import Servers
from tests.machines.site import Machine, MakeSite, Site
from tests.patience import GIVE_UP_S
from tests.running import LOOK_AGAIN_S, until
from tests.usage.budgets.conftest import Receiver, receiver

__all__ = ["receiver"]

pytestmark = pytest.mark.services

MIGRATIONS: Final = 3
CREDITS: Final = 40
THRESHOLDS: Final = tuple(range(10, 110, 10))
REFRESHING: Final = {
    # Each request refreshes, and so publishes what it has found.
    "cache__ttl_s": 0.0,
    "cache__stale_while_revalidate_s": 0.0,
    "cache__confirm_shrink_s": 0.0,
    "health__require_snapshot": "false",
    "health__warm_up": "false",
    "events__key_ttl_s": 0.0,
    "auth__require": "*",
}
VINS: Final = [f"1HGCM82633A00{number:04}" for number in range(5)]
PERIODS: Final = "SELECT * FROM usage_periods ORDER BY number"
FIRED: Final = "SELECT percent FROM usage_firings ORDER BY percent"


@pytest.fixture
async def key(database: Database) -> str:
    """A key that may do everything, at any rate."""
    return await add_key(database, "shop", SCOPES, 1_000_000)


@pytest.fixture
async def site(make_site: MakeSite, sandbox: RunningSandbox) -> Site:
    """Three machines, which refresh at each request."""
    sandbox.sandbox.set_messages([message(1)])
    site = make_site(1, 1, 1, **REFRESHING)
    for each in site.machines:
        each.start()
    for each in site.machines:
        await each.until_up()
    return site


def calling(machine: Machine, key: str = "") -> ClientSession:
    """A session with a machine, which sends a key."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return ClientSession(f"http://127.0.0.1:{machine.port}", headers=headers)


async def status_of(machine: Machine, path: str, key: str = "") -> int:
    """Return the status of an answer."""
    async with calling(machine, key) as session, session.get(path) as answer:
        return answer.status


async def statuses_of(site: Site, path: str, key: str = "") -> set[int]:
    """Return the statuses of the answers of all machines to requests at once."""
    asked = (status_of(each, path, key) for each in site.machines)
    return set(await asyncio.gather(*asked))


async def test_machines_migrate_at_once(
    launcher: Launcher, servers: Servers, tmp_path: Path
) -> None:
    """One of them migrates an empty database, and the others wait for it."""
    name = f"empty_{secrets.token_hex(8)}"
    await servers.postgresql.execute(f"CREATE DATABASE {name}")
    environment = {"COPILOT_USAGE_STORAGE__URL": servers.url_of(name)}
    log = tmp_path / "migrations.log"
    started = [launcher.start(["migrate"], environment, log) for _ in range(MIGRATIONS)]

    ended = [await asyncio.to_thread(launcher.wait, each) for each in started]
    assert ended == [0] * MIGRATIONS, log.read_text()
    assert log.read_text().count(revisions()[-1]) >= 1


async def test_keys_and_sessions_are_of_all_machines(site: Site, key: str) -> None:
    """What one machine has made, the others know, and what it has revoked, too."""
    first, *_ = site.machines
    other = {"name": "other", "scopes": ["usage:read"]}
    async with calling(first, key) as session:
        async with session.post("/keys", json=other) as answer:
            made = await answer.json()
        async with session.post("/session", json={"key": made["key"]}) as answer:
            cookies = {each.key: each.value for each in answer.cookies.values()}
        for each in site.machines:
            async with ClientSession(cookies=cookies) as browser:
                url = f"http://127.0.0.1:{each.port}/usage"
                async with browser.get(url) as answer:
                    assert answer.status == 200
        assert await statuses_of(site, "/usage", made["key"]) == {200}
        async with session.delete(f"/keys/{made['id']}") as answer:
            assert answer.status in {200, 204}

    assert await statuses_of(site, "/usage", made["key"]) == {401}


async def test_machines_look_a_vin_up_once(
    site: Site, sandbox: RunningSandbox, key: str
) -> None:
    """Machines that get the same VIN at the same time make one call to vPIC."""
    for vin in VINS:
        assert await statuses_of(site, f"/vehicles/lookup?vin={vin}", key) == {200}

    assert sandbox.sandbox.vins == Counter(VINS)


class Growth:
    """A period that grows while all machines refresh."""

    def __init__(self, site: Site, sandbox: RunningSandbox, key: str) -> None:
        self._site = site
        self._sandbox = sandbox
        self._key = key
        self.messages: list[dict[str, object]] = []

    async def grow(self, number: int, day: int = 29) -> None:
        """Add messages of a credit each, one after the other, for all machines."""
        for _ in range(number):
            place = len(self.messages) + 1
            at = f"2024-04-{day:02}T00:00:{place % 60:02}Z"
            self.messages.append(message(100 * day + place, "Rent", timestamp=at))
            self._sandbox.sandbox.set_messages(self.messages)
            running = [each for each in self._site.machines if each.service.process_id]
            asked = (status_of(each, "/usage", self._key) for each in running)
            await asyncio.gather(*asked, return_exceptions=True)

    async def until_kept(self, database: Database) -> None:
        """Wait until the newest period is kept as it is now."""
        async with asyncio.timeout(GIVE_UP_S):
            while not await self._is_kept(database):
                # A machine whose clock is behind keeps nothing that looks older.
                await statuses_of(self._site, "/usage", self._key)
                await asyncio.sleep(LOOK_AGAIN_S)

    async def _is_kept(self, database: Database) -> bool:
        rows = await read(database, PERIODS)
        return bool(rows) and rows[-1].messages == len(self.messages)


async def read(database: Database, query: str) -> list[Any]:
    """Return the rows of a query."""
    async with database.reading() as connection:
        return list((await connection.execute(text(query))).all())


async def test_a_threshold_fires_once_for_all_machines(
    site: Site,
    sandbox: RunningSandbox,
    *,
    database: Database,
    key: str,
    receiver: Receiver,
) -> None:
    """All machines find it reached, and one delivers it: once, unless that is killed.

    What a killed machine has begun to deliver is repeated by another one, if needed.
    """
    growth = Growth(site, sandbox, key)
    await watch(database, receiver)
    await growth.grow(CREDITS // 2)
    await growth.until_kept(database)
    await until_delivered(database)
    assert len(receiver.received) == len(THRESHOLDS) // 2

    for each in site.machines[1:]:
        growing = asyncio.create_task(growth.grow(CREDITS // 4))
        received = len(receiver.received)
        await until(lambda: len(receiver.received) > received or growing.done())  # noqa: B023
        each.kill()
        await growing
        each.start()
        await each.until_up()
    await growth.until_kept(database)
    await until_delivered(database, ends_claims=True)

    await check_received(database, receiver)
    assert [row.percent for row in await read(database, FIRED)] == list(THRESHOLDS)


async def watch(database: Database, receiver: Receiver) -> None:
    """Create a budget whose thresholds the period reaches."""
    webhook = NewWebhook(receiver.url, SECRET)
    budget = NewBudget(credits=CREDITS, thresholds=THRESHOLDS, webhook=webhook)
    await BudgetStore(database, allow_private=True).put("office", budget)


async def until_delivered(database: Database, *, ends_claims: bool = False) -> None:
    """Wait until no delivery is left; the claims of killed machines end at once."""
    async with asyncio.timeout(GIVE_UP_S):
        while True:
            async with database.writing() as connection:
                if not await connection.scalar(PENDING):
                    return
                if ends_claims:
                    await connection.execute(END_CLAIMS)
            await asyncio.sleep(10 * LOOK_AGAIN_S)


async def test_a_period_is_kept_closed_and_sealed_once(
    site: Site,
    sandbox: RunningSandbox,
    database: Database,
    key: str,
) -> None:
    """Each change of each period is kept by one machine, and each end sealed by one."""
    for day in (27, 28, 29):
        growth = Growth(site, sandbox, key)
        await growth.grow(day - 22, day)
        await growth.until_kept(database)
    await until(lambda: len(events(site, "usage.period_sealed")) >= 2)

    rows = await read(database, PERIODS)
    assert [row.status for row in rows] == ["closed", "closed", "open"]
    async with database.reading() as connection:
        for row in rows:
            await check_period(connection, row)
    sealed = Counter(each["period"] for each in events(site, "usage.period_sealed"))
    assert sealed == Counter(row.period for row in rows[:2])


def events(site: Site, name: str) -> list[dict[str, Any]]:
    """Return the lines of an event in the logs of all machines."""
    return [line for each in site.machines for line in each.events(name)]
