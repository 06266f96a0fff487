"""Processes that share Redis: one asks vPIC, and expired locks are not waited for."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from service.sandbox.server import RunningSandbox
from service.settings import Settings
from service.usage.shared_store import open_store
from service.vehicles.lookup import source_of
from service.vehicles.model import Vin
from service.vehicles.shared_lookups import LookupLocks
from service.vehicles.store import VehicleStore
from tests.conftest import always
from tests.patience import GIVE_UP_S
from tests.redis_servers import RedisDouble, SharedRedis
from tests.vehicles.conftest import (
    VIN,
    Open,
    Serve,
    Until,
    VpicBarrier,
    VpicRequests,
    on_sqlite,
    store_expired,
    vins,
)


@asynccontextmanager
async def another_process(settings: Settings) -> AsyncIterator[LookupLocks]:
    """Open the locks of one more process."""
    async with open_store(settings) as store:
        yield LookupLocks(store, settings, source_of(settings))


async def test_two_processes_make_one_call(
    serve: Serve,
    shared: SharedRedis,
    received: VpicRequests,
    barrier: VpicBarrier,
    until: Until,
) -> None:
    """Whichever is asked, one asks vPIC, and both answer alike."""
    cache = {"redis_url": shared.url}
    both = [await serve(cache=cache), await serve(cache=cache)]
    barrier.close()
    asking = [asyncio.create_task(each.look_up(VIN)) for each in both for _ in range(3)]
    await until(lambda: received.calls == 1)
    barrier.open()

    answers = await asyncio.gather(*asking)

    assert {each.status for each in answers} == {200}
    assert {each.body["model"] for each in answers} == {"388"}
    assert received.calls == 1


@on_sqlite
async def test_vin_stored_before_the_lock_is_not_requested(
    serve: Serve,
    shared: SharedRedis,
    received: VpicRequests,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A VIN that another process stored before the lock is not requested."""
    cache = {"redis_url": shared.url}
    one, other = await serve(cache=cache), await serve(cache=cache)
    acquire = LookupLocks.acquire
    looked_up: list[Vin] = []

    async def acquire_late(locks: LookupLocks, vins: Collection[Vin]) -> set[Vin]:
        if not looked_up:
            looked_up.append(VIN)
            await other.look_up(VIN)
        return await acquire(locks, vins)

    monkeypatch.setattr(LookupLocks, "acquire", acquire_late)

    assert (await one.look_up(VIN)).body["cached_result"] is True
    assert received.calls == 1


@on_sqlite
async def test_without_redis_both_ask(
    serve: Serve, received: VpicRequests, barrier: VpicBarrier, until: Until
) -> None:
    """The danger is real: processes that share nothing ask for the same."""
    both = [await serve(), await serve()]
    barrier.close()
    asking = [asyncio.create_task(each.look_up(VIN)) for each in both]
    await until(lambda: received.calls == 2)
    barrier.open()

    assert [(await each).status for each in asking] == [200, 200]


@on_sqlite
async def test_batches_of_two_processes(
    serve: Serve, shared: SharedRedis, received: VpicRequests
) -> None:
    """Batches that overlap ask for each VIN once between them."""
    cache = {"redis_url": shared.url}
    both = [await serve(cache=cache), await serve(cache=cache)]

    one, two = await asyncio.gather(
        both[0].look_up_all(vins(120)), both[1].look_up_all(vins(180)[60:])
    )

    assert [each["vin"] for each in one.body["results"]] == vins(120)
    assert [each["vin"] for each in two.body["results"]] == vins(180)[60:]
    assert not any("error" in each for each in one.body["results"])
    assert not any("error" in each for each in two.body["results"])
    assert dict(received.vins) == dict.fromkeys(vins(180), 1)


@on_sqlite
@pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "not stored"])
async def test_failure_of_the_owner_is_shared(
    serve: Serve,
    stored: VehicleStore,
    shared: SharedRedis,
    received: VpicRequests,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_stored: bool,
) -> None:
    """A waiting process fails too, or returns the expired entry, without a request."""
    monkeypatch.setattr("service.storage.redis_lock.FAILED_MS", 60_000)
    if is_stored:
        await store_expired(stored, VIN)
    cache = {"redis_url": shared.url}
    one = await serve(cache=cache)
    async with another_process(serve.settings(cache=cache)) as locks:
        await locks.acquire([VIN])
        asking = asyncio.create_task(one.look_up(VIN))
        await locks.release([VIN], failed=True)
        async with asyncio.timeout(GIVE_UP_S):  # half of what a look-up may take
            answer = await asking

    assert answer.status == (200 if is_stored else 503)
    assert received.calls == 0


