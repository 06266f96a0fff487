"""The shared cache: processes make one refresh together, through Redis.

A process adopts the snapshot in Redis if it is young enough. Otherwise it takes the
lock and refreshes. If another process has the lock, this one waits for its outcome.
`docs/decisions/shared-snapshots.md` describes the protocol and each failure.
"""

import asyncio
import time
from contextlib import suppress
from math import inf
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from msgspec import Struct

from service.settings import Settings
from service.storage.redis_blobs import Blobs, BlobUnreadable
from service.storage.redis_lock import RenewedLock
from service.storage.redis_store import (
    RedisStore,
    RedisUnavailable,
    seal,
    server_time,
    unseal,
)
from service.usage.errors import (
    DeadlineExceeded,
    MessagesUnavailable,
    RefreshFailed,
    ReportUnavailable,
    ShrinkUnconfirmed,
    WorkerLost,
)
from service.usage.shared_snapshot import (
    Manifest,
    SharedSnapshot,
    pack_snapshot,
    read_columns,
    read_parts,
)
from service.usage.snapshot import Snapshot
from service.usage.snapshots.errors import RevisionGone

MAX_STORED_S: Final = 86_400.0
LOCK: Final = "lock"
LOOK_S: Final = 0.1
"""Maximum wait of requests that have a stale answer for a look at the manifest."""
FAILURE_MS: Final = 2_000
"""For so long, processes that waited for a refresh can read its failure."""
# Failures that depend on the upstream. All others concern a single process.
_SHARED_FAILURES: Final[dict[str, type[RefreshFailed]]] = {
    each.__name__: each
    for each in (
        DeadlineExceeded,
        MessagesUnavailable,
        ReportUnavailable,
        ShrinkUnconfirmed,
    )
}

_REPLACE: Final = """
if (redis.call('get', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('set', KEYS[1], ARGV[2], 'px', ARGV[3])
return 1
"""

log = structlog.get_logger()


class JoinResult(NamedTuple):
    """A snapshot to adopt, if there is one, and whether this process must refresh."""

    found: SharedSnapshot | None
    must_refresh: bool


class SharedFailure(Struct, frozen=True):
    """The failure of a refresh, for the processes that waited for it."""

    type: str
    reason: str
    retry_after_s: float | None
    failed_at: float
    """In seconds, by the clock of Redis."""


class KnownSnapshot(NamedTuple):
    """The current snapshot of a process, if it has one."""

    revision: str | None = None
    age_s: float = inf
    manifest: Manifest | None = None


class SharedState(NamedTuple):
    """The content of Redis at one moment."""

    manifest: Manifest | None
    failure: SharedFailure | None
    now: float
    """In seconds, by the clock of Redis."""
    sealed: bytes
    """The manifest as it is in Redis; empty without one."""

    @property
    def age_s(self) -> float:
        """The age of the shared snapshot; infinite without one."""
        # A snapshot from the future means that Redis's clock has been set back.
        if self.manifest is None or self.manifest.fetched_at > self.now:
            return inf
        return self.now - self.manifest.fetched_at

    def is_newer(self, known: KnownSnapshot) -> bool:
        """Return whether a process should adopt the shared snapshot."""
        # Ages of one snapshot differ by the duration of the transfer.
        return self.age_s < known.age_s and self.manifest != known.manifest


