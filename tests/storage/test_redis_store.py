"""The client of Redis: seals of values, and an outage."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import pytest
import redis

from service.storage.redis_store import RedisStore, RedisUnavailable, seal, unseal
from tests.metric_samples import value
from tests.patience import GIVE_UP_S
from tests.redis_servers import RedisDouble, RedisServer

CANCELLATIONS: Final = 300
STEPS: Final = 30
"""Turns of the event loop from the begin of a command to its end, and some more."""

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.mark.parametrize(
    "sealed",
    [None, b"", b"x", seal("b", b"value"), seal("a", b"value")[:-1]],
    ids=["missing", "empty", "short", "displaced", "cut"],
)
def test_only_a_value_with_its_own_seal_is_opened(sealed: bytes | None) -> None:
    """A seal binds the value to its key."""
    assert unseal("a", sealed) is None
    assert unseal("a", seal("a", b"value")) == b"value"


async def test_an_unavailable_redis_is_not_called(
    double: RedisDouble, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    """After one failed command the next ones fail at once, until a ping succeeds."""
    monkeypatch.setattr("service.storage.redis_store.PING_EVERY_S", 0.0)
    store = RedisStore("redis://a.test", "test")
    double.failure = redis.ConnectionError("gone")
    with pytest.raises(RedisUnavailable):
        await store.run(lambda pipeline: pipeline.get("a"))
    asked = double.asked
    with pytest.raises(RedisUnavailable):
        await store.run(lambda pipeline: pipeline.get("a"))
    assert double.asked == asked
    assert value("copilot_usage_redis_unavailable") == 1
    await until(lambda: double.asked == asked + 2)
    # Whatever a ping raises, the next one follows.
    double.failure = ZeroDivisionError("a defect")
    await until(lambda: double.asked >= asked + 5)

    reconnecting, double.failure = store._reconnecting, None
    assert reconnecting is not None
    await reconnecting

    assert value("copilot_usage_redis_unavailable") == 0
    assert await store.run(lambda pipeline: pipeline.get("a")) == [None]
    await store.close()


@pytest.mark.services
@pytest.mark.parametrize("commands", [1, 2], ids=["command", "transaction"])
async def test_a_cancelled_command_is_cancelled_at_any_time(
    server: RedisServer, commands: int
) -> None:
    """A task whose command runs ends with its cancellation, not with the answer."""
    store = RedisStore(server.url, "test")
    running = []
    for number in range(CANCELLATIONS):
        task = asyncio.create_task(
            store.run(*[lambda pipeline: pipeline.get("a")] * commands)
        )
        for _ in range(number % STEPS):
            await asyncio.sleep(0)
        if task.cancel():
            running.append(task)
            await asyncio.wait([task], timeout=GIVE_UP_S)

    assert len(running) > CANCELLATIONS / STEPS
    assert [each for each in running if not each.cancelled()] == []
    assert not store.is_away
    await store.close()


@pytest.mark.services
async def test_the_search_for_a_lost_redis_ends_at_any_time(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the service does not wait for a Redis that fails meanwhile."""
    monkeypatch.setattr("service.storage.redis_store.PING_EVERY_S", 0.0)
    for number in range(CANCELLATIONS // 10):
        store = RedisStore(server.url, "test")
        store._note_outage(redis.ConnectionError("gone"), store._redis)
        searching = store._reconnecting
        assert searching is not None
        for _ in range(number):
            await asyncio.sleep(0)
        has_ended = searching.done()
        async with asyncio.timeout(GIVE_UP_S):
            await store.close()
        assert has_ended or searching.cancelled()
