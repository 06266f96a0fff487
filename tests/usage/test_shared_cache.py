"""The shared cache: one refresh for all processes, and a Redis that may fail.

Tests run against a real Redis, and most of them also against a double of it.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pytest
import redis
import redis.exceptions
from aiohttp import ClientError, ClientSession, web
from aiohttp.test_utils import TestClient
from pytest_aiohttp.plugin import AiohttpClient
from redis import asyncio as redis_asyncio
from structlog.typing import EventDict

from service.app import create_app
from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.settings import Settings
from service.storage import shared_store
from service.storage.shared_parts import (
    CHUNK_BYTES,
    Packed,
    Part,
    Parts,
    Unreadable,
)
from service.storage.shared_store import (
    SEAL_BYTES,
    SharedStore,
    StoreAway,
    seal,
    unseal,
)
from service.usage import shared_cache
from service.usage.cache import Cached, SnapshotCache
from service.usage.errors import (
    DeadlineExceeded,
    MessagesUnavailable,
    RefreshFailed,
    ReportUnavailable,
    ShrinkUnconfirmed,
    WorkerLost,
)
from service.usage.handlers import SNAPSHOTS
from service.usage.shared_cache import (
    Joined,
    Known,
    Manifest,
    SharedCache,
    namespace_of,
)
from tests.conftest import MakeSettings, always, message, report
from tests.launcher import Launcher, Service
from tests.patience import GIVE_UP_S
from tests.redis_double import RedisDouble, RedisServer

MESSAGES: Final = "/messages/current-period"
ONE_REFRESH: Final = {MESSAGES: 1, "/reports/7": 1, "/reports/8": 1}
CACHE: Final[dict[str, float]] = {
    "ttl_s": 60.0,
    "report_ttl_s": 600.0,
    "missing_report_ttl_s": 600.0,
    "pause_after_failure_s": 0.0,
    "stale_wait_s": GIVE_UP_S,
}
FOUR: Final = [
    message(0, "Rent? " * 30, report_id=7),
    message(1, "Rent? " * 30, report_id="8"),
    message(2, "Rent? " * 30),
    message(3, "Rent? " * 30, report_id=7),
]
MORE: Final = [*FOUR, message(5, "new")]
PATHS: Final = [
    "/usage",
    "/usage/2",
    "/usage/daily",
    "/usage/reports",
    "/usage?limit=2",
    "/usage/daily?tz=Asia/Tokyo",
]

Client = TestClient[web.Request, web.Application]
Until = Callable[[Callable[[], bool]], Awaitable[None]]
services: Final = pytest.mark.services


class Shared(NamedTuple):
    """Somewhere to share, and a way to look into it."""

    url: str
    values: Callable[[], dict[str, bytes]]
    put: Callable[[str, bytes], None]


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> RedisDouble:
    """A Redis that is not there, and can be made to fail."""
    made = RedisDouble()
    monkeypatch.setattr(redis_asyncio.Redis, "from_url", made.from_url)
    return made


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """A real Redis of this test's own, running, which may be slow."""
    made = RedisServer(tmp_path)
    made.start()
    monkeypatch.setattr(shared_store, "CONNECT_S", GIVE_UP_S)
    monkeypatch.setattr(shared_store, "COMMAND_S", GIVE_UP_S)
    yield made
    made.kill()


@pytest.fixture(params=["double", pytest.param("redis", marks=services)])
def shared(request: pytest.FixtureRequest) -> Iterator[Shared]:
    """What services share: a dictionary, and a real Redis."""
    if request.param == "double":
        made: RedisDouble = request.getfixturevalue("double")
        values = made.values
        yield Shared("redis://a.test", values.copy, values.__setitem__)
        return
    url = request.getfixturevalue("server").url
    with redis.Redis.from_url(url) as client:

        def read() -> dict[str, bytes]:
            keys = [key.decode() for key in client.scan_iter()]
            return {key: client.get(key) or b"" for key in keys}

        yield Shared(url, read, lambda key, value: client.set(key, value, keepttl=True))


