"""One refresh for all processes: a process that finds a snapshot in Redis adopts it.

A process that finds none young enough takes the lock and refreshes. A process that
finds the lock taken waits for the outcome. `docs/decisions/shared-snapshots.md`
describes the protocol, and what follows from each failure.

What is shared is a small manifest and the parts that it names: the encoded answer, the
resolved reports, and the columns of the snapshot, but no texts.
"""

import asyncio
import platform
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import blake2b
from math import inf
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import structlog
import zstandard
from msgspec import Struct
from redis.asyncio.lock import Lock

from service.settings import Settings
from service.storage.shared_parts import (
    MAX_PART_BYTES,
    Packed,
    Part,
    Parts,
    Unreadable,
)
from service.storage.shared_store import (
    SharedStore,
    StoreAway,
    seal,
    server_time,
    unseal,
)
from service.usage.encodings import Answer, Coding, answer_headers
from service.usage.errors import (
    DeadlineExceeded,
    MessagesUnavailable,
    RefreshFailed,
    ReportUnavailable,
    ShrinkUnconfirmed,
    WorkerLost,
)
from service.usage.pricing.plans import PLANS
from service.usage.reports import Report, Resolved
from service.usage.snapshots.columns import Summary
from service.usage.snapshots.errors import RevisionGone
from service.usage.snapshots.formats import JSON
from service.usage.snapshots.messages import ReportKey
from service.usage.snapshots.snapshot import Snapshot

FORMAT: Final = 2
"""To be raised when what is shared changes its form or its meaning."""
MAX_KEPT_S: Final = 86_400.0
LOCK_MARGIN_S: Final = 5.0
"""The lock outlives a refresh's deadline by this, for the publishing."""
FAILURE_MS: Final = 2_000
"""How long those who waited for a refresh can read that it failed."""
_DIGEST_BYTES: Final = 16
_FAILURES: Final[dict[str, type[RefreshFailed]]] = {
    each.__name__: each
    for each in (
        DeadlineExceeded,
        MessagesUnavailable,
        ReportUnavailable,
        ShrinkUnconfirmed,
    )
}
"""Failures that say something about upstream. Others are the own ones of a process."""

log = structlog.get_logger()


class Manifest(Struct, frozen=True):
    """A shared snapshot: what it is, and where its parts are."""

    revision: str
    refresh_id: str
    fetched_at: float
    """In seconds, by the clock of Redis."""
    etag: str | None
    digest: str
    summary: Summary
    answer: dict[Coding, Part]
    reports: Part
    columns: Part
    columns_bytes: int
    """The size of the columns before compression."""

    @property
    def parts(self) -> set[Part]:
        """Every part."""
        return {*self.answer.values(), self.reports, self.columns}


class PackedReports(Struct, frozen=True, array_like=True):
    """The resolved reports of a snapshot."""

    reports: dict[ReportKey, Report | None]
    failed: set[ReportKey]


class SharedSnapshot(NamedTuple):
    """A snapshot that can be adopted; without parts if its revision is known."""

    manifest: Manifest
    parts: tuple[Answer, Resolved] | None
    age_s: float


class Joined(NamedTuple):
    """A snapshot to adopt, if there is one; and whether this process refreshes."""

    found: SharedSnapshot | None
    is_ours: bool


class Failure(Struct, frozen=True):
    """The failure of a refresh, for those who waited for it."""

    type: str
    reason: str
    retry_after_s: float | None
    failed_at: float
    """In seconds, by the clock of Redis."""


class Known(NamedTuple):
    """The snapshot that a process has, if it has one, and how others know it."""

    revision: str | None = None
    age_s: float = inf
    manifest: Manifest | None = None


class Seen(NamedTuple):
    """The content of Redis at one moment."""

    manifest: Manifest | None
    failure: Failure | None
    now: float

    @property
    def age_s(self) -> float:
        """The age of the shared snapshot; infinite without one.

        So is that of one from the future: the clock of Redis has been set back.
        """
        if self.manifest is None or self.manifest.fetched_at > self.now:
            return inf
        return self.now - self.manifest.fetched_at

    def is_newer(self, known: Known) -> bool:
        """Return whether a process should adopt the shared snapshot.

        Ages alone would not do: those of one snapshot differ by what reading it took.
        """
        return self.age_s < known.age_s and self.manifest != known.manifest


