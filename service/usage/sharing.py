"""One refresh for all processes: what one has fetched, the others take over.

Who finds no generation young enough takes the lock and fetches; who finds the lock
taken waits for what comes of it. `docs/decisions/sharing.md` tells the protocol and
what follows from each failure.
"""

import asyncio
import platform
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from msgspec import Struct

from service.settings import Settings
from service.storage.shared_store import (
    SharedStore,
    StoreAway,
    seal,
    server_time,
    unseal,
)
from service.usage.encodings import Answer
from service.usage.errors import (
    DeadlineExceeded,
    MessagesUnavailable,
    RefreshFailed,
    ReportUnavailable,
)
from service.usage.generations import (
    FORMAT,
    Contents,
    Generation,
    Head,
    Offer,
    pack,
    pack_body,
    restore,
    unpack,
)
from service.usage.rating import PLANS
from service.usage.shared_parts import MOST_PART_BYTES, Packed, Parts, Unreadable

LONGEST_KEPT_S: Final = 86_400.0
LOCK_MARGIN_S: Final = 5.0
"""What a refresh may take beyond its deadline, to offer what it has made."""
FAILURE_MS: Final = 2_000
"""How long those who waited for a refresh can learn that it failed."""
POLL_MS: Final = (50, 100)

_RELEASE: Final = """
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] ~= '' then redis.call('set', KEYS[2], ARGV[2], 'PX', ARGV[3]) end
return redis.call('del', KEYS[1])
"""

_TOKEN_BYTES: Final = 16
_FAILURES: Final[dict[str, type[RefreshFailed]]] = {
    each.__name__: each
    for each in (DeadlineExceeded, MessagesUnavailable, ReportUnavailable)
}


class Wish(NamedTuple):
    """What a process would take over, judged by the age of a generation in seconds."""

    known: Head | None
    """The generation that is held."""
    is_younger: Callable[[float], bool]
    """Than what is held."""
    suffices: Callable[[float], bool]
    """Without a refresh."""


class Turn(NamedTuple):
    """Something to take over, if there is; and whether to refresh now."""

    generation: Generation | None
    is_ours: bool


class Published(NamedTuple):
    """What came of an offer: its head, if others can see it, and its packed body."""

    head: Head | None
    body: Packed | None


class SharedPeriods(Protocol):
    """How a process stands with others that serve the same."""

    async def turn(self, wish: Wish) -> Turn:
        """Find a generation, or wait for one, or get the turn to refresh.

        Raises `RefreshFailed` where the refresh that was waited for did.
        """

    async def publish(self, offer: Offer) -> Published:
        """Offer what the turn has made, and end the turn."""

    async def give_up(self, error: RefreshFailed | None = None) -> None:
        """End the turn, if it has not ended yet, with nothing to offer."""

    async def contents(self, head: Head) -> Contents | None:
        """What a generation was made of, if it is still there."""


class Alone:
    """Shares with nobody: it is always this process's turn."""

    async def turn(self, wish: Wish) -> Turn:
        return Turn(None, is_ours=True)

    async def publish(self, offer: Offer) -> Published:
        return Published(None, None)

    async def give_up(self, error: RefreshFailed | None = None) -> None:
        return

    async def contents(self, head: Head) -> Contents | None:
        return None


