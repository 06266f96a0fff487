"""Contents of snapshots on their way to the database, and back to be compared."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from service.usage.periods import metrics
from service.usage.periods.change_queries import ChangeSums
from service.usage.periods.changes import (
    PackedChanges,
    find_packed_changes,
    find_readable,
    is_message_shared,
)
from service.usage.periods.model import KeptPeriod, SnapshotContent
from service.usage.periods.publication import OtherRevision, StoredPages
from service.usage.periods.statements.kept_credits import (
    RestoredChanges,
    restore_changes,
)
from service.usage.periods.store import CHUNKS_AT_ONCE, PeriodStore
from service.usage.periods.tables import CLOSED
from service.usage.snapshot import Snapshot
from service.usage.snapshots.errors import ChunkDamaged
from service.usage.snapshots.kept import (
    KeptColumns,
    StoredChunk,
    decode_chunks,
)
from service.usage.snapshots.store import SnapshotStore
from service.usage.snapshots.worker import PricingWorker

log = structlog.get_logger()


class Fetched(NamedTuple):
    """A snapshot, and when its messages were fetched, in microseconds since 1970."""

    snapshot: Snapshot
    at: int


@dataclass(frozen=True)
class Difference:
    """The chunks that only one of a period and a snapshot has."""

    old: list[StoredChunk]
    """The chunks of the period alone."""
    added: list[StoredChunk]
    """The chunks of the snapshot alone."""
    new: dict[bytes, bytes]
    """Those of them that are not stored yet, by their digests."""
    is_shared: bool
    """True if a chunk is in both."""
    worker: PricingWorker
    """The worker that compares messages, outside of the event loop."""
    restored: RestoredChanges | None = None
    """The changes by those that are kept, if a chunk of `old` is damaged."""

    async def belongs(self) -> bool:
        """Return whether the period and the snapshot have a message in common."""
        if self.is_shared:
            return True
        if self.restored is not None:
            return self.restored.is_shared
        return await self.worker.run(is_message_shared, self.old, self.added)

    async def find_changes(self) -> PackedChanges:
        """Return the changes from the period to the snapshot."""
        if self.restored is not None:
            return self.restored.packed
        return await self.worker.run(find_packed_changes, self.old, self.added)

    async def messages_before(self) -> list[KeptColumns]:
        """Return the messages of `old`."""
        return await asyncio.to_thread(decode_chunks, self.old)


class Contents:
    """Stores and reads the chunks of periods; all methods raise `StorageError`."""

    def __init__(self, store: PeriodStore) -> None:
        self._store = store

    async def compare(
        self, snapshot: Snapshot, content: SnapshotContent, period: KeptPeriod
    ) -> Difference:
        """Return the chunks that differ from those of a period.

        If one of an open period is damaged, all chunks are new, so that all are stored
        again. Raises `ChunkDamaged` for a closed period.
        """
        number = period.number
        # A list that repeats its messages has some chunks twice.
        after = Counter(each.digest for each in content.chunks)
        listed = Counter(period.digests)
        gone, added = (
            list((listed - after).elements()),
            list((after - listed).elements()),
        )
        old = await self._store.read_chunks(number, gone)
        readable = await snapshot.worker.run(find_readable, list(old.items()))
        restored, known = None, await self._store.known_digests(number)
        if lost := set(gone) - readable:
            await self._check_damaged(period, min(lost))
            restored, known = await self._restore(snapshot, content, period), set()
        new = {
            digest: chunk
            async for digest, chunk in _encode_unknown(snapshot, content, known)
        }
        stored = await self.read(number, [each for each in added if each not in new])
        return Difference(
            [(each, old[each]) for each in gone if each in readable],
            [(each, stored.get(each) or new[each]) for each in added],
            new,
            is_shared=not after.keys().isdisjoint(listed),
            worker=snapshot.worker,
            restored=restored,
        )

    async def _check_damaged(self, period: KeptPeriod, lost: bytes) -> None:
        """Log a chunk that is missing or damaged.

        Raises `OtherRevision` if the period does not list it any more, and
        `ChunkDamaged` for a closed period, whose rows never change.
        """
        current = await self._store.find(period.period)
        if current is None or current.revision != period.revision:
            raise OtherRevision("another process has removed a chunk")
        reason = f"chunk {lost.hex()} is missing or damaged"
        if current.status == CLOSED:
            raise ChunkDamaged(reason)
        metrics.damaged()
        log.error("usage.period_damaged", period=period.period, reason=reason)

    async def _restore(
        self, snapshot: Snapshot, content: SnapshotContent, period: KeptPeriod
    ) -> RestoredChanges:
        """Return the changes to a snapshot, by those that led to the period."""
        kept = [each async for each in self._store.change_sums(period)]
        seen = []
        for each in content.chunks:
            span = content.plan, each.begin, each.end
            rows = await snapshot.worker.query(
                SnapshotStore.rows, snapshot.number, *span
            )
            seen.append(ChangeSums(rows.ids, rows.hundredths))
        restored = await asyncio.to_thread(restore_changes, kept, seen)
        # Ids may begin again in the next period, which is later.
        is_later = content.first_at > period.last_at
        return restored._replace(is_shared=restored.is_shared and not is_later)

    async def add_unknown(
        self, number: int, snapshot: Snapshot, content: SnapshotContent
    ) -> None:
        """Store the chunks of a snapshot that a period lacks, in short transactions."""
        known = await self._store.known_digests(number)
        # A few at a time, because those of a whole period take much memory.
        some: list[StoredChunk] = []
        async for chunk in _encode_unknown(snapshot, content, known):
            some.append(chunk)
            if len(some) == CHUNKS_AT_ONCE:
                await self._store.add_chunks(number, some)
                some = []
        if some:
            await self._store.add_chunks(number, some)

    async def read(self, number: int, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return stored chunks; raises `OtherRevision` if one was removed."""
        contents = await self._store.read_chunks(number, digests)
        if len(contents) != len(set(digests)):
            raise OtherRevision("another process has removed a chunk")
        return {digest: contents[digest] for digest in digests}

    async def add(self, number: int, contents: dict[bytes, bytes]) -> None:
        """Store chunks in short transactions."""
        rows = list(contents.items())
        for begin in range(0, len(rows), CHUNKS_AT_ONCE):
            await self._store.add_chunks(number, rows[begin : begin + CHUNKS_AT_ONCE])

    async def add_changes(self, number: int, changes: PackedChanges) -> StoredPages:
        """Store changes in short transactions."""
        return await self._store.add_pages(number, _batches(changes.pages))

    async def add_first(
        self, worker: PricingWorker, number: int, content: SnapshotContent
    ) -> StoredPages:
        """Store the changes that add all messages, chunk by chunk."""
        added = self._added(worker, number, content)
        return await self._store.add_pages(number, added)

    async def _added(
        self, worker: PricingWorker, number: int, content: SnapshotContent
    ) -> AsyncIterator[list[bytes]]:
        for each in content.chunks:
            chunk = await self.read(number, [each.digest])
            changes = await worker.run(find_packed_changes, (), list(chunk.items()))
            yield changes.pages


