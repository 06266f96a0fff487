"""Stock clients as installed: all of their events are stored, each of them once."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Final

import pytest
from aiohttp import ClientSession

from service.keys.store import add_key
from service.settings import StorageSettings
from service.storage.database import open_database
from tests.events.conftest import on_sqlite
from tests.events.faults.senders import calling
from tests.events.faults.stock_clients import EVENTS, SENDERS, TIME
from tests.launcher import Service, unmeasured
from tests.patience import GIVE_UP_S
from tests.running import LOOK_AGAIN_S, ROOT

MODULE: Final = "tests.events.faults.stock_clients"


@on_sqlite
@pytest.mark.parametrize("name", SENDERS)
async def test_the_service_is_killed_once(
    storage: StorageSettings,
    key: str,
    make_service: Callable[..., Service],
    name: str,
) -> None:
    """A kill between 1,000 events of a stock client loses none and doubles none."""
    async with open_database(storage) as database:
        write_key = await add_key(database, "shop", ["events:write"], 1_000_000)
    service = make_service(storage)
    service.start()
    await service.until_up()
    url = f"http://127.0.0.1:{service.port}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", MODULE, name, url, write_key),
        cwd=ROOT,
        env=unmeasured(),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(GIVE_UP_S), calling(service.port, key) as session:
        while not await all_events(session):
            assert process.returncode is None
            await asyncio.sleep(LOOK_AGAIN_S)
        service.kill()
        service.start()
        _, errors = await process.communicate(b"\n")
        assert process.returncode == 0, errors.decode()

        stored = await all_events(session)
        assert sorted(int(each["id"]) for each in stored) == list(range(EVENTS))
        assert all(each["data"] == {"number": int(each["id"])} for each in stored)
        assert {each["timestamp"][:23] for each in stored} == {
            TIME.isoformat(timespec="milliseconds")[:23]
        }
        async with session.get("/events/failed") as answer:
            assert (await answer.json())["failed"] == []
    assert await service.stop() == 0


async def all_events(session: ClientSession) -> list[dict[str, Any]]:
    """Return the events that are stored, on one page."""
    async with session.get("/events?limit=1000") as answer:
        found: list[dict[str, Any]] = (await answer.json())["events"]
        return found
