"""Sharing: one refresh for all processes, and none the worse for a Redis that fails.

What holds for a real Redis is held against one; the rest also without, against a
dictionary that plays it.
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
from service.storage.shared_store import SharedStore, StoreAway, seal, unseal
from service.usage import sharing
from service.usage.books import Priced
from service.usage.errors import (
    BooksLost,
    DeadlineExceeded,
    MessagesUnavailable,
    RefreshFailed,
    ReportUnavailable,
)
from service.usage.generations import Head, restore, unpack
from service.usage.handlers import PERIOD
from service.usage.held import HeldPeriod
from service.usage.period import CurrentPeriod
from service.usage.shared_parts import CHUNK_BYTES, Packed, Part, Parts, Unreadable
from service.usage.sharing import RedisPeriods, Wish, namespace_of
from tests.conftest import MakeSettings, always, message, report
from tests.launcher import Launcher, Service
from tests.patience import GIVE_UP_S
from tests.redis_double import RedisDouble, RedisServer

MESSAGES: Final = "/messages/current-period"
ONE_REFRESH: Final = {MESSAGES: 1, "/reports/7": 1, "/reports/8": 1}
HELD: Final = {
    "ttl_s": 60.0,
    "report_ttl_s": 600.0,
    "missing_report_ttl_s": 600.0,
    "pause_after_failure_s": 0.0,
}
NEW_ANSWER: Final = (
    b'{"usage":[{"message_id":5,"timestamp":"2024-04-29T03:25:03.613Z",'
    b'"credits_used":1.0}]}'
)
QUESTIONS: Final = [
    "/usage",
    "/usage/2",
    "/usage/daily",
    "/usage/reports",
    "/usage?limit=2",
    "/usage?plan=token-estimate",
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
        cache = HELD | {"redis_url": url} | sections.pop("cache", {})
        return self._settings(**sections, upstream=upstream, cache=cache)

    async def __call__(self, url: str, **sections: dict[str, Any]) -> Client:
        return await self._client(create_app(self.settings(url, **sections)))


@pytest.fixture
def period(sandbox: RunningSandbox) -> RunningSandbox:
    """Four messages: two of a report, one of a missing one, and one of text."""
    sandbox.sandbox.set_report(7, report(7, "Short Lease Report", 61))
    ids: list[dict[str, Any]] = [
        {"report_id": 7},
        {"report_id": "8"},
        {},
        {"report_id": 7},
    ]
    sandbox.sandbox.set_messages(
        [message(n, "Rent? " * 30, **each) for n, each in enumerate(ids)]
    )
    return sandbox


@pytest.fixture
def serve(
    settings: MakeSettings, aiohttp_client: AiohttpClient, period: RunningSandbox
) -> Serve:
    """A factory of services; each call makes one."""
    return Serve(settings, aiohttp_client, period.url)


def period_of(service: Client) -> CurrentPeriod:
    assert service.app is not None
    return service.app[PERIOD]


def held_by(service: Client) -> HeldPeriod:
    held = period_of(service).held
    assert held is not None
    return held


def messages_held(service: Client) -> int:
    (priced,) = held_by(service).priced.values()
    return priced.messages


def expire(*services: Client) -> None:
    """Make what is held older than the time that it is fresh."""
    for each in services:
        held_by(each).fetched_at -= 1.5 * HELD["ttl_s"]


async def published(service: Client, until: Until) -> Head:
    """What others can take over from a service, when they can."""
    await until(lambda: held_by(service).head is not None)
    head = held_by(service).head
    assert head is not None
    return head


async def bodies(service: Client, *paths: str) -> list[bytes]:
    answers = [await service.get(path) for path in paths]
    assert {each.status for each in answers} == {200}
    return [await each.read() for each in answers]


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
    period.sandbox.set_messages([message(5, "new")])
    expire(*all_of_them)

    await asyncio.gather(*(each.get("/usage") for each in all_of_them))
    await until(lambda: all(messages_held(s) == 1 for s in all_of_them))

    assert {(await bodies(each, "/usage"))[0] for each in all_of_them} == {NEW_ANSWER}
    assert period.sandbox.calls[MESSAGES] == 2


@pytest.mark.parametrize(
    "own_process_bytes, orders",
    [
        pytest.param(1_000_000, [[each] for each in QUESTIONS], id="small"),
        pytest.param(1, [QUESTIONS, QUESTIONS[::-1]], id="large"),
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
    expected = dict(zip(QUESTIONS, await bodies(first, *QUESTIONS), strict=True))
    await published(first, until)

    for questions in orders:
        other = await serve(shared.url, usage=usage)
        answers = [expected[each] for each in questions]
        assert await bodies(other, *questions) == answers
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


async def test_what_is_known_is_not_fetched_again(
    shared: Shared, serve: Serve, period: RunningSandbox, until: Until
) -> None:
    """Where upstream has nothing new, the others keep what they hold, only younger."""
    first, other = await serve(shared.url), await serve(shared.url)
    await first.get("/usage")
    await published(first, until)
    await other.get("/usage")
    before = held_by(other)
    expire(first, other)

    await first.get("/usage")
    await until(lambda: period_of(first)._publishing is not None)
    await period_of(first)._publishing  # type: ignore[misc]
    await other.get("/usage")

    assert held_by(other) is before
    assert held_by(other).head == held_by(first).head
    assert period.sandbox.calls == {**ONE_REFRESH, MESSAGES: 2}


async def test_whoever_refreshes_goes_on_from_what_was_shared(
    shared: Shared,
    serve: Serve,
    period: RunningSandbox,
    until: Until,
    log_entries: list[EventDict],
) -> None:
    """The turn may change: upstream's tag and the prices are taken over for it."""
    first, other = await serve(shared.url), await serve(shared.url)
    await first.get("/usage")
    await published(first, until)
    await other.get("/usage")
    await first.close()
    expire(other)
    log_entries.clear()

    await other.get("/usage")

    (finished,) = [e for e in log_entries if e["event"] == "usage.refresh.finished"]
    assert (finished["messages"], finished["reused"]) == (4, 4)
    tries = [e for e in log_entries if e["event"] == "upstream.request"]
    assert [each["http.response.status_code"] for each in tries] == [304]


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
    head = await published(first, until)
    make_older(shared, head, by_s=2 * HELD["ttl_s"])
    await first.close()
    period.sandbox.faults = always("server_error")

    cache = {"stale_if_error_s": 600.0}
    response = await (await serve(shared.url, cache=cache)).get("/usage")

    assert response.status == 200
    assert "detail=stale" in response.headers["Cache-Status"]
    assert int(response.headers["Age"]) >= 2 * HELD["ttl_s"]