class Serve:
    """Makes services of one upstream that share what a URL names."""

    def __init__(
        self, settings: MakeSettings, aiohttp_client: AiohttpClient, upstream: str
    ) -> None:
        self._settings = settings
        self._client = aiohttp_client
        self._upstream = upstream

    def settings(self, url: str, **sections: dict[str, Any]) -> Settings:
        upstream = {"base_url": self._upstream, "attempts": 1}
        upstream |= sections.pop("upstream", {})
        cache = CACHE | {"redis_url": url} | sections.pop("cache", {})
        return self._settings(**sections, upstream=upstream, cache=cache)

    async def __call__(self, url: str, **sections: dict[str, Any]) -> Client:
        return await self._client(create_app(self.settings(url, **sections)))


@pytest.fixture
def period(sandbox: RunningSandbox) -> RunningSandbox:
    """Four messages: two of a report, one of a missing one, and one of text."""
    sandbox.sandbox.set_report(7, report(7, "Short Lease Report", 61))
    sandbox.sandbox.set_messages(FOUR)
    return sandbox


@pytest.fixture
def serve(
    settings: MakeSettings, aiohttp_client: AiohttpClient, period: RunningSandbox
) -> Serve:
    """A factory of services; each call makes one."""
    return Serve(settings, aiohttp_client, period.url)


def cache_of(service: Client) -> SnapshotCache:
    assert service.app is not None
    return service.app[SNAPSHOTS]


def current_of(service: Client) -> Cached:
    current = cache_of(service).current
    assert current is not None
    return current


def messages_of(service: Client) -> int:
    return current_of(service).snapshot.summary.messages


def expire(shared: Shared | None, *services: Client) -> None:
    """Make the snapshots older than they are fresh, in the services and in Redis."""
    by_s = 1.5 * CACHE["ttl_s"]
    older = make_manifest_older(shared, by_s) if shared is not None else None
    for each in services:
        current = current_of(each)
        fetched_at = current.fetched_at - by_s
        known = older or current.manifest
        aged = current._replace(fetched_at=fetched_at, manifest=known)
        cache_of(each).current = aged


async def published(service: Client, until: Until) -> Manifest:
    """Return the manifest by which others can adopt the current snapshot."""
    await until(lambda: current_of(service).manifest is not None)
    manifest = current_of(service).manifest
    assert manifest is not None
    return manifest


async def bodies(service: Client, *paths: str) -> list[bytes]:
    answers = [await service.get(path) for path in paths]
    assert {each.status for each in answers} == {200}
    return [await each.read() for each in answers]


def messages_of_answer(answers: list[bytes]) -> int:
    (body,) = answers
    return len(msgspec.json.decode(body)["usage"])


def logged(entries: list[EventDict], name: str) -> list[EventDict]:
    return [each for each in entries if each["event"] == f"cache.shared.{name}"]


# --- one refresh --------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4])
async def test_many_services_make_one_refresh(
    shared: Shared, serve: Serve, period: RunningSandbox, count: int
) -> None:
    """However many are asked at once, upstream is asked once, and all answer alike."""
    all_of_them = [await serve(shared.url) for _ in range(count)]

    answers = await asyncio.gather(
        *(each.get("/usage") for each in all_of_them for _ in range(3))
    )

    assert {each.status for each in answers} == {200}
    assert len({(await each.read(), each.headers["ETag"]) for each in answers}) == 1
    assert period.sandbox.calls == ONE_REFRESH


@pytest.mark.parametrize("swr_s", [0.0, 300.0], ids=["waiting", "stale"])
async def test_at_expiry_one_refreshes_for_all(
    shared: Shared, serve: Serve, period: RunningSandbox, until: Until, swr_s: float
) -> None:
    """What is old is replaced everywhere by one refresh, waited for or not."""
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


@pytest.mark.parametrize(
    "own_process_bytes, orders",
    [
        pytest.param(1_000_000, [[each] for each in PATHS], id="small"),
        pytest.param(1, [PATHS, PATHS[::-1]], id="large"),
    ],
)
async def test_every_question_is_answered_without_upstream(
    shared: Shared,
    serve: Serve,
    period: RunningSandbox,
    until: Until,
    *,
    own_process_bytes: int,
    orders: list[list[str]],
) -> None:
    """What was taken over answers all that the first service does, byte for byte."""
    usage = {"own_process_bytes": own_process_bytes}
    first = await serve(shared.url, usage=usage)
    expected = dict(zip(PATHS, await bodies(first, *PATHS), strict=True))
    await published(first, until)

    for paths in orders:
        other = await serve(shared.url, usage=usage)
        assert await bodies(other, *paths) == [expected[each] for each in paths]
        await other.close()

    assert period.sandbox.calls == ONE_REFRESH


