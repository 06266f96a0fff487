"""Rates of clients that processes share through Redis, and apply alone without it."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, Final

import pytest
import redis

from service.storage.redis_store import RedisStore, RedisUnavailable
from service.web import shared_buckets
from service.web.shared_buckets import UNDECIDED, SharedBuckets
from tests.clock import Clock
from tests.metric_samples import Read
from tests.patience import GIVE_UP_S
from tests.redis_servers import RedisServer, server
from tests.web.limits_settings import limits

__all__ = ["server"]

EXCHANGES: Final = "copilot_usage_client_rate_exchanges_total"
SECRET: Final = b"of all processes"
SLOW: Final = 0.001
BURST: Final = 100
SLACK: Final = 10

Open = Callable[..., SharedBuckets]


@pytest.fixture
async def open_buckets(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Open]:
    """A factory of the buckets of processes that share one Redis, which may be slow."""
    monkeypatch.setattr(shared_buckets, "MAX_WAIT_S", GIVE_UP_S)
    async with AsyncExitStack() as stack:

        def make(**settings: Any) -> SharedBuckets:
            store = RedisStore(server.url, "test")
            stack.push_async_callback(store.close)
            rates = {"rate_per_s": SLOW, "burst": BURST, "max_clients": 1_000}
            made = SharedBuckets(limits(**{**rates, **settings}), store, SECRET)
            stack.push_async_callback(made.close)
            return made

        yield make


async def allowed(buckets: SharedBuckets, requests: int, client: str = "a") -> int:
    """Return how many of these requests at once are allowed."""
    quotas = await asyncio.gather(*(buckets.decide(client) for _ in range(requests)))
    return sum(quota.is_allowed for quota in quotas)


def scores(server: RedisServer) -> dict[bytes, float]:
    """Return the buckets in Redis: when each of them is full."""
    with redis.Redis.from_url(server.url) as client:
        return dict(client.zrange("test:client-rates", 0, -1, withscores=True))


@pytest.mark.parametrize("seed", range(3))
async def test_processes_accept_one_burst_together(
    open_buckets: Open, seed: int
) -> None:
    """A client that sprays them gets at most the slack of each of them more."""
    chosen, counts = random.Random(seed), [0, 0, 0]
    processes = [open_buckets() for _ in counts]
    assert {each.slack for each in processes} == {SLACK}
    for _ in range(6 * BURST):
        number = chosen.randrange(len(counts))
        counts[number] += (await processes[number].decide("a")).is_allowed
    assert BURST <= sum(counts) <= BURST + SLACK * len(counts)
    assert all(counts)


async def test_processes_accept_one_burst_of_requests_at_once(
    open_buckets: Open,
) -> None:
    """Requests that wait for Redis are not accepted without it."""
    processes = [open_buckets() for _ in range(3)]
    counts = await asyncio.gather(*(allowed(each, 2 * BURST) for each in processes))
    assert BURST <= sum(counts) <= BURST + SLACK * len(counts)


async def test_a_refusal_names_the_time_of_the_shared_bucket(
    open_buckets: Open,
) -> None:
    """A process that has accepted nothing for long knows what the others accepted."""
    first, second = open_buckets(), open_buckets()
    assert await allowed(first, 2 * BURST) == BURST
    assert await allowed(second, BURST) == SLACK
    refused = await second.decide("a")
    assert not refused.is_allowed
    # A token takes 1,000 s, and the permits of the slack are paid back first.
    assert SLACK * 1_000 < refused.reset_s <= (SLACK + 1) * 1_000


async def test_most_requests_ask_nobody(open_buckets: Open, added: Read) -> None:
    """A client far below its rate is never sent; others at a share of the burst."""
    buckets = open_buckets(rate_per_s=1_000.0, burst=1_000)
    for number in range(400):
        assert buckets.charge(str(number))[0]
    assert added(EXCHANGES, result="done") == 0
    assert await allowed(buckets, 900) == 900
    assert 1 <= added(EXCHANGES, result="done") <= 900 / buckets._early


async def test_clients_are_sent_together(
    open_buckets: Open, server: RedisServer, added: Read
) -> None:
    """One exchange has up to a batch of clients whose permits Redis does not know."""
    buckets = open_buckets(burst=1)
    clients = 3 * shared_buckets.MAX_BATCH // 2
    for number in range(clients):
        assert buckets.charge(str(number))[0]
    while any(each.pending for each in buckets._buckets.values()):  # noqa: ASYNC110 - it sets no event
        await asyncio.sleep(0)
    assert len(scores(server)) == clients
    assert added(EXCHANGES, result="done") == 2


async def test_redis_keeps_a_bounded_number_of_clients(
    open_buckets: Open, server: RedisServer
) -> None:
    """The clients that are nearest to a full bucket are dropped first."""
    buckets = open_buckets(max_clients=20)
    assert await allowed(buckets, BURST) == BURST
    for number in range(200):
        assert await allowed(buckets, SLACK + 1, f"hostile {number}") == SLACK + 1
    kept = scores(server)
    assert len(kept) == 20
    assert max(kept.values()) - sorted(kept.values())[-2] > (BURST - 2 * SLACK) / SLOW
    assert len(buckets) == 20
    with redis.Redis.from_url(server.url) as client:
        assert client.ttl("test:client-rates") > 0


async def test_full_buckets_are_removed(
    open_buckets: Open, server: RedisServer
) -> None:
    """A client that has sent nothing for long leaves nothing in Redis."""
    buckets = open_buckets(burst=1)
    with redis.Redis.from_url(server.url) as client:
        client.zadd("test:client-rates", {f"old {n}": n for n in range(1_500)})
        await buckets.decide("a")
        await buckets.decide("a")
        assert client.zcard("test:client-rates") == 501


async def test_each_process_goes_on_alone_without_redis(
    server: RedisServer, open_buckets: Open, added: Read
) -> None:
    """Requests neither fail nor wait while it is away."""
    first, second = open_buckets(), open_buckets()
    assert await allowed(first, BURST // 2) == BURST // 2
    server.kill()
    assert await allowed(first, BURST) == BURST // 2
    assert await allowed(second, 2 * BURST) == BURST
    assert added(EXCHANGES, result="unavailable") >= 2
    assert first.charge("b")[0]


async def test_redis_learns_what_was_accepted_without_it(
    server: RedisServer, open_buckets: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is back, a process tells it the state of its copy."""
    monkeypatch.setattr("service.storage.redis_store.PING_EVERY_S", 0.01)
    first, second = open_buckets(), open_buckets()
    server.kill()
    assert await allowed(first, BURST - 2 * SLACK) == BURST - 2 * SLACK
    server.start()
    while first._store.is_away:  # noqa: ASYNC110 - it sets no event
        await asyncio.sleep(0)
    assert await allowed(first, SLACK) == SLACK
    assert await allowed(second, 2 * BURST) <= 2 * SLACK