async def test_what_is_too_old_is_not_sent(
    shared: Shared, serve: Serve, period: RunningSandbox, until: Until
) -> None:
    """Shared or not, nothing is older than `stale_if_error_s` allows."""
    first = await serve(shared.url)
    await first.get("/usage")
    head = await published(first, until)
    make_older(shared, head, by_s=2 * HELD["ttl_s"])
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


def make_older(shared: Shared, head: Head, by_s: float) -> None:
    older = msgspec.structs.replace(head, fetched_at=head.fetched_at - by_s)
    put_head(shared, older)


def put_head(shared: Shared, head: Head) -> None:
    (key,) = [key for key in shared.values() if key.endswith(":head")]
    shared.put(key, seal(key, msgspec.msgpack.encode(head)))


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


@pytest.mark.parametrize("kind", ["head", "part", "report"])
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
    expected = await bodies(first, *QUESTIONS)
    await published(first, until)
    if kind == "report":
        spoil(shared, "head", SPOILED["empty"])
    spoil(shared, kind, spoiled)

    other = await serve(shared.url)
    assert await bodies(other, *QUESTIONS) == expected
    await published(other, until)
    third = await serve(shared.url)
    assert await bodies(third, *QUESTIONS) == expected

    assert period.sandbox.calls[MESSAGES] == 2
    assert len(logged(log_entries, "ignored")) == 1


