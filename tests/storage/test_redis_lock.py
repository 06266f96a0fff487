"""Locks in Redis have one owner, and only their owner releases them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis

from service.storage.redis_lock import RENEWED_S, RedisLocks, RenewedLock
from service.storage.redis_store import RedisStore
from tests.patience import GIVE_UP_S
from tests.redis_servers import RedisServer, SharedRedis
from tests.running import LOOK_AGAIN_S

NAMES = ["a", "b", "c"]
TTL_S = 600.0
LONG_MS = 600_000
RELEASES = 50


@pytest.fixture
async def processes(
    shared: SharedRedis, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[RedisLocks]]:
    """The locks of two processes; failures stay visible."""
    monkeypatch.setattr("service.storage.redis_lock.FAILED_MS", 60_000)
    stores = [RedisStore(shared.url, "test") for _ in range(2)]
    yield [RedisLocks(store, TTL_S) for store in stores]
    for store in stores:
        await store.close()


@pytest.fixture
def one(processes: list[RedisLocks]) -> RedisLocks:
    """The first process."""
    return processes[0]


@pytest.fixture
def two(processes: list[RedisLocks]) -> RedisLocks:
    """The second process."""
    return processes[1]


async def wait(locks: RedisLocks, *names: str) -> set[str]:
    """Return the names that failed, once none is locked."""
    async with asyncio.timeout(GIVE_UP_S):
        return await locks.wait(names)


async def test_each_name_is_locked_once(one: RedisLocks, two: RedisLocks) -> None:
    """Of several names, those that are free are locked."""
    assert await one.try_acquire(NAMES[:2]) == {"a", "b"}
    assert await two.try_acquire(NAMES) == {"c"}
    assert await one.try_acquire(NAMES) == set()


async def test_concurrent_attempts_have_one_winner(
    one: RedisLocks, two: RedisLocks
) -> None:
    """A second attempt of the same process does not succeed either."""
    acquired = await asyncio.gather(
        *(each.try_acquire(["a"]) for each in (one, two) * 5)
    )
    assert sorted(map(len, acquired)) == [0] * 9 + [1]


async def test_released_lock_is_free(one: RedisLocks, two: RedisLocks) -> None:
    """The wait ends with the release."""
    await one.try_acquire(["a"])
    waiting = asyncio.create_task(wait(two, "a"))
    await one.release(["a"])

    assert await waiting == set()
    assert await two.try_acquire(["a"]) == {"a"}


async def test_failure_is_visible_in_place_of_the_lock(
    one: RedisLocks, two: RedisLocks, shared: SharedRedis
) -> None:
    """The wait returns the failed names; they are free again when the mark expires."""
    await one.try_acquire(NAMES)
    waiting = asyncio.create_task(wait(two, *NAMES))
    await one.release(["a"], failed=True)
    await one.release(["b", "c"])

    assert await waiting == {"a"}
    assert await two.try_acquire(NAMES) == {"b", "c"}
    shared.forget()
    assert await two.try_acquire(["a"]) == {"a"}


@pytest.mark.parametrize("failed", [False, True])
async def test_process_does_not_release_the_lock_of_another(
    one: RedisLocks, two: RedisLocks, *, failed: bool
) -> None:
    """A process whose lock has expired changes nothing for the next owner."""
    await two.try_acquire(["a"])

    await one.release(["a"], failed=failed)
    await one.release([], failed=failed)

    assert await one.try_acquire(["a"]) == set()


async def test_acquire_waits_for_the_release(
    one: RedisLocks, two: RedisLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One lock can be waited for until it is acquired, or until `wait_s` is over."""
    monkeypatch.setattr("service.storage.redis_lock.POLL_MS", (1, 1))
    assert await one.acquire("a", wait_s=0.0)
    assert not await two.acquire("a", wait_s=0.01)
    waiting = asyncio.create_task(two.acquire("a", wait_s=GIVE_UP_S))
    await one.release(["a"])

    assert await waiting
    assert not await one.acquire("a", wait_s=0.0)


async def test_expired_lock_is_not_waited_for(
    one: RedisLocks, two: RedisLocks, shared: SharedRedis
) -> None:
    """The lock of a process that has died expires."""
    await one.try_acquire(["a"])
    waiting = asyncio.create_task(wait(two, "a"))
    shared.forget()

    assert await waiting == set()
    assert await two.try_acquire(["a"]) == {"a"}


# --- locks that are renewed ---------------------------------------------------------


@pytest.fixture
async def store(
    shared: SharedRedis, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RedisStore]:
    """A store of a process that renews its locks often."""
    monkeypatch.setattr("service.storage.redis_lock.RENEW_EVERY_S", 0.001)
    made = RedisStore(shared.url, "test")
    yield made
    await made.close()


async def test_a_lost_lock_is_left_to_its_next_owner(
    store: RedisStore, shared: SharedRedis
) -> None:
    """A process that has lost its lock notices it, and does not release it."""
    first, other = RenewedLock(store, "a"), RenewedLock(store, "a")
    assert not await first.confirm()
    assert await first.acquire(0.0)
    assert not await other.acquire(0.0)
    assert await first.confirm()
    shared.forget()
    assert await other.acquire(GIVE_UP_S)

    assert not await first.confirm()
    await first.release()
    assert await other.confirm()
    await other.release()
    assert await first.acquire(0.0)
    await first.release()


@pytest.mark.services
async def test_a_lock_is_renewed_while_its_owner_runs(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its expiry is set again and again, for as long as it is needed."""
    monkeypatch.setattr("service.storage.redis_lock.RENEW_EVERY_S", 0.001)
    store = RedisStore(server.url, "test")
    lock, key = RenewedLock(store, "a"), store.key("a")
    assert await lock.acquire(0.0)
    with redis.Redis.from_url(server.url) as client:
        for _ in range(2):
            client.pexpire(key, LONG_MS)
            async with asyncio.timeout(GIVE_UP_S):
                while client.pttl(key) > RENEWED_S * 1_000:  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_AGAIN_S)
    await lock.release()
    await store.close()


@pytest.mark.services
async def test_a_lock_is_released_at_any_time_of_its_renewal(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewal that is in progress neither delays the release nor undoes it."""
    monkeypatch.setattr("service.storage.redis_lock.RENEW_EVERY_S", 0.0)
    store = RedisStore(server.url, "test")
    lock, other = RenewedLock(store, "a"), RenewedLock(store, "a")
    async with asyncio.timeout(GIVE_UP_S):
        for number in range(RELEASES):
            assert await lock.acquire(0.0)
            for _ in range(number % 10):
                await asyncio.sleep(0)
            await lock.release()
            assert await other.acquire(0.0)
            await other.release()
    await store.close()
