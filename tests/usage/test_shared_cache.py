"""The shared cache: one refresh for all processes, and its lock."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Final

import msgspec
import pytest
import redis
import redis.exceptions
from structlog.typing import EventDict

from service.sandbox.server import RunningSandbox
from service.storage.redis_lock import RedisLocks
from service.storage.redis_store import Command, RedisStore
from service.usage.errors import (
    DeadlineExceeded,
    MessagesUnavailable,
    RefreshFailed,
    ReportUnavailable,
    ShrinkUnconfirmed,
    WorkerLost,
)
from service.usage.shared_cache import JoinResult, KnownSnapshot, SharedCache
from service.usage.shared_store import namespace_of
from tests.conftest import MakeSettings, always, message
from tests.patience import GIVE_UP_S
from tests.redis_servers import RedisDouble, SharedRedis
from tests.usage.conftest import (
    CACHE,
    FOUR,
    MESSAGES,
    Client,
    Serve,
    Until,
    bodies,
    current_of,
    expire,
    logged,
    make_manifest_older,
    published,
)

ONE_REFRESH: Final = {MESSAGES: 1, "/reports/7": 1, "/reports/8": 1}


MORE: Final = [*FOUR, message(5, "new")]


def messages_of(service: Client) -> int:
    return current_of(service).snapshot.summary.messages


def messages_of_answer(answers: list[bytes]) -> int:
    (body,) = answers
    return len(msgspec.json.decode(body)["usage"])


@pytest.mark.parametrize("count", [2, 4])
async def test_many_services_make_one_refresh(
    shared: SharedRedis, serve: Serve, period: RunningSandbox, count: int
) -> None:
    """Concurrent requests to all services make one refresh, and get the same answer."""
    all_of_them = [await serve(shared.url) for _ in range(count)]

    answers = await asyncio.gather(
        *(each.get("/usage") for each in all_of_them for _ in range(3))
    )

    assert {each.status for each in answers} == {200}
    assert len({(await each.read(), each.headers["ETag"]) for each in answers}) == 1
    assert period.sandbox.calls == ONE_REFRESH


@pytest.mark.parametrize("swr_s", [0.0, 300.0], ids=["waiting", "stale"])
async def test_at_expiry_one_refreshes_for_all(
    shared: SharedRedis,
    serve: Serve,
    period: RunningSandbox,
    until: Until,
    swr_s: float,
) -> None:
    """One refresh replaces an expired snapshot in all services."""
    cache = {"stale_while_revalidate_s": swr_s}
    all_of_them = [await serve(shared.url, cache=cache) for _ in range(4)]
    await asyncio.gather(*(each.get("/usage") for each in all_of_them))
    await published(all_of_them[0], until)
    period.sandbox.set_messages(MORE)
    expire(shared, *all_of_them)

    await asyncio.gather(*(each.get("/usage") for each in all_of_them))
    await until(lambda: all(messages_of(s) == len(MORE) for s in all_of_them))

    assert len({(await bodies(each, "/usage"))[0] for each in all_of_them}) == 1
    assert period.sandbox.calls[MESSAGES] == 2


async def test_an_unchanged_snapshot_is_only_made_younger(
    shared: SharedRedis, serve: Serve, period: RunningSandbox, until: Until
) -> None:
    """Unmodified messages reset the age of the snapshot in the other services."""
    first, other = await serve(shared.url), await serve(shared.url)
    await first.get("/usage")
    before = await published(first, until)
    await other.get("/usage")
    snapshot = current_of(other).snapshot
    expire(shared, first, other)

    await first.get("/usage")
    await until(lambda: current_of(first).manifest not in (None, before))
    await other.get("/usage")

    assert current_of(other).snapshot is snapshot
    assert current_of(other).manifest == current_of(first).manifest
    assert period.sandbox.calls == {**ONE_REFRESH, MESSAGES: 2}


async def test_a_process_that_adopted_can_refresh(
    shared: SharedRedis,
    serve: Serve,
    until: Until,
    log_entries: list[EventDict],
) -> None:
    """Another process refreshes next; unmodified messages keep the snapshot."""
    first, other = await serve(shared.url), await serve(shared.url)
    await first.get("/usage")
    manifest = await published(first, until)
    await other.get("/usage")
    await first.close()
    expire(shared, other)
    log_entries.clear()

    await other.get("/usage")

    (finished,) = [e for e in log_entries if e["event"] == "usage.refresh.finished"]
    assert (finished["messages"], finished["reused"]) == (4, 4)
    assert finished["revision"] == manifest.revision
    assert current_of(other).snapshot.revision == manifest.revision
    assert "credits.step" not in {each["event"] for each in log_entries}


async def test_reports_of_a_failed_refresh_are_shared(
    shared: SharedRedis, serve: Serve, period: RunningSandbox
) -> None:
    """Reports that a failed refresh has fetched are shared."""
    period.sandbox.set_report(9, b"{}")
    period.sandbox.set_messages(
        [message(n, report_id=n) for n in (7, 8, 9)],
    )
    for _ in range(3):
        service = await serve(shared.url, upstream={"concurrency": 1})
        assert (await service.get("/usage")).status == 503

    assert period.sandbox.calls["/reports/7"] == 1
    assert period.sandbox.calls["/reports/8"] == 1
    assert period.sandbox.calls["/reports/9"] == 3


@pytest.mark.parametrize("stale_if_error_s", [600.0, 0.0], ids=["stale", "too old"])
async def test_shared_snapshot_covers_a_failure_for_its_time(
    shared: SharedRedis,
    serve: Serve,
    period: RunningSandbox,
    until: Until,
    stale_if_error_s: float,
) -> None:
    """A service that starts while upstream fails sends it within `stale_if_error_s`."""
    first = await serve(shared.url)
    await first.get("/usage")
    await published(first, until)
    make_manifest_older(shared, by_s=2 * CACHE["ttl_s"])
    await first.close()
    period.sandbox.faults = always("server_error")

    cache = {"stale_if_error_s": stale_if_error_s}
    response = await (await serve(shared.url, cache=cache)).get("/usage")

    if not stale_if_error_s:
        assert response.status == 503
        return
    assert response.status == 200
    assert "detail=stale" in response.headers["Cache-Status"]
    assert int(response.headers["Age"]) >= 2 * CACHE["ttl_s"]


@pytest.fixture
async def two(
    shared: SharedRedis, settings: MakeSettings
) -> AsyncIterator[tuple[SharedCache, SharedCache]]:
    """The shared caches of two processes."""
    made = settings(upstream={"deadline_s": GIVE_UP_S})
    stores = [RedisStore(shared.url, "test") for _ in range(2)]
    yield SharedCache(made, stores[0]), SharedCache(made, stores[1])
    for each in stores:
        await each.close()


async def join(shared_cache: SharedCache) -> JoinResult:
    """Join as a process without a snapshot."""
    return await shared_cache.join(KnownSnapshot(), 60.0)


@pytest.mark.parametrize(
    "error",
    [
        MessagesUnavailable("upstream answered 500", retry_after_s=7.0),
        ShrinkUnconfirmed("3 of 3 messages are gone"),
        ReportUnavailable("timed out"),
        DeadlineExceeded("not finished"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_process_that_waits_for_a_refresh_fails_with_it(
    two: tuple[SharedCache, SharedCache],
    waiting: list[RedisLocks],
    until: Until,
    log_entries: list[EventDict],
    error: RefreshFailed,
) -> None:
    """The waiting process raises and logs the same error; the next one refreshes."""
    first, other = two
    assert (await join(first)).must_refresh
    joining = asyncio.create_task(join(other))
    await until(lambda: len(waiting) == 2)

    await first.release(error)

    with pytest.raises(type(error), match=str(error)) as raised:
        await joining
    assert type(raised.value) is type(error)
    assert raised.value.retry_after_s == error.retry_after_s
    (failed,) = logged(log_entries, "failed")
    assert failed["reason"] == str(error)
    assert failed["error.type"] == type(error).__name__
    assert (await join(first)).must_refresh


@pytest.mark.parametrize("error", [None, WorkerLost()], ids=["cancelled", "our own"])
async def test_a_released_lock_goes_to_the_next_process(
    two: tuple[SharedCache, SharedCache],
    waiting: list[RedisLocks],
    until: Until,
    error: RefreshFailed | None,
) -> None:
    """A failure of one process is not shared, so the waiting process refreshes."""
    first, other = two
    assert (await join(first)).must_refresh
    joining = asyncio.create_task(join(other))
    await until(lambda: len(waiting) == 2)

    await first.release(error)

    assert (await joining).must_refresh


async def test_a_lock_that_cannot_be_released_expires(
    double: RedisDouble, settings: MakeSettings
) -> None:
    """Releasing the lock without Redis is no error."""
    store = RedisStore("redis://a.test", "test")
    first = SharedCache(settings(), store)
    assert (await join(first)).must_refresh
    double.failure = redis.ConnectionError("gone")

    await first.release(MessagesUnavailable("upstream answered 500"))

    assert (await join(first)).must_refresh
    await store.close()


async def test_a_manifest_from_the_future_is_replaced(
    shared: SharedRedis, serve: Serve, until: Until
) -> None:
    """The clock of Redis may be set back."""
    first = await serve(shared.url)
    await first.get("/usage")
    await published(first, until)
    expire(shared, first)
    future = make_manifest_older(shared, by_s=-1_000.0)

    await first.get("/usage")
    await until(lambda: current_of(first).manifest != future)
    manifest = await published(first, until)

    assert manifest.fetched_at < future.fetched_at


async def test_a_late_refresh_replaces_nothing(
    shared: SharedRedis, serve: Serve, period: RunningSandbox, until: Until
) -> None:
    """A refresh that is slower than its lock does not replace a later one."""
    late, quick = await serve(shared.url), await serve(shared.url)
    await late.get("/usage")
    await published(late, until)
    await quick.get("/usage")
    old = current_of(late).snapshot
    expire(shared, quick)
    period.sandbox.set_messages(MORE)
    await quick.get("/usage")
    newest = await published(quick, until)

    store = RedisStore(shared.url, namespace_of(serve.settings(shared.url)))
    of_late = SharedCache(serve.settings(shared.url), store)
    assert await of_late.publish(old, age_s=1.0, shared_as=None) is None
    await store.close()

    other = await serve(shared.url)
    assert messages_of_answer(await bodies(other, "/usage")) == len(MORE)
    assert current_of(other).manifest == newest


class Interrupted(RedisStore):
    """A store of a process that is stopped for a while after it has read the state."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def run(self, *commands: Command) -> list[Any]:
        """Run commands, and what others do before this process goes on."""
        results = await super().run(*commands)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None and len(commands) == 3:
            await meanwhile()
        else:
            self.meanwhile = meanwhile
        return results