async def test_parts_that_are_sound_may_still_be_of_no_use() -> None:
    """A digest says that bytes are those that were meant, not what they hold."""
    priced = Priced("text-rules/1", 0, 0, 0, 0.0, [], 0)
    for bodies_of_no_use in ({}, {"zstd": b"plain"}):
        with pytest.raises(Unreadable):
            await restore(bodies_of_no_use, priced)
    for settled in (b"", b"\xc1", msgspec.msgpack.encode([{}, []])):
        with pytest.raises(Unreadable):
            await unpack(Packed.of(b"plain"), settled)


@pytest.mark.parametrize("part", ["body", "settled"])
async def test_lost_contents_are_fetched_again(
    shared: Shared, serve: Serve, period: RunningSandbox, until: Until, part: str
) -> None:
    """Where others have no contents any more, a question makes a refresh, not a 503."""
    first = await serve(shared.url)
    expected = await bodies(first, *QUESTIONS)
    head = await published(first, until)
    other = await serve(shared.url)
    await other.get("/usage")
    spoil(shared, getattr(head, part).digest, SPOILED["foreign"])

    assert await bodies(other, *QUESTIONS) == expected
    assert period.sandbox.calls[MESSAGES] == 2


async def test_a_bill_that_does_not_add_up_is_not_believed(
    shared: Shared, serve: Serve, period: RunningSandbox, until: Until
) -> None:
    """Books that come to another total than was shared are made from upstream."""
    first = await serve(shared.url)
    expected = await bodies(first, *QUESTIONS)
    head = await published(first, until)
    wrong = head.priced._replace(credits_total=1.0)
    put_head(shared, msgspec.structs.replace(head, priced=wrong))
    other = await serve(shared.url)

    assert await bodies(other, *QUESTIONS) == expected
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


# --- turns --------------------------------------------------------------------------


@pytest.fixture
async def two(
    shared: Shared, settings: MakeSettings
) -> AsyncIterator[tuple[RedisPeriods, RedisPeriods]]:
    """Two processes' ends of the same store."""
    wanted = settings(upstream={"deadline_s": GIVE_UP_S})
    stores = [SharedStore(shared.url, "test") for _ in range(2)]
    yield RedisPeriods(wanted, stores[0]), RedisPeriods(wanted, stores[1])
    for each in stores:
        await each.close()


ANYTHING: Final = Wish(None, lambda _: True, lambda _: True)


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> list[RedisPeriods]:
    """Who has asked for a turn, each time."""
    asked: list[RedisPeriods] = []
    ask = RedisPeriods._ask

    async def noted(self: RedisPeriods, token: str) -> Any:
        answer = await ask(self, token)
        asked.append(self)
        return answer

    monkeypatch.setattr(RedisPeriods, "_ask", noted)
    return asked