class SharedCache:
    """The snapshot in Redis, and the lock to refresh it.

    While Redis is unavailable, each process refreshes on its own.
    """

    def __init__(self, settings: Settings, store: RedisStore) -> None:
        cache, deadline_s = settings.cache, settings.upstream.deadline_s
        stale_s = max(cache.stale_while_revalidate_s, cache.stale_if_error_s)
        self._stored_s = min(max(cache.ttl_s + stale_s, deadline_s), MAX_STORED_S)
        self._store = store
        self._parts = Blobs(store, self._stored_s)
        self._wait_s = deadline_s
        self._lock = RenewedLock(store, LOCK)
        self._manifest_key = store.key("manifest")
        self._failure_key = store.key("failure")
        self._has_looked = asyncio.Event()
        self._has_looked.set()

    @property
    def is_looking(self) -> bool:
        """True until the snapshot of another process is adopted, or there is none."""
        return not self._has_looked.is_set()

    def begin_look(self) -> None:
        """Let `wait_for_look` wait: `join` is called next."""
        self._has_looked.clear()

    def end_look(self) -> None:
        """End the waits: what `join` has found is adopted."""
        self._has_looked.set()

    async def wait_for_look(self) -> None:
        """Wait until a snapshot that another process has published is adopted.

        Otherwise a process that has had no requests for a while would answer with an
        older snapshot than others have answered with before.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await self._has_looked.wait()

    async def join(self, known: KnownSnapshot, max_age_s: float) -> JoinResult:
        """Find a newer snapshot, wait for one, or take the lock to refresh.

        A snapshot of at most `max_age_s` needs no refresh. An older one is returned
        too, if it is newer than the known one. Raises the `RefreshFailed` of another
        process if this one has waited for its refresh.
        """
        try:
            first = await self._read_state()
            if first.is_newer(known) and first.age_s < max_age_s:
                found = await self._read(first, known.revision)
                if found is not None:
                    return JoinResult(found, must_refresh=False)
            self.end_look()
            await self._lock.acquire(self._wait_s)
            state = await self._read_state()
            await self._raise_failure(first, state)
            is_newer = state.is_newer(known)
            found = await self._read(state, known.revision) if is_newer else None
            # An awaited snapshot is current, even if its fetch took longer than that.
            was_awaited = state.manifest != first.manifest
            if found is not None and (was_awaited or found.age_s < max_age_s):
                await self.release()
                return JoinResult(found, must_refresh=False)
            return JoinResult(found, must_refresh=True)
        except RedisUnavailable:
            return JoinResult(None, must_refresh=True)

    async def find_newer(self, known: KnownSnapshot) -> SharedSnapshot | None:
        """Return the shared snapshot if it is newer than the known one."""
        with suppress(RedisUnavailable):
            state = await self._read_state()
            if state.is_newer(known):
                return await self._read(state, known.revision)
        return None

    async def publish(
        self, snapshot: Snapshot, age_s: float, shared_as: Manifest | None
    ) -> Manifest | None:
        """Share a snapshot and release the lock; return its manifest if it is shared.

        `shared_as` is the manifest of a snapshot that has been shared before.
        """
        try:
            if shared_as is not None and await self._parts.renew(shared_as.parts):
                return await self._replace_manifest(shared_as, age_s)
            return await self._publish(snapshot, age_s)
        except (RedisUnavailable, RevisionGone, WorkerLost):
            return None
        finally:
            await self.release()

    async def release(self, error: RefreshFailed | None = None) -> None:
        """Release the lock, if this process has it, and share the refresh's error.

        Waiting processes raise the error. Without a shared error they refresh.
        """
        try:
            is_shared = error is not None and type(error).__name__ in _SHARED_FAILURES
            # Another process may refresh already, if this one was stopped meanwhile.
            if error is not None and is_shared and await self._lock.confirm():
                await self._share_failure(error)
        except RedisUnavailable:
            pass  # the lock expires
        finally:
            await self._lock.release()

    async def columns(self, manifest: Manifest) -> bytes | None:
        """Return the packed columns of a snapshot; None where they are lost."""
        try:
            return await read_columns(self._parts, manifest)
        except RedisUnavailable:
            return None
        except BlobUnreadable:
            await self._remove(manifest)
            return None

    async def _read_state(self) -> SharedState:
        """Read the manifest and the last failure in one transaction."""
        now, manifest, failure = await self._store.run(
            lambda pipeline: pipeline.time(),
            lambda pipeline: pipeline.get(self._manifest_key),
            lambda pipeline: pipeline.get(self._failure_key),
        )
        return SharedState(
            self._decode(self._manifest_key, manifest, Manifest),
            self._decode(self._failure_key, failure, SharedFailure),
            server_time(now),
            manifest or b"",
        )

    def _decode(self, key: str, sealed: bytes | None, kind: type[Any]) -> Any:
        """Return a decoded value; None where it is missing or broken."""
        if sealed is None:
            return None
        payload = unseal(key, sealed)
        try:
            if payload is not None:
                return msgspec.msgpack.decode(payload, type=kind)
        except msgspec.DecodeError:
            pass
        self._store.log_once("cache.shared.ignored", "a manifest is broken")
        return None

    async def _read(
        self, state: SharedState, revision: str | None
    ) -> SharedSnapshot | None:
        """Return the shared snapshot; None where a part of it is gone or broken."""
        manifest = state.manifest
        if manifest is None:
            return None
        started, parts = time.monotonic(), None
        if manifest.revision != revision:
            try:
                parts = await read_parts(self._parts, manifest)
            except BlobUnreadable:
                await self._remove(manifest)
                return None
        # The snapshot has aged during the transfer, which may be large.
        read_s = time.monotonic() - started
        return SharedSnapshot(manifest, parts, state.age_s + read_s)

    async def _raise_failure(self, first: SharedState, state: SharedState) -> None:
        """Raise the failure of a refresh that has failed since the first state."""
        failure = state.failure
        # An older failure is not that of the refresh that this process waited for.
        if failure is None or failure.failed_at < first.now:
            return
        await self.release()
        kind = _SHARED_FAILURES.get(failure.type, MessagesUnavailable)
        log.warning(
            "cache.shared.failed",
            reason=failure.reason,
            **{"error.type": kind.__name__},
        )
        raise kind(failure.reason, retry_after_s=failure.retry_after_s)

    async def _publish(self, snapshot: Snapshot, age_s: float) -> Manifest | None:
        """Store the parts, then the manifest, so that its readers find all parts."""
        packed = await pack_snapshot(snapshot)
        if packed.is_too_large:
            self._store.log_once("cache.shared.refused", "the period is too large")
            return None
        for each in packed.parts:
            await self._parts.store(each)
        return await self._replace_manifest(packed.manifest_of(snapshot), age_s)

    async def _replace_manifest(
        self, manifest: Manifest, age_s: float
    ) -> Manifest | None:
        """Replace the manifest, unless that of another process is younger."""
        is_replaced = False
        # Again, if another process has replaced it since it was read.
        while not is_replaced:
            state = await self._read_state()
            fetched_at, previous = state.now - age_s, state.manifest
            # One from the future predates a correction of Redis's clock: replace it.
            if previous is not None and fetched_at < previous.fetched_at <= state.now:
                return None
            manifest = msgspec.structs.replace(manifest, fetched_at=fetched_at)
            is_replaced = await self._swap(state.sealed, manifest)
        if previous is not None:
            # `drop` leaves them for a minute: other processes may be reading them.
            await self._parts.drop(previous.parts - manifest.parts)
        return manifest

    async def _swap(self, former: bytes, manifest: Manifest) -> bool:
        """Replace a sealed manifest; return False if it is not there any more."""
        key, expires_ms = self._manifest_key, int(self._stored_s * 1000)
        sealed = seal(key, msgspec.msgpack.encode(manifest))
        (is_replaced,) = await self._store.run(
            lambda pipeline: pipeline.eval(_REPLACE, 1, key, former, sealed, expires_ms)
        )
        return bool(is_replaced)

    async def _remove(self, manifest: Manifest) -> None:
        try:
            await self._parts.remove(manifest.parts)
        except RedisUnavailable:
            return

    async def _share_failure(self, error: RefreshFailed) -> None:
        (now,) = await self._store.run(lambda pipeline: pipeline.time())
        failure = SharedFailure(
            type(error).__name__, str(error), error.retry_after_s, server_time(now)
        )
        sealed = seal(self._failure_key, msgspec.msgpack.encode(failure))
        await self._store.run(
            lambda pipeline: pipeline.set(self._failure_key, sealed, px=FAILURE_MS)
        )
