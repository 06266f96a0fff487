"""Turns: of processes that look up the same, one asks and the others wait for it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from service.settings import Settings
from service.storage.shared_store import SharedStore
from service.vehicles.model import Source, Vin
from service.vehicles.turns import Alone, Turns, share_turns
from tests.conftest import MakeSettings
from tests.patience import GIVE_UP_S
from tests.redis_double import RedisDouble
from tests.vehicles.conftest import VIN, Shared, vins

SOURCE = Source("https://vpic.example/api")
BATCH = vins(3)

Join = Callable[..., AbstractAsyncContextManager[Turns]]


@pytest.fixture
def join(settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> Join:
    """Takes part in turns, as one more process; failures are long remembered."""
    monkeypatch.setattr("service.vehicles.turns.FAILED_MS", 60_000)

    @asynccontextmanager
    async def join(
        url: str,
        source: Source = SOURCE,
        namespace: str = "test",
        deadline_s: float = 600.0,
    ) -> AsyncIterator[Turns]:
        store = SharedStore(url, namespace)
        made: Settings = settings(vehicles={"deadline_s": deadline_s})
        yield share_turns(store, made, source)
        await store.close()

    return join


@pytest.fixture
async def one(join: Join, shared: Shared) -> AsyncIterator[Turns]:
    """A process."""
    async with join(shared.url) as turns:
        yield turns


@pytest.fixture
async def two(join: Join, shared: Shared) -> AsyncIterator[Turns]:
    """Another one."""
    async with join(shared.url) as turns:
        yield turns


async def waited(turns: Turns, *vins: Vin) -> set[Vin]:
    """What has failed of these, once nobody asks for them."""
    async with asyncio.timeout(GIVE_UP_S):
        return await turns.wait(vins)


async def test_alone_it_is_always_ones_turn(settings: MakeSettings) -> None:
    """Without a store nobody is waited for."""
    turns = share_turns(None, settings(), SOURCE)

    assert isinstance(turns, Alone)
    assert await turns.take(BATCH) == set(BATCH)
    assert await turns.wait(BATCH) == set()
    await turns.end(BATCH)
    await turns.end(BATCH, failed=True)
    assert await turns.take(BATCH) == set(BATCH)


async def test_a_turn_is_one_process_s(one: Turns, two: Turns) -> None:
    """Each VIN is taken once; what is free of many is taken."""
    assert await one.take(BATCH[:2]) == set(BATCH[:2])
    assert await two.take(BATCH) == {BATCH[2]}
    assert await one.take(BATCH) == set()


async def test_of_many_at_once_one_takes_it(one: Turns, two: Turns) -> None:
    """However they come, it is one process's turn."""
    taken = await asyncio.gather(*(each.take([VIN]) for each in (one, two) * 5))

    assert sorted(map(len, taken)) == [0] * 9 + [1]


async def test_after_its_end_it_is_free(one: Turns, two: Turns) -> None:
    """Who waited may look for what was learnt, or take its own turn."""
    await one.take([VIN])
    waiting = asyncio.create_task(waited(two, VIN))
    await one.end([VIN])

    assert await waiting == set()
    assert await two.take([VIN]) == {VIN}


async def test_a_failure_is_told(one: Turns, two: Turns) -> None:
    """Who waited knows which of its VINs have failed, and asks for none of them."""
    await one.take(BATCH)
    waiting = asyncio.create_task(waited(two, *BATCH))
    await one.end(BATCH[:1], failed=True)
    await one.end(BATCH[1:])

    assert await waiting == {BATCH[0]}
    assert await two.take(BATCH) == set(BATCH[1:])


async def test_a_failure_is_soon_forgotten(
    one: Turns, two: Turns, shared: Shared
) -> None:
    """It keeps nobody from asking again."""
    await one.take([VIN])
    await one.end([VIN], failed=True)
    shared.forget()

    assert await two.take([VIN]) == {VIN}


async def test_nobody_ends_another_s_turn(one: Turns, two: Turns) -> None:
    """Who has taken too long takes nothing from who came after it."""
    await two.take([VIN])

    await one.end([VIN])
    await one.end([VIN], failed=True)

    assert await one.take([VIN]) == set()


async def test_nothing_to_end(one: Turns, two: Turns) -> None:
    """It is no error, and nobody else's turn ends."""
    await two.take([VIN])
    await one.end([])

    assert await one.take([VIN]) == set()


async def test_who_is_gone_is_waited_for_no_longer(
    one: Turns, two: Turns, shared: Shared
) -> None:
    """The key of a process that has died expires, and others go on."""
    await one.take([VIN])
    waiting = asyncio.create_task(waited(two, VIN))
    shared.forget()

    assert await waiting == set()
    assert await two.take([VIN]) == {VIN}


async def test_sources_and_namespaces_are_apart(
    one: Turns, join: Join, shared: Shared
) -> None:
    """Who asks elsewhere, or for another service, waits for nobody."""
    await one.take([VIN])
    async with (
        join(shared.url, source=Source("sandbox")) as sandbox,
        join(shared.url, namespace="other") as other,
    ):
        assert await sandbox.take([VIN]) == {VIN}
        assert await other.take([VIN]) == {VIN}


@pytest.mark.services
@pytest.mark.parametrize("shared", ["redis"], indirect=True)
async def test_a_turn_ends_before_those_who_wait_give_up(
    join: Join, shared: Shared
) -> None:
    """Half of a look-up's time after a process has died, another asks."""
    async with (
        join(shared.url, deadline_s=1.0) as dying,
        join(shared.url, deadline_s=1.0) as other,
    ):
        await dying.take([VIN])
        assert await other.take([VIN]) == set()
        assert await waited(other, VIN) == set()
        assert await other.take([VIN]) == {VIN}


async def test_without_the_store_each_is_alone(join: Join, double: RedisDouble) -> None:
    """While it is away nobody waits, and nothing is raised."""
    async with join("redis://a.test") as one, join("redis://a.test") as two:
        await one.take([VIN])
        waiting = asyncio.create_task(waited(two, VIN))
        await asyncio.sleep(0)
        double.failure = RedisConnectionError("gone")

        assert await waiting == set()
        assert await two.take(BATCH) == set(BATCH)
        assert await one.take(BATCH) == set(BATCH)
        await one.end(BATCH)
        await two.end(BATCH, failed=True)