async def test_a_refresh_that_publishes_at_the_same_time_replaces_nothing(
    shared: SharedRedis, serve: Serve, period: RunningSandbox, until: Until
) -> None:
    """The older snapshot does not replace one that was published in between."""
    one = await serve(shared.url)
    await one.get("/usage")
    await published(one, until)
    old = current_of(one).snapshot
    period.sandbox.set_messages(MORE)
    shared.forget()
    two = await serve(shared.url)
    await two.get("/usage")
    newest = await published(two, until)
    young = current_of(two).snapshot
    shared.forget()

    settings = serve.settings(shared.url)
    store = Interrupted(shared.url, namespace_of(settings))
    late, quick = SharedCache(settings, store), SharedCache(settings, store)
    store.meanwhile = partial(quick.publish, young, age_s=0.0, shared_as=None)
    assert await late.publish(old, age_s=1.0, shared_as=None) is None
    found = await late.find_newer(KnownSnapshot())
    await store.close()
    assert found is not None
    assert found.manifest.revision == newest.revision


async def test_waiting_for_the_lock_is_bounded(
    shared: SharedRedis, settings: MakeSettings
) -> None:
    """A lock that is never released delays other processes by one deadline."""
    store = RedisStore(shared.url, "test")
    short = settings(upstream={"deadline_s": 0.01})
    owner, other = SharedCache(short, store), SharedCache(short, store)
    assert (await join(owner)).must_refresh

    assert (await join(other)).must_refresh
    await store.close()