async def test_answers_come_in_every_coding(
    shared: Shared, serve: Serve, until: Until
) -> None:
    """The codings are taken over too, with the tags that the first service sends."""
    first = await serve(shared.url)
    await first.get("/usage")
    await published(first, until)
    other = await serve(shared.url)

    async with ClientSession(auto_decompress=False) as session:

        async def ask(service: Client, coding: str) -> tuple[bytes, str, str | None]:
            url, headers = service.make_url("/usage"), {"Accept-Encoding": coding}
            async with session.get(url, headers=headers) as answer:
                sent = answer.headers.get("Content-Encoding")
                return await answer.read(), answer.headers["ETag"], sent

        for coding, sent in (("identity", None), ("gzip", "gzip"), ("zstd", "zstd")):
            ours, theirs = [await ask(each, coding) for each in (other, first)]
            assert ours == theirs
            assert ours[2] == sent


async def test_an_unchanged_snapshot_is_only_made_younger(
    shared: Shared, serve: Serve, period: RunningSandbox, until: Until
) -> None:
    """Where upstream has nothing new, the others keep their snapshot, made younger."""
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
    shared: Shared,
    serve: Serve,
    until: Until,
    log_entries: list[EventDict],
) -> None:
    """The lock may move: its messages are those of the snapshot, which stays."""
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


async def test_reports_are_asked_for_once_among_all(
    shared: Shared, serve: Serve, period: RunningSandbox
) -> None:
    """Even where no refresh succeeds, what it has learned of reports is shared."""
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


async def test_what_is_shared_outlives_whoever_fetched_it(
    shared: Shared, serve: Serve, period: RunningSandbox, until: Until
) -> None:
    """A service that starts while upstream is down answers with what was fetched."""
    first = await serve(shared.url)
    await first.get("/usage")
    await published(first, until)
    make_manifest_older(shared, by_s=2 * CACHE["ttl_s"])
    await first.close()
    period.sandbox.faults = always("server_error")

    cache = {"stale_if_error_s": 600.0}
    response = await (await serve(shared.url, cache=cache)).get("/usage")

    assert response.status == 200
    assert "detail=stale" in response.headers["Cache-Status"]
    assert int(response.headers["Age"]) >= 2 * CACHE["ttl_s"]


async def test_what_is_too_old_is_not_sent(
    shared: Shared, serve: Serve, period: RunningSandbox, until: Until
) -> None:
    """Shared or not, nothing is older than `stale_if_error_s` allows."""
    first = await serve(shared.url)
    await first.get("/usage")
    await published(first, until)
    make_manifest_older(shared, by_s=2 * CACHE["ttl_s"])
    period.sandbox.faults = always("server_error")

    assert (await (await serve(shared.url)).get("/usage")).status == 503


# --- what does not mix --------------------------------------------------------------


@pytest.mark.parametrize(
    "different",
    [
        {"usage": {"plan": "token-estimate"}},
        {"usage": {"on_report_error": "text"}},
        {"upstream": {"base_url": "http://elsewhere.test"}},
        {"sandbox": {"enabled": True}},
        {"sandbox": {"enabled": True, "seed": 8}},
    ],
    ids=str,
)
def test_other_answers_have_other_keys(
    settings: MakeSettings, different: dict[str, dict[str, Any]]
) -> None:
    """What decides the answers decides the keys."""
    assert namespace_of(settings()) == namespace_of(settings())
    assert namespace_of(settings(**different)) != namespace_of(settings())


def test_sandboxes_of_the_same_period_share(settings: MakeSettings) -> None:
    """Workers with a sandbox each have it on another port, and the same answers."""
    urls = ("http://127.0.0.1:1", "http://127.0.0.1:2")
    names = {
        namespace_of(settings(sandbox={"enabled": True}, upstream={"base_url": url}))
        for url in urls
    }
    assert len(names) == 1