async def _encode_unknown(
    snapshot: Snapshot, content: SnapshotContent, known: Collection[bytes]
) -> AsyncIterator[StoredChunk]:
    """Yield the chunks of a snapshot, and those of its texts, that are not known."""
    number, query, done = snapshot.number, snapshot.worker.query, set(known)
    for each in content.chunks:
        if each.digest not in done:
            done.add(each.digest)
            rows = number, content.plan, each.begin, each.end
            yield each.digest, await query(SnapshotStore.encode_chunk, *rows)
    # `texts` is empty if they are not kept.
    for digest, each in zip(content.texts, content.chunks, strict=False):
        if digest not in done:
            done.add(digest)
            span = number, each.begin, each.end
            yield digest, await query(SnapshotStore.encode_texts, *span)


async def _batches(pages: Sequence[bytes]) -> AsyncIterator[list[bytes]]:
    """Yield the pages of one transaction after the other."""
    for begin in range(0, len(pages), CHUNKS_AT_ONCE):
        yield list(pages[begin : begin + CHUNKS_AT_ONCE])


async def content_of(fetched: Fetched, *, keep_texts: bool = False) -> SnapshotContent:
    """Return the chunks and the totals of a snapshot; raises `SnapshotError`."""
    snapshot = fetched.snapshot
    kept = await snapshot.worker.query(
        SnapshotStore.find_chunks,
        snapshot.number,
        snapshot.plan.id,
        keep_texts=keep_texts,
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
        texts=kept.texts,
        outline=kept.outline,
    )
