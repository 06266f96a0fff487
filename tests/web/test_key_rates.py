"""Rates of keys that processes share through Redis, and apply alone without it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Final

import pytest

from service.storage.redis_store import RedisStore, RedisUnavailable
from service.web import key_rates
from service.web.key_rates import KeyRates, burst_of
from tests.metric_samples import Read
from tests.patience import GIVE_UP_S
from tests.redis_servers import RedisServer, server
from tests.web.limits_settings import limits

__all__ = ["server"]

PORTIONS: Final = "copilot_usage_key_rate_portions_total"
FAST: Final = 1_000.0
SLOW: Final = 0.001


@pytest.fixture
async def open_rates(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], KeyRates]]:
    """A factory of the rates of processes that share one Redis, which may be slow."""
    monkeypatch.setattr(key_rates, "MAX_WAIT_S", GIVE_UP_S)
    async with AsyncExitStack() as stack:

        def make() -> KeyRates:
            store = RedisStore(server.url, "test")
            stack.push_async_callback(store.close)
            rates = KeyRates(limits(), store)
            stack.push_async_callback(rates.close)
            return rates

        yield make


async def allowed(rates: KeyRates, requests: int, per_s: float, key: str = "a") -> int:
    """Return how many of these requests at once are allowed."""
    waits = await asyncio.gather(*(rates.take(key, per_s) for _ in range(requests)))
    return sum(not wait_s for wait_s in waits)


async def test_all_processes_share_one_rate(
    open_rates: Callable[[], KeyRates],
) -> None:
    """The second one gets nothing of a rate that the first one has used up."""
    first, second = open_rates(), open_rates()
    assert await first.take("a", SLOW) == 0
    assert 999 < await second.take("a", SLOW) <= 1_000
    assert 999 < (second.take_at_once("a", SLOW) or 0) <= 1_000
    assert await second.take("b", SLOW) == 0


async def test_the_sum_is_bounded_by_the_rate_and_the_portions(
    open_rates: Callable[[], KeyRates],
) -> None:
    """Four processes accept one burst, what is refilled meanwhile, and no more."""
    processes = [open_rates() for _ in range(4)]
    loop = asyncio.get_running_loop()
    begun = loop.time()
    counts = [await allowed(each, 2_000, FAST) for each in processes]
    refilled = (loop.time() - begun) * FAST
    held = len(processes) * key_rates.PORTION_S * FAST * 2
    assert burst_of(FAST) - held <= sum(counts) <= burst_of(FAST) + refilled + held


async def test_most_requests_ask_nobody(
    open_rates: Callable[[], KeyRates], added: Read
) -> None:
    """500 requests take a few portions, and a single one if all are sent at once."""
    rates = open_rates()
    for _ in range(500):
        assert await rates.take("a", FAST) == 0
    assert 10 <= added(PORTIONS, result="taken") <= 12
    assert await allowed(rates, 100, FAST, "b") == 100
    assert 11 <= added(PORTIONS, result="taken") <= 14


async def test_a_refused_key_does_not_ask_each_time(
    open_rates: Callable[[], KeyRates], added: Read
) -> None:
    """Redis has no permit before the time that it has named."""
    rates = open_rates()
    assert await allowed(rates, 100, SLOW) == 1
    assert added(PORTIONS, result="refused") == 1


async def test_each_process_goes_on_alone_without_redis(
    server: RedisServer, open_rates: Callable[[], KeyRates], added: Read
) -> None:
    """Requests neither fail nor wait while it is away, and share again afterwards."""
    first, second = open_rates(), open_rates()
    assert await first.take("a", SLOW) == 0
    server.kill()
    assert await second.take("a", SLOW) == 0
    assert await second.take("a", SLOW) > 0
    assert second.take_at_once("b", SLOW) == 0
    assert added(PORTIONS, result="unavailable") == 1


async def test_no_request_waits_long_for_a_redis_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process applies the rate alone meanwhile; Redis charges it afterwards."""
    answer, answered = asyncio.Event(), asyncio.Event()

    class Hanging(RedisStore):
        async def run(self, *_commands: object) -> list[object]:
            await answer.wait()
            answered.set()
            return [(1, 0)]

    monkeypatch.setattr(key_rates, "MAX_WAIT_S", 0.0)
    store = Hanging("redis://a.test", "test")
    rates = KeyRates(limits(), store)
    assert [await rates.take("a", SLOW) > 0 for _ in range(2)] == [False, True]
    answer.set()
    await answered.wait()
    assert rates.take_at_once("a", SLOW) is None
    await rates.close()
    await store.close()


async def test_a_wait_for_redis_ends_with_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is left that would use a closed connection."""

    class Hanging(RedisStore):
        async def run(self, *_commands: object) -> list[object]:
            await asyncio.Event().wait()
            raise RedisUnavailable

    monkeypatch.setattr(key_rates, "MAX_WAIT_S", 0.0)
    store = Hanging("redis://a.test", "test")
    rates = KeyRates(limits(), store)
    assert await rates.take("a", SLOW) == 0
    await rates.close()
    await store.close()