async def test_two_plans_do_not_mix(
    shared: Shared, serve: Serve, period: RunningSandbox
) -> None:
    """Each service answers under its own plan, whatever others share."""
    seen = []
    for plan in ("text-rules", "token-estimate", "text-rules"):
        service = await serve(shared.url, usage={"plan": plan})
        seen.append((await service.get("/usage/2")).headers["Usage-Plan"])

    assert seen == ["text-rules/1", "token-estimate/1", "text-rules/1"]
    assert period.sandbox.calls[MESSAGES] == 2


# --- what cannot be believed --------------------------------------------------------


def make_manifest_older(shared: Shared, by_s: float) -> Manifest:
    (sealed,) = [v for key, v in shared.values().items() if key.endswith(":manifest")]
    manifest = msgspec.msgpack.decode(sealed[SEAL_BYTES:], type=Manifest)
    fetched_at = manifest.fetched_at - by_s
    older = msgspec.structs.replace(manifest, fetched_at=fetched_at)
    put_manifest(shared, older)
    return older


def put_manifest(shared: Shared, manifest: Manifest) -> None:
    (key,) = [key for key in shared.values() if key.endswith(":manifest")]
    shared.put(key, seal(key, msgspec.msgpack.encode(manifest)))


def spoil(shared: Shared, kind: str, spoiled: Callable[[str, bytes], bytes]) -> None:
    """Change every value whose key has this word."""
    chosen = {k: v for k, v in shared.values().items() if kind in k.split(":")}
    assert chosen
    for key, value in chosen.items():
        shared.put(key, spoiled(key, value))


SPOILED: Final[dict[str, Callable[[str, bytes], bytes]]] = {
    "empty": lambda _key, _value: b"",
    "foreign": lambda _key, _value: b"something else",
    "cut": lambda _key, value: value[:-1],
    "one bit": lambda _key, value: value[:-1] + bytes([value[-1] ^ 1]),
    "displaced": lambda _key, value: seal("another key", value[16:]),
    "sealed nonsense": lambda key, _value: seal(key, b"\xc1"),
    "a report's nonsense": lambda _key, _value: seal("7", b"\xc1"),
    "another form": lambda key, _value: seal(key, msgspec.msgpack.encode({"id": 1})),
}


@pytest.mark.parametrize("kind", ["manifest", "part", "report"])
@pytest.mark.parametrize("spoiled", SPOILED.values(), ids=SPOILED)
async def test_what_is_broken_is_not_used(
    *,
    shared: Shared,
    serve: Serve,
    period: RunningSandbox,
    until: Until,
    log_entries: list[EventDict],
    kind: str,
    spoiled: Callable[[str, bytes], bytes],
) -> None:
    """A broken value is as good as none; it is told once, and replaced."""
    first = await serve(shared.url)
    expected = await bodies(first, *PATHS)
    await published(first, until)
    if kind == "report":
        spoil(shared, "manifest", SPOILED["empty"])
    spoil(shared, kind, spoiled)

    other = await serve(shared.url)
    assert await bodies(other, *PATHS) == expected
    await published(other, until)
    third = await serve(shared.url)
    assert await bodies(third, *PATHS) == expected

    assert period.sandbox.calls[MESSAGES] == 2
    assert len(logged(log_entries, "ignored")) == 1


@pytest.mark.parametrize("part", ["reports", "answer", "columns"])
async def test_a_sound_part_may_have_the_wrong_content(
    shared: Shared, serve: Serve, period: RunningSandbox, until: Until, part: str
) -> None:
    """A digest only says that bytes are those that were stored: it is fetched again."""
    first = await serve(shared.url)
    expected = await bodies(first, *PATHS)
    manifest = await published(first, until)
    packed = Packed.of(msgspec.msgpack.encode([{}]))
    store = SharedStore(shared.url, namespace_of(serve.settings(shared.url)))
    await Parts(store, 60.0).store(packed)
    await store.close()
    wrong: Any = {"zstd": packed.part} if part == "answer" else packed.part
    put_manifest(shared, msgspec.structs.replace(manifest, **{part: wrong}))
    other = await serve(shared.url)

    assert await bodies(other, *PATHS) == expected
    assert period.sandbox.calls[MESSAGES] == 2