@pytest.mark.parametrize(
    "error",
    [
        MessagesUnavailable("upstream answered 500", retry_after_s=7.0),
        ReportUnavailable("timed out"),
        DeadlineExceeded("not finished"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_who_waits_for_a_refresh_fails_with_it(
    two: tuple[RedisPeriods, RedisPeriods],
    asking: list[RedisPeriods],
    until: Until,
    error: RefreshFailed,
) -> None:
    """As callers of one process do; the next who asks gets the turn."""
    first, other = two
    assert (await first.turn(ANYTHING)).is_ours
    waiting = asyncio.create_task(other.turn(ANYTHING))
    await until(lambda: other in asking)

    await first.give_up(error)

    with pytest.raises(type(error), match=str(error)) as raised:
        await waiting
    assert raised.value.retry_after_s == error.retry_after_s
    assert (await first.turn(ANYTHING)).is_ours


@pytest.mark.parametrize("error", [None, BooksLost()], ids=["none", "our own"])
async def test_a_turn_that_is_given_up_goes_to_the_next(
    two: tuple[RedisPeriods, RedisPeriods],
    asking: list[RedisPeriods],
    until: Until,
    error: RefreshFailed | None,
) -> None:
    """A failure that says nothing about upstream is nobody else's."""
    first, other = two
    assert (await first.turn(ANYTHING)).is_ours
    waiting = asyncio.create_task(other.turn(ANYTHING))
    await until(lambda: other in asking)

    await first.give_up(error)

    assert (await waiting).is_ours


async def test_only_its_holder_releases_a_lock(
    two: tuple[RedisPeriods, RedisPeriods], shared: Shared
) -> None:
    """A process whose lock has expired does not take another's away."""
    first, _ = two
    assert (await first.turn(ANYTHING)).is_ours
    (lock,) = [key for key in shared.values() if key.endswith(":lock")]
    shared.put(lock, b"another's")

    await first.give_up()

    assert shared.values()[lock] == b"another's"


async def test_a_lock_that_cannot_be_released_expires(
    double: RedisDouble, settings: MakeSettings
) -> None:
    """Giving up while the store is away is no error."""
    store = SharedStore("redis://a.test", "test")
    first = RedisPeriods(settings(), store)
    assert (await first.turn(ANYTHING)).is_ours
    double.failure = redis.ConnectionError("gone")

    await first.give_up(MessagesUnavailable("upstream answered 500"))

    assert (await first.turn(ANYTHING)).is_ours
    await store.close()


async def test_a_head_from_a_time_to_come_is_replaced(
    shared: Shared, serve: Serve, until: Until
) -> None:
    """The clock of Redis may be set back."""
    first = await serve(shared.url)
    await first.get("/usage")
    head = await published(first, until)
    make_older(shared, head, by_s=-1_000.0)
    expire(first)

    await first.get("/usage")
    await until(lambda: held_by(first).head != head)

    assert held_by(first).head is not None


async def test_a_refresh_that_is_late_replaces_nothing(
    shared: Shared, serve: Serve, period: RunningSandbox, until: Until
) -> None:
    """Who has lost the lock on the way does not put back what is older."""
    late, quick = await serve(shared.url), await serve(shared.url)
    await late.get("/usage")
    await published(late, until)
    await quick.get("/usage")
    held = held_by(late)
    expire(quick)
    period.sandbox.set_messages([message(5, "new")])
    await quick.get("/usage")
    newest = await published(quick, until)

    held.fetched_at -= 1.0
    await period_of(late)._publish(held)

    assert held.head is None
    other = await serve(shared.url)
    assert await bodies(other, "/usage") == [NEW_ANSWER]
    assert held_by(other).head == newest


async def test_nobody_waits_longer_than_a_refresh_may_take(
    shared: Shared, settings: MakeSettings
) -> None:
    """Whoever holds the lock for ever delays the others by one deadline."""
    store = SharedStore(shared.url, "test")
    short = settings(upstream={"deadline_s": 0.01})
    holder, other = RedisPeriods(short, store), RedisPeriods(short, store)
    assert (await holder.turn(ANYTHING)).is_ours

    assert (await other.turn(ANYTHING)).is_ours
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
    """A head cannot make us read without end."""
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
    monkeypatch.setattr(sharing, "MOST_PART_BYTES", 10)
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

    assert await bodies(first, *QUESTIONS) == await bodies(other, *QUESTIONS)
    assert any(key.endswith(":head") for key in double.values) == (work == "load")


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
        expire(first)
        assert (await first.get("/usage")).status == 200
        await published(first, until)
        server.kill()
        expire(first)
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
    expected = await bodies(first, *QUESTIONS)
    await published(first, until)
    server.kill()
    expire(first)
    await first.get("/usage")
    server.start()
    await until(lambda: len(logged(log_entries, "restored")) == 1)
    expire(first)
    await first.get("/usage")
    await published(first, until)
    calls = period.sandbox.calls.copy()

    assert await bodies(await serve(server.url), *QUESTIONS) == expected
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
        client.lpush(f"{namespace_of(settings)}:head", "foreign")

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
    asking: list[RedisPeriods],
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
        waiting = asyncio.create_task(other.get("/usage"))
        await until(lambda: len(asking) == 1)
        process.kill()
        with pytest.raises(ClientError):
            await asked
    period.sandbox.faults = Faults()
    with redis.Redis.from_url(server.url) as client:
        (lock,) = client.keys("*:lock")
        assert client.pttl(lock) > 0
        client.pexpire(lock, 1)  # what its time would bring in the end

    assert (await waiting).status == 200
    assert period.sandbox.calls[MESSAGES] == 2