class SharedCache:
    """The snapshot that processes share through Redis.

    While that is away, each process refreshes by itself.
    """

    def __init__(self, settings: Settings, store: SharedStore) -> None:
        cache, deadline_s = settings.cache, settings.upstream.deadline_s
        stale_s = max(cache.stale_while_revalidate_s, cache.stale_if_error_s)
        self._kept_s = min(max(cache.ttl_s + stale_s, deadline_s), MAX_KEPT_S)
        self._store = store
        self._parts = Parts(store, self._kept_s)
        self._wait_s = deadline_s
        self._lock_s = deadline_s + LOCK_MARGIN_S
        self._manifest_key = store.key("manifest")
        self._failure_key = store.key("failure")
        self._lock: Lock | None = None

    async def join(self, known: Known, max_age_s: float) -> Joined:
        """Find a newer snapshot, wait for one, or take the lock to refresh.

        One of at most `max_age_s` needs no refresh; an older one is worth adopting all
        the same. Raises `RefreshFailed` where the refresh of another process, which
        this one has waited for, did.
        """
        try:
            first = await self._look()
            if first.is_newer(known) and first.age_s < max_age_s:
                found = await self._read(first, known.revision)
                if found is not None:
                    return Joined(found, is_ours=False)
            self._lock = await self._store.lock("lock", self._lock_s, self._wait_s)
            seen = await self._look()
            await self._raise_failure(first, seen)
            is_newer = seen.is_newer(known)
            found = await self._read(seen, known.revision) if is_newer else None
            was_awaited = seen.manifest != first.manifest
            if found is not None and (was_awaited or found.age_s < max_age_s):
                await self.give_up()
                return Joined(found, is_ours=False)
            return Joined(found, is_ours=True)
        except StoreAway:
            self._lock = None
            return Joined(None, is_ours=True)

    async def publish(
        self, snapshot: Snapshot, age_s: float, known_as: Manifest | None
    ) -> Manifest | None:
        """Share a snapshot, and release the lock; its manifest, if others see it.

        `known_as` is the manifest of a snapshot that is shared already.
        """
        try:
            if known_as is not None and await self._parts.renew(known_as.parts):
                return await self._show(known_as, age_s)
            return await self._publish(snapshot, age_s)
        except (StoreAway, RevisionGone, WorkerLost):
            return None
        finally:
            await self.give_up()

    async def give_up(self, error: RefreshFailed | None = None) -> None:
        """Release the lock, if this process has it; those who wait get the error.

        They get none that is this process's own, and refresh.
        """
        lock, self._lock = self._lock, None
        if lock is None:
            return
        try:
            if error is not None and type(error).__name__ in _FAILURES:
                await self._note_failure(error)
            await self._store.release(lock)
        except StoreAway:
            return  # the lock expires by itself

    async def columns(self, manifest: Manifest) -> bytes | None:
        """Return the packed columns of a snapshot, if they are still there."""
        try:
            packed = await self._parts.load(manifest.columns)
            return await asyncio.to_thread(_decompress, packed)
        except StoreAway:
            return None
        except (Unreadable, zstandard.ZstdError):
            await self._remove(manifest)
            return None

    async def _look(self) -> Seen:
        """Read the manifest and the last failure, at one moment."""
        now, manifest, failure = await self._store.run(
            lambda pipeline: pipeline.time(),
            lambda pipeline: pipeline.get(self._manifest_key),
            lambda pipeline: pipeline.get(self._failure_key),
        )
        return Seen(
            self._decode(self._manifest_key, manifest, Manifest),
            self._decode(self._failure_key, failure, Failure),
            server_time(now),
        )

    def _decode(self, key: str, sealed: bytes | None, kind: type[Any]) -> Any:
        """Return a value, or None where it is missing or broken."""
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

    async def _read(self, seen: Seen, revision: str | None) -> SharedSnapshot | None:
        """Read the shared snapshot, unless a part of it is gone or broken."""
        manifest = seen.manifest
        if manifest is None:
            return None
        began, parts = time.monotonic(), None
        if manifest.revision != revision:
            try:
                parts = await self._read_parts(manifest)
            except Unreadable:
                await self._remove(manifest)
                return None
        return SharedSnapshot(manifest, parts, seen.age_s + time.monotonic() - began)

    async def _raise_failure(self, first: Seen, seen: Seen) -> None:
        """Raise the failure of a refresh that has failed since the first look."""
        failure = seen.failure
        if failure is None or failure.failed_at < first.now:
            return
        await self.give_up()
        kind = _FAILURES.get(failure.type, MessagesUnavailable)
        log.warning(
            "cache.shared.failed",
            reason=failure.reason,
            **{"error.type": kind.__name__},
        )
        raise kind(failure.reason, retry_after_s=failure.retry_after_s)

    async def _read_parts(self, manifest: Manifest) -> tuple[Answer, Resolved]:
        bodies = {
            coding: await self._parts.load(part)
            for coding, part in manifest.answer.items()
        }
        reports = await self._parts.load(manifest.reports)
        headers = answer_headers(manifest.summary, manifest.revision)
        try:
            answer = await asyncio.to_thread(Answer.restored, bodies, JSON, headers)
            return answer, await asyncio.to_thread(_unpack_reports, reports)
        except (KeyError, msgspec.DecodeError, zstandard.ZstdError) as error:
            raise Unreadable from error

    async def _publish(self, snapshot: Snapshot, age_s: float) -> Manifest | None:
        """Store the parts first and the manifest last: who sees it can read them."""
        columns = await snapshot.worker.pack(snapshot.number, snapshot.plan.id)
        packed_columns = await asyncio.to_thread(_compress, columns)
        reports = await asyncio.to_thread(_pack_reports, snapshot.reports)
        answer = {
            coding: await asyncio.to_thread(Packed.of, bytes(body))
            for coding, body in (await snapshot.answer.compressed()).items()
        }
        packed = [*answer.values(), reports, packed_columns]
        if max(each.part.size for each in packed) > MAX_PART_BYTES:
            self._store.log_once("cache.shared.refused", "the period is too large")
            return None
        for each in packed:
            await self._parts.store(each)
        manifest = Manifest(
            revision=snapshot.revision,
            refresh_id=snapshot.refresh_id,
            fetched_at=0.0,
            etag=snapshot.etag,
            digest=snapshot.digest,
            summary=snapshot.summary,
            answer={coding: each.part for coding, each in answer.items()},
            reports=reports.part,
            columns=packed_columns.part,
            columns_bytes=len(columns),
        )
        return await self._show(manifest, age_s)

    async def _show(self, manifest: Manifest, age_s: float) -> Manifest | None:
        """Replace the manifest, unless another process has a younger one."""
        seen = await self._look()
        fetched_at, before = seen.now - age_s, seen.manifest
        if before is not None and fetched_at < before.fetched_at <= seen.now:
            return None
        manifest = msgspec.structs.replace(manifest, fetched_at=fetched_at)
        sealed = seal(self._manifest_key, msgspec.msgpack.encode(manifest))
        kept_ms = int(self._kept_s * 1000)
        await self._store.run(
            lambda pipeline: pipeline.set(self._manifest_key, sealed, px=kept_ms)
        )
        if before is not None:
            await self._parts.drop(before.parts - manifest.parts)
        return manifest

    async def _remove(self, manifest: Manifest) -> None:
        try:
            await self._parts.remove(manifest.parts)
        except StoreAway:
            return

    async def _note_failure(self, error: RefreshFailed) -> None:
        (now,) = await self._store.run(lambda pipeline: pipeline.time())
        failure = Failure(
            type(error).__name__, str(error), error.retry_after_s, server_time(now)
        )
        sealed = seal(self._failure_key, msgspec.msgpack.encode(failure))
        await self._store.run(
            lambda pipeline: pipeline.set(self._failure_key, sealed, px=FAILURE_MS)
        )


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[SharedStore | None]:
    """Open the store of the settings, if there is one; Redis may be away."""
    if not settings.cache.redis_url:
        yield None
        return
    store = SharedStore(settings.cache.redis_url, namespace_of(settings))
    try:
        yield store
    finally:
        await store.close()