async def test_lost_columns_are_fetched_again(
    shared: Shared, serve: Serve, period: RunningSandbox, until: Until
) -> None:
    """Where Redis has no columns any more, a query makes a refresh, and no 503."""
    first = await serve(shared.url)
    expected = await bodies(first, *PATHS)
    manifest = await published(first, until)
    other = await serve(shared.url)
    await other.get("/usage")
    spoil(shared, manifest.columns.digest, SPOILED["foreign"])

    assert await bodies(other, *PATHS) == expected
    assert period.sandbox.calls[MESSAGES] == 2


@pytest.mark.parametrize(
    "sealed",
    [None, b"", b"x", seal("b", b"value"), seal("a", b"value")[:-1]],
    ids=["missing", "empty", "short", "displaced", "cut"],
)
def test_only_what_matches_its_seal_is_opened(sealed: bytes | None) -> None:
    """A seal binds the value to its key."""
    assert unseal("a", sealed) is None
    assert unseal("a", seal("a", b"value")) == b"value"


# --- the lock -----------------------------------------------------------------------


@pytest.fixture
async def two(
    shared: Shared, settings: MakeSettings
) -> AsyncIterator[tuple[SharedCache, SharedCache]]:
    """The shared caches of two processes."""
    wanted = settings(upstream={"deadline_s": GIVE_UP_S})
    stores = [SharedStore(shared.url, "test") for _ in range(2)]
    yield SharedCache(wanted, stores[0]), SharedCache(wanted, stores[1])
    for each in stores:
        await each.close()


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> list[SharedStore]:
    """The stores whose process has begun to wait for the lock, each time."""
    began: list[SharedStore] = []
    lock = SharedStore.lock

    async def noted(self: SharedStore, *arguments: Any) -> Any:
        began.append(self)
        return await lock(self, *arguments)

    monkeypatch.setattr(SharedStore, "lock", noted)
    return began


async def join(shared_cache: SharedCache) -> Joined:
    """Join as a process without a snapshot."""
    return await shared_cache.join(Known(), 60.0)


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
    waiting: list[SharedStore],
    until: Until,
    log_entries: list[EventDict],
    error: RefreshFailed,
) -> None:
    """It has the same error as that process, logs it, and the next one refreshes."""
    first, other = two
    assert (await join(first)).is_ours
    joining = asyncio.create_task(join(other))
    await until(lambda: len(waiting) == 2)

    await first.give_up(error)

    with pytest.raises(type(error), match=str(error)) as raised:
        await joining
    assert type(raised.value) is type(error)
    assert raised.value.retry_after_s == error.retry_after_s
    (failed,) = logged(log_entries, "failed")
    assert failed["reason"] == str(error)
    assert failed["error.type"] == type(error).__name__
    assert (await join(first)).is_ours


@pytest.mark.parametrize("error", [None, WorkerLost()], ids=["cancelled", "our own"])
async def test_a_lock_that_is_given_up_goes_to_the_next(
    two: tuple[SharedCache, SharedCache],
    waiting: list[SharedStore],
    until: Until,
    error: RefreshFailed | None,
) -> None:
    """A failure that says nothing about upstream is no other process's."""
    first, other = two
    assert (await join(first)).is_ours
    joining = asyncio.create_task(join(other))
    await until(lambda: len(waiting) == 2)

    await first.give_up(error)

    assert (await joining).is_ours


async def test_only_its_owner_releases_a_lock(
    two: tuple[SharedCache, SharedCache], shared: Shared
) -> None:
    """A process whose lock has expired does not release another's."""
    first, _ = two
    assert (await join(first)).is_ours
    (lock,) = [key for key in shared.values() if key.endswith(":lock")]
    shared.put(lock, b"another's")

    await first.give_up()

    assert shared.values()[lock] == b"another's"


async def test_a_lock_that_cannot_be_released_expires(
    double: RedisDouble, settings: MakeSettings
) -> None:
    """Giving up while the store is away is no error."""
    store = SharedStore("redis://a.test", "test")
    first = SharedCache(settings(), store)
    assert (await join(first)).is_ours
    double.failure = redis.ConnectionError("gone")

    await first.give_up(MessagesUnavailable("upstream answered 500"))

    assert (await join(first)).is_ours
    await store.close()


