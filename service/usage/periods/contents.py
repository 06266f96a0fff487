"""Contents of snapshots on their way to the database, and back to be compared."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.usage.periods.changes import (
    PackedChanges,
    find_packed_changes,
    is_message_shared,
)
from service.usage.periods.model import SnapshotContent, split_digests
from service.usage.periods.publication import OtherRevision, StoredPages
from service.usage.periods.store import CHUNKS_AT_ONCE, PeriodStore
from service.usage.snapshot import Snapshot
from service.usage.snapshots.kept import (
    ChunkRef,
    KeptColumns,
    StoredChunk,
    decode_chunks,
)
from service.usage.snapshots.store import SnapshotStore
from service.usage.snapshots.worker import PricingWorker


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

    async def belongs(self) -> bool:
        """Return whether the period and the snapshot have a message in common."""
        if self.is_shared:
            return True
        return await self.worker.run(is_message_shared, self.old, self.added)

    async def find_changes(self) -> PackedChanges:
        """Return the changes from the period to the snapshot."""
        return await self.worker.run(find_packed_changes, self.old, self.added)

    async def messages_before(self) -> list[KeptColumns]:
        """Return the messages of `old`."""
        return await asyncio.to_thread(decode_chunks, self.old)


class Contents:
    """Stores and reads the chunks of periods; all methods raise `StorageError`."""

    def __init__(self, store: PeriodStore) -> None:
        self._store = store

    async def compare(
        self, snapshot: Snapshot, content: SnapshotContent, number: int, before: bytes
    ) -> Difference:
        """Return the chunks that differ from those of a period, listed in `before`."""
        new = await self.encode_unknown(snapshot, content, number)
        # A list that repeats its messages has some chunks twice.
        after = Counter(each.digest for each in content.chunks)
        listed = Counter(split_digests(before))
        gone, added = (
            list((listed - after).elements()),
            list((after - listed).elements()),
        )
        old = await self.read(number, gone)
        stored = await self.read(number, [each for each in added if each not in new])
        return Difference(
            [(each, old[each]) for each in gone],
            [(each, stored.get(each) or new[each]) for each in added],
            new,
            is_shared=not after.keys().isdisjoint(listed),
            worker=snapshot.worker,
        )

    async def encode_unknown(
        self, snapshot: Snapshot, content: SnapshotContent, number: int
    ) -> dict[bytes, bytes]:
        """Return the chunks that the period does not have yet, by their digests."""
        known = await self._store.known_digests(number)
        missing: dict[bytes, ChunkRef] = {
            each.digest: each for each in content.chunks if each.digest not in known
        }
        encoded = {
            digest: await snapshot.worker.query(
                SnapshotStore.encode_chunk,
                snapshot.number,
                content.plan,
                each.begin,
                each.end,
            )
            for digest, each in missing.items()
        }
        # `texts` is empty if they are not kept.
        for digest, each in zip(content.texts, content.chunks, strict=False):
            if digest not in known and digest not in encoded:
                rows = snapshot.number, each.begin, each.end
                encoded[digest] = await snapshot.worker.query(
                    SnapshotStore.encode_texts, *rows
                )
        return encoded

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
