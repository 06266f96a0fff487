"""The client of Redis: seals of values, and an outage."""

from collections.abc import Awaitable, Callable

import pytest
import redis

from service.storage.redis_store import RedisStore, RedisUnavailable, seal, unseal
from tests.metric_samples import value
from tests.redis_servers import RedisDouble

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