async def test_a_manifest_from_the_future_is_replaced(
    shared: Shared, serve: Serve, until: Until
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
    shared: Shared, serve: Serve, period: RunningSandbox, until: Until
) -> None:
    """A process that has lost the lock on the way does not publish what is older."""
    late, quick = await serve(shared.url), await serve(shared.url)
    await late.get("/usage")
    await published(late, until)
    await quick.get("/usage")
    old = current_of(late).snapshot
    expire(shared, quick)
    period.sandbox.set_messages(MORE)
    await quick.get("/usage")
    newest = await published(quick, until)

    store = SharedStore(shared.url, namespace_of(serve.settings(shared.url)))
    of_late = SharedCache(serve.settings(shared.url), store)
    assert await of_late.publish(old, age_s=1.0, known_as=None) is None
    await store.close()

    other = await serve(shared.url)
    assert messages_of_answer(await bodies(other, "/usage")) == len(MORE)
    assert current_of(other).manifest == newest


async def test_nobody_waits_longer_than_a_refresh_may_take(
    shared: Shared, settings: MakeSettings
) -> None:
    """A process that never releases the lock delays the others by one deadline."""
    store = SharedStore(shared.url, "test")
    short = settings(upstream={"deadline_s": 0.01})
    owner, other = SharedCache(short, store), SharedCache(short, store)
    assert (await join(owner)).is_ours

    assert (await join(other)).is_ours
    await store.close()


# --- parts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES]
)
async def test_bytes_of_any_size_come_back(shared: Shared, size: int) -> None:
    """A part is cut into chunks, and put together again."""
    store = SharedStore(shared.url, "test")
    parts = Parts(store, kept_s=60.0)
    packed = Packed.of(os.urandom(size))

    await parts.store(packed)
    await parts.store(packed)

    assert await parts.load(packed.part) == packed.stored
    assert all(len(value) <= CHUNK_BYTES for value in shared.values().values())
    await store.close()


async def test_a_part_of_impossible_size_is_not_asked_for(double: RedisDouble) -> None:
    """A manifest cannot make us read without end."""
    with pytest.raises(Unreadable):
        await Parts(SharedStore("redis://a.test", "test"), 60.0).load(
            Part("digest", 2**60)
        )
    assert double.asked == 0


async def test_a_period_too_large_is_not_shared(
    double: RedisDouble,
    serve: Serve,
    log_entries: list[EventDict],
    monkeypatch: pytest.MonkeyPatch,
    until: Until,
) -> None:
    """It is served all the same; that it is not shared is told once."""
    monkeypatch.setattr(shared_cache, "MAX_PART_BYTES", 10)
    service = await serve("redis://a.test", cache={"ttl_s": 0.0})
    for _ in range(2):
        assert (await service.get("/usage")).status == 200
    await until(lambda: len(logged(log_entries, "refused")) == 1)

    assert not [key for key in double.values if "part" in key]


# --- a store that fails -------------------------------------------------------------