@on_sqlite
async def test_expired_lock_is_taken_over(
    serve: Serve, shared: SharedRedis, received: VpicRequests
) -> None:
    """When its turn has run out, who waited asks."""
    cache = {"redis_url": shared.url}
    one = await serve(cache=cache)
    async with another_process(serve.settings(cache=cache)) as locks:
        await locks.acquire([VIN])
        asking = asyncio.create_task(one.look_up(VIN))
        shared.forget()

        assert (await asking).body["cached_result"] is False
    assert received.calls == 1


@on_sqlite
async def test_cancelled_owner_releases_the_lock(
    serve: Serve,
    opened: Open,
    *,
    shared: SharedRedis,
    received: VpicRequests,
    barrier: VpicBarrier,
    until: Until,
) -> None:
    """A process that ends amid a look-up has not failed: another goes on at once."""
    cache = {"redis_url": shared.url}
    one = await serve(cache=cache)
    barrier.close()
    async with opened(cache=cache) as lookups:
        leading = asyncio.create_task(lookups.look_up(VIN))
        await until(lambda: received.calls == 1)
        waiting = asyncio.create_task(one.look_up(VIN))
        await asyncio.sleep(0)
        await lookups.close()
        barrier.open()
        await asyncio.gather(leading, return_exceptions=True)

    assert (await waiting).status == 200


@on_sqlite
async def test_redis_becomes_unavailable(
    serve: Serve, double: RedisDouble, received: VpicRequests, until: Until
) -> None:
    """A process that waits for another one then asks by itself."""
    cache = {"redis_url": "redis://a.test"}
    one = await serve(cache=cache)
    async with another_process(serve.settings(cache=cache)) as locks:
        await locks.acquire([VIN])
        before = double.asked
        asking = asyncio.create_task(one.look_up(VIN))
        await until(lambda: double.asked > before)
        double.failure = RedisConnectionError("gone")

        assert (await asking).status == 200
    assert received.calls == 1


@on_sqlite
async def test_wait_for_a_lock_is_bounded(
    serve: Serve, shared: SharedRedis, received: VpicRequests
) -> None:
    """A turn that never ends costs no more than `deadline_s`, the wait included."""
    sections: dict[str, Any] = {"cache": {"redis_url": shared.url}}
    one = await serve(**sections, vehicles={"deadline_s": 0.1})
    async with another_process(serve.settings(**sections)) as locks:
        await locks.acquire([VIN])
        async with asyncio.timeout(GIVE_UP_S):
            answer = await one.look_up(VIN)

    assert answer.problem == (503, "vehicle_unavailable")
    assert received.calls == 0


# --- the locks ----------------------------------------------------------------------


@on_sqlite
async def test_sources_and_namespaces_are_separate(
    serve: Serve, shared: SharedRedis
) -> None:
    """Look-ups of another source or service have locks of their own."""
    sections: list[dict[str, Any]] = [
        {},
        {"sandbox": {"enabled": True}},
        {"vehicles": {"base_url": "https://vpic.example/api"}},
        {"upstream": {"base_url": "https://upstream.example"}},
    ]
    async with AsyncExitStack() as stack:
        for each in sections:
            settings = serve.settings(cache={"redis_url": shared.url}, **each)
            locks = await stack.enter_async_context(another_process(settings))
            assert await locks.acquire([VIN]) == {VIN}


@on_sqlite
@pytest.mark.services
@pytest.mark.parametrize("shared", ["redis"], indirect=True)
async def test_lock_expires_before_waiting_look_ups_time_out(
    serve: Serve, shared: SharedRedis
) -> None:
    """Half of the deadline after a process has died, another one asks."""
    settings = serve.settings(
        cache={"redis_url": shared.url}, vehicles={"deadline_s": 1.0}
    )
    async with another_process(settings) as dying, another_process(settings) as other:
        await dying.acquire([VIN])
        assert await other.acquire([VIN]) == set()
        async with asyncio.timeout(GIVE_UP_S):
            assert await other.wait([VIN]) == set()
        assert await other.acquire([VIN]) == {VIN}


@on_sqlite
async def test_a_wait_that_vpic_asks_for_is_shared(
    serve: Serve,
    shared: SharedRedis,
    sandbox: RunningSandbox,
    received: VpicRequests,
) -> None:
    """One process is told to come back in an hour, and none asks before."""
    sandbox.sandbox.faults = always("too_many_requests", retry_after="3600")
    cache = {"redis_url": shared.url}
    one, other = await serve(cache=cache), await serve(cache=cache)

    answers = [
        await each.look_up(vin) for each, vin in zip((one, other), vins(2), strict=True)
    ]

    assert {each.problem for each in answers} == {(503, "vehicle_unavailable")}
    assert all(3_590 <= int(each.headers["Retry-After"]) <= 3_600 for each in answers)
    assert received.calls == 1