def namespace_of(settings: Settings) -> str:
    """Return a prefix of keys that only services with the same answers share."""
    upstream: object = settings.upstream.base_url
    if settings.sandbox.enabled:
        upstream = settings.sandbox
    usage = settings.usage
    decides = [
        *(FORMAT, upstream, sorted(PLANS)),
        *(usage.source, _database_of(settings), usage.plan, usage.on_report_error),
    ]
    digest = blake2b(msgspec.json.encode(decides), digest_size=_DIGEST_BYTES)
    return f"copilot-usage:{digest.hexdigest()}"


def _database_of(settings: Settings) -> list[str]:
    """Return the database that the messages come from, if they do.

    A file is another one on another machine, or below another working directory.
    """
    if settings.usage.source != "events":
        return []
    url = settings.storage.url
    is_file = url.startswith("sqlite")
    return [url, platform.node(), str(Path.cwd())] if is_file else [url]


def _compress(content: bytes) -> Packed:
    return Packed.of(zstandard.ZstdCompressor(level=1).compress(content))


def _decompress(packed: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(packed)


def _pack_reports(resolved: Resolved) -> Packed:
    shared = PackedReports(resolved.reports, resolved.failed)
    return Packed.of(msgspec.msgpack.encode(shared))


def _unpack_reports(packed: bytes) -> Resolved:
    shared = msgspec.msgpack.decode(packed, type=PackedReports)
    return Resolved(shared.reports, shared.failed)