@pytest.mark.parametrize(
    "failure, event",
    [
        (redis.ConnectionError("refused"), "lost"),
        (redis.TimeoutError("too slow"), "lost"),
        (redis.AuthenticationError("wrong password"), "lost"),
        (ConnectionResetError("reset"), "lost"),
        (redis.BusyLoadingError("loading"), "lost"),
        (redis.ReadOnlyError("a replica"), "refused"),
        (redis.OutOfMemoryError("full"), "refused"),
        (redis.exceptions.NoPermissionError("not you"), "refused"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_a_failing_store_fails_no_request(
    double: RedisDouble,
    serve: Serve,
    log_entries: list[EventDict],
    failure: Exception,
    event: str,
) -> None:
    """Every refresh is made alone then, and the log says so once."""
    double.failure = failure
    service = await serve("redis://a.test", cache={"ttl_s": 0.0})

    for _ in range(3):
        assert (await service.get("/usage")).status == 200

    (entry,) = [e for e in log_entries if e["event"].startswith("cache.shared")]
    assert entry["event"] == f"cache.shared.{event}"
    assert entry["reason"] == str(failure)


@pytest.mark.parametrize("work", ["store", "load"])
async def test_a_store_may_go_in_the_middle(
    double: RedisDouble, serve: Serve, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    """What is half stored is seen by nobody, and what is half read is fetched."""

    async def fail(*_: object) -> None:
        raise StoreAway

    monkeypatch.setattr(Parts, work, fail)
    first, other = [await serve("redis://a.test") for _ in range(2)]

    assert await bodies(first, *PATHS) == await bodies(other, *PATHS)
    assert any(key.endswith(":manifest") for key in double.values) == (work == "load")


async def test_while_the_store_is_away_nobody_asks_it(
    double: RedisDouble, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    """One command finds out; the next fail at once, until a ping succeeds."""
    monkeypatch.setattr("service.storage.shared_store.PING_EVERY_S", 0.0)
    store = SharedStore("redis://a.test", "test")
    double.failure = redis.ConnectionError("gone")
    with pytest.raises(StoreAway):
        await store.run(lambda pipeline: pipeline.get("a"))
    asked = double.asked
    with pytest.raises(StoreAway):
        await store.run(lambda pipeline: pipeline.get("a"))
    assert double.asked == asked
    await until(lambda: double.asked == asked + 2)

    healing, double.failure = store._healing, None
    assert healing is not None
    await healing

    assert await store.run(lambda pipeline: pipeline.get("a")) == [None]
    await store.close()


@services
async def test_redis_may_be_missing_at_the_start_and_go_at_any_time(
    *,
    server: RedisServer,
    serve: Serve,
    period: RunningSandbox,
    until: Until,
    log_entries: list[EventDict],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No request fails; each end and each return is told once by each service."""
    monkeypatch.setattr("service.storage.shared_store.PING_EVERY_S", 0.01)
    server.kill()
    first = await serve(server.url)
    assert (await first.get("/usage")).status == 200
    for round_number in (1, 2):
        assert len(logged(log_entries, "lost")) == round_number

        server.start()
        await until(lambda n=round_number: len(logged(log_entries, "restored")) == n)  # type: ignore[misc]
        expire(None, first)
        assert (await first.get("/usage")).status == 200
        await published(first, until)
        server.kill()
        expire(None, first)
        assert (await first.get("/usage")).status == 200
        assert (await first.get("/usage")).status == 200

    assert len(logged(log_entries, "lost")) == 3


@services
async def test_after_its_return_redis_is_shared_again(
    *,
    server: RedisServer,
    serve: Serve,
    period: RunningSandbox,
    until: Until,
    log_entries: list[EventDict],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An empty Redis that is back is filled by the next refresh, also one of 304."""
    monkeypatch.setattr("service.storage.shared_store.PING_EVERY_S", 0.01)
    first = await serve(server.url)
    expected = await bodies(first, *PATHS)
    await published(first, until)
    server.kill()
    expire(None, first)
    await first.get("/usage")
    server.start()
    await until(lambda: len(logged(log_entries, "restored")) == 1)
    expire(None, first)
    await first.get("/usage")
    await published(first, until)
    calls = period.sandbox.calls.copy()

    assert await bodies(await serve(server.url), *PATHS) == expected
    assert period.sandbox.calls == calls


@services
async def test_a_redis_that_hangs_fails_no_request(
    server: RedisServer,
    serve: Serve,
    log_entries: list[EventDict],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that accepts and then says nothing is as good as none."""
    assert server.process is not None
    monkeypatch.setattr(shared_store, "COMMAND_S", 0.5)
    service = await serve(server.url)
    server.process.send_signal(signal.SIGSTOP)
    try:
        assert (await service.get("/usage")).status == 200
    finally:
        server.process.send_signal(signal.SIGCONT)

    assert len(logged(log_entries, "lost")) == 1


@services
async def test_a_wrong_password_is_told_but_not_shown(
    tmp_path: Path, serve: Serve, log_entries: list[EventDict]
) -> None:
    """The service serves alone, and the log has no secret in it."""
    server = RedisServer(tmp_path, "--requirepass", "right")
    server.start()
    try:
        url = server.url.replace("//", "//:wr0ng@")
        assert (await (await serve(url)).get("/usage")).status == 200
    finally:
        server.kill()

    (lost,) = logged(log_entries, "lost")
    assert lost["error.type"] == "AuthenticationError"
    assert "wr0ng" not in str(log_entries)


@services
async def test_a_key_of_another_type_is_not_used(
    server: RedisServer, serve: Serve, log_entries: list[EventDict]
) -> None:
    """What Redis cannot read for us is refused, and served without."""
    settings = serve.settings(server.url)
    with redis.Redis.from_url(server.url) as client:
        client.lpush(f"{namespace_of(settings)}:manifest", "foreign")

    assert (await (await serve(server.url)).get("/usage")).status == 200
    assert len(logged(log_entries, "refused")) == 1


@services
async def test_everything_expires(
    server: RedisServer, serve: Serve, until: Until
) -> None:
    """No key stays for ever, and the lock is gone when the refresh is over."""
    service = await serve(server.url)
    await service.get("/usage")
    await published(service, until)

    with redis.Redis.from_url(server.url) as client:
        kept = {key.decode(): client.pttl(key) for key in client.scan_iter()}
    assert kept
    assert all(0 < left_ms <= 600_000 for left_ms in kept.values())
    assert not [key for key in kept if key.endswith(":lock")]


# --- real processes -----------------------------------------------------------------


Processes = Callable[[Settings], Awaitable[Service]]


@pytest.fixture
def processes(launcher: Launcher, tmp_path: Path) -> Iterator[Processes]:
    """A factory of services in processes of their own, which end with the test."""
    started: list[Service] = []

    async def start(settings: Settings) -> Service:
        given = {
            f"{section}__{key}": value
            for section, keys in msgspec.to_builtins(settings).items()
            for key, value in keys.items()
            if section in {"upstream", "cache"}
        }
        log = tmp_path / f"service {len(started)}.log"
        started.append(Service(launcher, log, events__enabled="false", **given))
        started[-1].start()
        await started[-1].until_up()
        return started[-1]

    yield start
    for each in started:
        if each.process_id is not None:
            each.kill()


@services
async def test_two_processes_make_one_refresh(
    server: RedisServer,
    serve: Serve,
    period: RunningSandbox,
    processes: Processes,
) -> None:
    """Real workers, asked at once by many callers, send one answer."""
    settings = serve.settings(server.url)
    services = [await processes(settings) for _ in range(2)]
    urls = [f"http://127.0.0.1:{each.port}" for each in services]

    async with ClientSession() as session:

        async def ask(url: str) -> bytes:
            async with session.get(f"{url}/usage") as response:
                assert response.status == 200
                return await response.read()

        answers = await asyncio.gather(*(ask(url) for url in urls for _ in range(20)))

    assert len(set(answers)) == 1
    assert period.sandbox.calls == ONE_REFRESH


@services
async def test_a_killed_process_does_not_hold_up_the_others(
    *,
    server: RedisServer,
    serve: Serve,
    period: RunningSandbox,
    until: Until,
    processes: Processes,
    waiting: list[SharedStore],
) -> None:
    """When the holder of the lock is killed, another refreshes when it expires."""
    settings = serve.settings(server.url, upstream={"deadline_s": GIVE_UP_S})
    period.sandbox.faults = always("hang")
    process = await processes(settings)
    other = await serve(server.url, upstream={"deadline_s": GIVE_UP_S})
    async with ClientSession() as session:
        asked = asyncio.create_task(
            session.get(f"http://127.0.0.1:{process.port}/usage")
        )
        await until(lambda: period.sandbox.in_flight == 1)
        joining = asyncio.create_task(other.get("/usage"))
        await until(lambda: len(waiting) == 1)
        process.kill()
        with pytest.raises(ClientError):
            await asked
    period.sandbox.faults = Faults()
    with redis.Redis.from_url(server.url) as client:
        (lock,) = client.keys("*:lock")
        assert client.pttl(lock) > 0
        client.pexpire(lock, 1)  # what its time would bring in the end

    assert (await joining).status == 200
    assert period.sandbox.calls[MESSAGES] == 2
