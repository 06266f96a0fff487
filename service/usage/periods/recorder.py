"""Keeping of periods: each new snapshot is written to the database in the background.

Requests never wait for it. If the database is unavailable, the last snapshot is written
when it is back. Several processes may keep the same period: the database decides which
of them publishes a revision, and the others compare with it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple

import structlog

from service.storage.database import Database
from service.storage.errors import StorageError
from service.usage.errors import WorkerLost
from service.usage.periods import metrics
from service.usage.periods.changes import (
    PAGE_CHANGES,
    find_changes,
    pack_pages,
    shares_message,
)
from service.usage.periods.model import Change, KeptPeriod, SnapshotContent
from service.usage.periods.observer import PeriodObserver, UnobservedPeriods
from service.usage.periods.store import CHUNKS_AT_ONCE, OtherRevision, PeriodStore
from service.usage.snapshot import Snapshot
from service.usage.snapshots.errors import SnapshotError
from service.usage.snapshots.kept import ChunkRef, KeptColumns, decode_chunk
from service.usage.snapshots.store import SnapshotStore

RETRY_S: Final = 5.0
MAX_TRIES: Final = 5
"""Tries against other processes that publish revisions of the same period."""

log = structlog.get_logger()


class Fetched(NamedTuple):
    """A snapshot, and when its messages were fetched, in microseconds since 1970."""

    snapshot: Snapshot
    at: int


class Recorder:
    """Keeps the snapshots of one process; `running_recorder` opens one."""

    def __init__(
        self, database: Database, observer: PeriodObserver | None = None
    ) -> None:
        self._observer = observer or UnobservedPeriods()
        self._store = PeriodStore(database, self._observer)
        self._latest: Fetched | None = None
        self._has_work = asyncio.Event()

    def keep(self, snapshot: Snapshot, fetched_at: int) -> None:
        """Have a snapshot kept soon; a later one replaces one that still waits."""
        if snapshot.has_texts and snapshot.summary.messages:
            self._latest = Fetched(snapshot, fetched_at)
            self._has_work.set()
            metrics.behind_since(fetched_at)

    async def run(self) -> None:
        """Keep one snapshot after the other, until it is cancelled."""
        failed: str | None = None
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            fetched, self._latest = self._latest, None
            if fetched is None:
                continue
            try:
                await self._keep(fetched)
            except (WorkerLost, SnapshotError):
                # Only a later snapshot is in the worker, and it will be kept.
                continue
            except Exception as error:  # noqa: BLE001 - a defect must not end the task
                failed = self._report(failed, error)
                await self._try_again(fetched)
                continue
            failed = None
            if self._latest is None:
                metrics.kept()

    async def _try_again(self, fetched: Fetched) -> None:
        await asyncio.sleep(RETRY_S)
        if self._latest is None:
            self._latest = fetched
        self._has_work.set()

    def _report(self, reported: str | None, error: Exception) -> str:
        """Log a failure once, until keeping succeeds; return its text."""
        text = f"{type(error).__name__}: {error}"
        metrics.failed()
        if text != reported:
            unexpected = {} if isinstance(error, StorageError) else {"exc_info": error}
            log.error(
                "usage.keeping_failed",
                reason=str(error),
                **{"error.type": type(error).__name__},
                **unexpected,
            )
        return text

    async def _keep(self, fetched: Fetched) -> None:
        content = await _content_of(fetched)
        for _ in range(MAX_TRIES):
            period = await self._store.find_open()
            if period is not None and not _is_newer(content, period):
                if _is_same(content, period):
                    await self._observer.confirmed(period)
                return
            with suppress(OtherRevision):
                kept = await self._publish(fetched.snapshot, content, period)
                if kept is not None:
                    await self._observer.confirmed(kept)
                return
        raise OtherRevision("other processes publish all the time")

    async def _publish(
        self, snapshot: Snapshot, content: SnapshotContent, period: KeptPeriod | None
    ) -> KeptPeriod | None:
        """Publish a snapshot as the next revision, or as a period of its own.

        Returns the period; None if the snapshot is doubtful, and so not kept.
        """
        if period is None:
            return await self._open(snapshot, content, None)
        new = await self._encode_unknown(snapshot, content, period.number)
        after = {each.digest: each for each in content.chunks}
        before = period.digests
        is_shared = not after.keys().isdisjoint(before)
        gone = [each for each in dict.fromkeys(before) if each not in after]
        added = [each for each in after if each not in set(before)]
        old = await self._decode(period.number, gone)
        stored = await self._decode(
            period.number, [each for each in added if each not in new]
        )
        now = [stored.get(each) or decode_chunk(new[each]) for each in added]
        then = list(old.values())
        if not is_shared and not await asyncio.to_thread(shares_message, then, now):
            return await self._replace(snapshot, content, period)
        changes = await asyncio.to_thread(find_changes, then, now)
        await self._add(period.number, new)
        pages = await self._store.add_pages(period.number, _packed(changes))
        published = await self._store.publish(period, content, pages)
        await self._store.remove_unlisted(period.number)
        metrics.changed(len(changes))
        log.info(
            "usage.period_kept",
            period=period.period,
            kept_revision=period.revision + 1,
            changes=len(changes),
            credits_before=period.hundredths / 100,
            credits_after=content.hundredths / 100,
            **snapshot.log_values,
        )
        return published

    async def _replace(
        self, snapshot: Snapshot, content: SnapshotContent, period: KeptPeriod
    ) -> KeptPeriod | None:
        """Close a period with which the snapshot has no message in common.

        A snapshot that begins earlier than the period ended is not kept: the upstream
        may have returned an old period again.
        """
        if content.first_at <= period.last_at:
            log.warning(
                "usage.period_doubtful",
                period=period.period,
                begins_on=content.begins_on,
                messages=content.messages,
                **snapshot.log_values,
            )
            metrics.doubted()
            return None
        return await self._open(snapshot, content, period)

    async def _open(
        self, snapshot: Snapshot, content: SnapshotContent, previous: KeptPeriod | None
    ) -> KeptPeriod:
        number = await self._store.next_number()
        new = await self._encode_unknown(snapshot, content, number)
        await self._add(number, new)
        pages = await self._store.add_pages(number, self._added(number, content))
        period = await self._store.open(number, previous, content, pages)
        log.info(
            "usage.period_opened",
            period=period.period,
            closed=previous.period if previous else None,
            messages=content.messages,
            credits_total=content.hundredths / 100,
            **snapshot.log_values,
        )
        return period

    async def _added(
        self, number: int, content: SnapshotContent
    ) -> AsyncIterator[list[bytes]]:
        """Yield the pages of the changes that add all messages, chunk by chunk."""
        for each in content.chunks:
            chunk = await self._decode(number, [each.digest])
            yield await asyncio.to_thread(_pages_added, chunk[each.digest])

    async def _encode_unknown(
        self, snapshot: Snapshot, content: SnapshotContent, number: int
    ) -> dict[bytes, bytes]:
        """Return the chunks that the period does not have yet, by their digests."""
        known = await self._store.known_digests(number)
        missing: dict[bytes, ChunkRef] = {
            each.digest: each for each in content.chunks if each.digest not in known
        }
        return {
            digest: await snapshot.worker.query(
                SnapshotStore.encode_chunk,
                snapshot.number,
                content.plan,
                each.begin,
                each.end,
            )
            for digest, each in missing.items()
        }

    async def _add(self, number: int, contents: dict[bytes, bytes]) -> None:
        rows = list(contents.items())
        for begin in range(0, len(rows), CHUNKS_AT_ONCE):
            await self._store.add_chunks(number, rows[begin : begin + CHUNKS_AT_ONCE])

    async def _decode(
        self, number: int, digests: Sequence[bytes]
    ) -> dict[bytes, KeptColumns]:
        contents = await self._store.read_chunks(number, digests)
        if len(contents) != len(set(digests)):
            raise OtherRevision
        return {digest: decode_chunk(contents[digest]) for digest in digests}


def _pages_of(changes: list[Change]) -> list[bytes]:
    return list(pack_pages(changes))


def _pages_added(chunk: KeptColumns) -> list[bytes]:
    return _pages_of(find_changes((), [chunk]))


async def _packed(changes: list[Change]) -> AsyncIterator[list[bytes]]:
    """Yield the changes in pages."""
    for begin in range(0, len(changes), PAGE_CHANGES):
        some = changes[begin : begin + PAGE_CHANGES]
        yield await asyncio.to_thread(_pages_of, some)


async def _content_of(fetched: Fetched) -> SnapshotContent:
    """Return the chunks and the totals of a snapshot; raises `SnapshotError`."""
    snapshot = fetched.snapshot
    kept = await snapshot.worker.query(
        SnapshotStore.find_chunks, snapshot.number, snapshot.plan.id
    )
    summary = snapshot.summary
    assert summary.begins_on is not None  # noqa: S101 - it has messages
    return SnapshotContent(
        plan=summary.plan,
        first_at=kept.first_at,
        last_at=kept.last_at,
        messages=summary.messages,
        hundredths=round(summary.credits_total * 100),
        degraded=summary.degraded,
        fetched_at=fetched.at,
        begins_on=summary.begins_on,
        chunks=kept.chunks,
        outline=kept.outline,
    )


def _is_newer(content: SnapshotContent, period: KeptPeriod) -> bool:
    """Return whether a snapshot adds something to the period."""
    return content.fetched_at > period.fetched_at and not _is_same(content, period)


def _is_same(content: SnapshotContent, period: KeptPeriod) -> bool:
    return content.digests == period.chunks and content.plan == period.plan


@asynccontextmanager
async def running_recorder(
    database: Database, observer: PeriodObserver | None = None
) -> AsyncIterator[Recorder]:
    """Run a recorder; what it has not written is not lost.

    The next process compares its first snapshot with what is kept.
    """
    recorder = Recorder(database, observer)
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        task.cancel()
        await asyncio.wait([task])