class RedisPeriods:
    """Shares through a store; alone while that is away."""

    def __init__(self, settings: Settings, store: SharedStore) -> None:
        cache, deadline_s = settings.cache, settings.upstream.deadline_s
        longest_s = max(cache.stale_while_revalidate_s, cache.stale_if_error_s)
        self._kept_s = min(max(cache.ttl_s + longest_s, deadline_s), LONGEST_KEPT_S)
        self._store = store
        self._parts = Parts(store, self._kept_s)
        self._wait_s = deadline_s
        self._lock_ms = int((deadline_s + LOCK_MARGIN_S) * 1000)
        self._lock, self._head, self._failure = map(
            store.key, ("lock", "head", "failure")
        )
        self._token: str | None = None

    async def turn(self, wish: Wish) -> Turn:
        try:
            return await self._wait(_Waiting(wish, time.monotonic() + self._wait_s))
        except StoreAway:
            self._token = None
            return Turn(None, is_ours=True)

    async def publish(self, offer: Offer) -> Published:
        body = offer.body
        if isinstance(body, bytearray):
            body = await pack_body(body)
        head = None
        try:
            if body is not None:
                head = await self._publish(offer, body)
        except StoreAway:
            pass
        finally:
            await self.give_up()
        return Published(head, body)

    async def give_up(self, error: RefreshFailed | None = None) -> None:
        token, self._token = self._token, None
        if token is None:
            return
        told = b"" if error is None else self._sealed_failure(token, error)
        arguments = (self._lock, self._failure, token, told, FAILURE_MS)
        try:
            await self._store.run(
                lambda pipeline: pipeline.eval(_RELEASE, 2, *arguments)
            )
        except StoreAway:
            return  # the lock expires by itself

    async def contents(self, head: Head) -> Contents | None:
        try:
            return await self._contents(head)
        except StoreAway:
            return None

    async def _wait(self, waiting: "_Waiting") -> Turn:
        """Ask until there is something to take over, or it is our turn."""
        token = secrets.token_hex(_TOKEN_BYTES)
        while True:
            asked = await self._ask(token)
            if waiting.is_enough(asked):
                generation = await self._find(asked, waiting)
                if generation is not None:
                    await self.give_up()
                    return Turn(generation, is_ours=False)
            if failure := waiting.failure_of(asked):
                await self.give_up()
                raise failure
            if self._token is not None or time.monotonic() >= waiting.until:
                return Turn(await self._find(asked, waiting), is_ours=True)
            await asyncio.sleep(random.uniform(*POLL_MS) / 1000)  # noqa: S311

    async def _ask(self, token: str) -> "_Asked":
        """Take the lock if it is free, and look at everything, at one moment."""
        now, _, holder, head, failure = await self._store.run(
            lambda pipeline: pipeline.time(),
            lambda pipeline: pipeline.set(self._lock, token, nx=True, px=self._lock_ms),
            lambda pipeline: pipeline.get(self._lock),
            lambda pipeline: pipeline.get(self._head),
            lambda pipeline: pipeline.get(self._failure),
        )
        self._token = token if holder == token.encode() else None
        return _Asked(
            holder,
            self._read(self._head, head, Head),
            self._read(self._failure, failure, Failure),
            server_time(now),
        )

    def _read(self, key: str, sealed: bytes | None, kind: type[Any]) -> Any:
        """A value, or None where it is missing or not to be believed."""
        if sealed is None:
            return None
        payload = unseal(key, sealed)
        try:
            if payload is not None:
                return msgspec.msgpack.decode(payload, type=kind)
        except msgspec.DecodeError:
            pass
        self._store.log_once("cache.shared.ignored", "a head is broken")
        return None

    async def _find(self, asked: "_Asked", waiting: "_Waiting") -> Generation | None:
        """The generation in the store, if it is new to us and can be read."""
        head, known = asked.head, waiting.wish.known
        if head is None or not waiting.is_new(asked):
            return None
        began, answer = time.monotonic(), None
        if known is None or head.parts != known.parts:
            answer = await self._answer(head)
            if answer is None:
                waiting.unreadable.add(head.id)
                return None
        return Generation(head, answer, asked.age_s + time.monotonic() - began)

    async def _answer(self, head: Head) -> Answer | None:
        try:
            bodies = {
                coding: await self._parts.load(part)
                for coding, part in head.answer.items()
            }
            return await restore(bodies, head.priced)
        except Unreadable:
            await self._parts.remove(head.parts)
            return None

    async def _contents(self, head: Head) -> Contents | None:
        try:
            body = await self._parts.load(head.body)
            settled = await self._parts.load(head.settled)
            return await unpack(Packed(head.body, body), settled)
        except Unreadable:
            await self._parts.remove(head.parts)
            return None

    async def _publish(self, offer: Offer, body: Packed) -> Head | None:
        """Store the parts first and the head last: who sees it can read it all."""
        packed = await pack(offer, body)
        if max(each.part.size for each in packed.parts) > MOST_PART_BYTES:
            self._store.log_once("cache.shared.refused", "the period is too large")
            return None
        for each in packed.parts:
            await self._parts.store(each)
        now, sealed = await self._store.run(
            lambda pipeline: pipeline.time(), lambda pipeline: pipeline.get(self._head)
        )
        fetched_at = server_time(now) - offer.age_s()
        before: Head | None = self._read(self._head, sealed, Head)
        if before is not None and fetched_at < before.fetched_at <= server_time(now):
            return None
        head = msgspec.structs.replace(packed.head, fetched_at=fetched_at)
        await self._show(head)
        if before is not None:
            await self._parts.drop(before.parts - head.parts)
        return head

    async def _show(self, head: Head) -> None:
        sealed = seal(self._head, msgspec.msgpack.encode(head))
        kept_ms = int(self._kept_s * 1000)
        await self._store.run(
            lambda pipeline: pipeline.set(self._head, sealed, px=kept_ms)
        )

    def _sealed_failure(self, token: str, error: RefreshFailed) -> bytes:
        name = type(error).__name__
        failure = Failure(token, name, str(error), error.retry_after_s)
        return seal(self._failure, msgspec.msgpack.encode(failure))