class Hanging(RedisStore):
    """A Redis that does not answer until it is told to."""

    def __init__(self) -> None:
        super().__init__("redis://a.test", "test")
        self.asked = 0
        self.answer = asyncio.Event()
        self.left_s = 0.0

    async def run(self, *_commands: object) -> list[list[str]]:
        """Wait for the answer."""
        self.asked += 1
        await self.answer.wait()
        return [[f"{self.left_s}"]]


async def test_no_request_waits_long_for_a_redis_that_hangs(added: Read) -> None:
    """The process applies the rate alone meanwhile; Redis charges it afterwards."""
    clock, store = Clock(), Hanging()
    settings = limits(rate_per_s=SLOW, burst=BURST)
    buckets = SharedBuckets(settings, store, SECRET, clock)
    for _ in range(SLACK):
        assert buckets.charge("a")[0]
    assert buckets.charge("a") == UNDECIDED
    await asyncio.sleep(0)
    assert store.asked == 1

    clock.pass_s(shared_buckets.MAX_WAIT_S)
    assert await allowed(buckets, 2 * BURST) == BURST - SLACK

    store.left_s = SLACK / SLOW
    store.answer.set()
    while not added(EXCHANGES, result="late"):  # noqa: ASYNC110 - it sets no event
        await asyncio.sleep(0)
    assert buckets._buckets["a"].pending == BURST - SLACK
    store.left_s = BURST / SLOW
    assert not (await buckets.decide("a")).is_allowed
    await buckets.close()
    await store.close()


async def test_a_waiting_request_goes_on_when_redis_is_too_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does not wait for the answer."""
    monkeypatch.setattr(shared_buckets, "MAX_WAIT_S", 0.01)
    store = Hanging()
    buckets = SharedBuckets(limits(rate_per_s=SLOW, burst=BURST), store, SECRET)
    assert await allowed(buckets, 2 * BURST) == BURST
    await buckets.close()
    await store.close()


async def test_clients_that_are_sent_before_delay_no_request_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It goes on when it has waited for as long as two exchanges may take."""
    monkeypatch.setattr(shared_buckets, "MAX_WAIT_S", 0.02)

    class Slow(Hanging):
        async def run(self, *_commands: object) -> list[list[str]]:
            self.asked += 1
            await asyncio.sleep(0.01)
            return [["0.0"] * shared_buckets.MAX_BATCH]

    store, batches = Slow(), 50
    buckets = SharedBuckets(limits(rate_per_s=SLOW, burst=1), store, SECRET)
    for number in range(batches * shared_buckets.MAX_BATCH - 1):
        assert buckets.charge(str(number))[0]
    assert buckets.charge("late")[0]
    assert buckets.charge("late") == UNDECIDED
    assert not (await buckets.decide("late")).is_allowed
    assert store.asked < batches / 2
    assert buckets._buckets["late"].pending == 1
    await buckets.close()
    await store.close()


async def test_a_refund_is_no_permit(open_buckets: Open) -> None:
    """A request that is judged twice is charged once, in Redis too."""
    first, second = open_buckets(), open_buckets()
    for _ in range(3 * BURST):
        assert (await first.decide("a")).is_allowed
        first.refund("a")
    assert await allowed(second, BURST) == BURST


async def test_an_unexpected_error_keeps_no_request_waiting(
    added: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a refused command the process applies the rate alone."""

    class Refusing(Hanging):
        async def run(self, *_commands: object) -> list[list[str]]:
            raise RedisUnavailable

    store = Refusing()
    buckets = SharedBuckets(limits(rate_per_s=SLOW, burst=BURST), store, SECRET)
    assert await allowed(buckets, 2 * BURST) == BURST
    assert added(EXCHANGES, result="unavailable") >= 1
    await buckets.close()
    await store.close()


def test_a_client_has_an_id_that_reveals_nothing() -> None:
    """It is the same in all processes that have the secret, and no others."""

    class Silent(RedisStore):
        def __init__(self) -> None:
            self._namespace = "test"

    one, same, other = (
        SharedBuckets(limits(), Silent(), secret) for secret in (b"a", b"a", b"b")
    )
    assert one._id_of("10.0.0.1") == same._id_of("10.0.0.1")
    assert one._id_of("10.0.0.1") != other._id_of("10.0.0.1")
    assert one._id_of("10.0.0.1") != one._id_of(b"10.0.0.1")