class Failure(Struct, frozen=True):
    """How the refresh of a token's holder failed, for those who waited for it."""

    token: str
    type: str
    reason: str
    retry_after_s: float | None


class _Asked(NamedTuple):
    """What the store said at one moment."""

    holder: bytes
    head: Head | None
    failure: Failure | None
    now: float

    @property
    def age_s(self) -> float:
        return max(0.0, self.now - self.head.fetched_at) if self.head else 0.0


class _Waiting:
    """What one turn wishes, and what it has seen of the others so far."""

    def __init__(self, wish: Wish, until: float) -> None:
        self.wish = wish
        self.until = until
        self.unreadable: set[str] = set()
        self._holders: set[str] = set()
        self._first: str | None = None

    def is_new(self, asked: _Asked) -> bool:
        """Whether there is a head that is not held, and younger than what is."""
        head, known = asked.head, self.wish.known
        return (
            head is not None
            and head.id not in self.unreadable
            and (known is None or head.id != known.id)
            and self.wish.is_younger(asked.age_s)
        )

    def is_enough(self, asked: _Asked) -> bool:
        """Whether it makes a refresh needless: by its age, or as it was waited for."""
        found = asked.head.id if asked.head else ""
        if self._first is None:
            self._first = found
        is_awaited = found != self._first
        return self.is_new(asked) and (is_awaited or self.wish.suffices(asked.age_s))

    def failure_of(self, asked: _Asked) -> RefreshFailed | None:
        """The failure of a refresh that was waited for."""
        self._holders.add(asked.holder.decode(errors="replace"))
        failure = asked.failure
        if failure is None or failure.token not in self._holders:
            return None
        kind = _FAILURES.get(failure.type)
        return (
            kind(failure.reason, retry_after_s=failure.retry_after_s) if kind else None
        )


def share_periods(settings: Settings, store: SharedStore | None) -> SharedPeriods:
    """Share through a store, or with nobody where there is none."""
    return Alone() if store is None else RedisPeriods(settings, store)


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[SharedStore | None]:
    """The store that the settings want, if any; it need not be there yet."""
    if not settings.cache.redis_url:
        yield None
        return
    store = SharedStore(settings.cache.redis_url, namespace_of(settings))
    try:
        yield store
    finally:
        await store.close()


def namespace_of(settings: Settings) -> str:
    """A prefix of keys that only services with the same answers have in common."""
    upstream: object = settings.upstream.base_url
    if settings.sandbox.enabled:
        upstream = settings.sandbox
    usage = settings.usage
    decides = [
        *(FORMAT, upstream, sorted(PLANS)),
        *(usage.source, _database_of(settings), usage.plan, usage.on_report_error),
    ]
    digest = blake2b(msgspec.json.encode(decides), digest_size=_TOKEN_BYTES)
    return f"copilot-usage:{digest.hexdigest()}"


def _database_of(settings: Settings) -> list[str]:
    """The database that the messages come from, if they do.

    A file is another one on another machine, or below another working directory.
    """
    if settings.usage.source != "events":
        return []
    url = settings.storage.url
    is_file = url.startswith("sqlite")
    return [url, platform.node(), str(Path.cwd())] if is_file else [url]
