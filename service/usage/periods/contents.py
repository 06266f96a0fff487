"""Contents of snapshots on their way to the database, and back to be compared."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from service.usage.periods.changes import PAGE_CHANGES, find_changes, pack_pages
from service.usage.periods.model import Change, SnapshotContent, split_digests
from service.usage.periods.publication import OtherRevision, StoredPages
from service.usage.periods.store import CHUNKS_AT_ONCE, PeriodStore
from service.usage.snapshot import Snapshot
from service.usage.snapshots.kept import ChunkRef, KeptColumns, decode_chunk
from service.usage.snapshots.store import SnapshotStore


class Fetched(NamedTuple):
    """A snapshot, and when its messages were fetched, in microseconds since 1970."""

    snapshot: Snapshot
    at: int


class Difference(NamedTuple):
    """The chunks that only one of a period and a snapshot has."""

    before: list[KeptColumns]
    after: list[KeptColumns]
    new: dict[bytes, bytes]
    """The encoded chunks that are not stored yet, by their digests."""
    is_shared: bool
    """True if a chunk is in both."""


class Contents:
    """Stores and reads the chunks of periods; all methods raise `StorageError`."""

    def __init__(self, store: PeriodStore) -> None:
        self._store = store

    async def compare(
        self, snapshot: Snapshot, content: SnapshotContent, number: int, before: bytes
    ) -> Difference:
        """Return the chunks that differ from those of a period, listed in `before`."""
        new = await self.encode_unknown(snapshot, content, number)
        after = {each.digest: each for each in content.chunks}
        listed = dict.fromkeys(split_digests(before))
        gone = [each for each in listed if each not in after]
        added = [each for each in after if each not in listed]
        old = await self.decode(number, gone)
        stored = await self.decode(number, [each for each in added if each not in new])
        return Difference(
            list(old.values()),
            [stored.get(each) or decode_chunk(new[each]) for each in added],
            new,
            is_shared=not after.keys().isdisjoint(listed),
        )

    async def encode_unknown(
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

    async def decode(
        self, number: int, digests: Sequence[bytes]
    ) -> dict[bytes, KeptColumns]:
        """Return stored chunks; raises `OtherRevision` if one was removed."""
        contents = await self._store.read_chunks(number, digests)
        if len(contents) != len(set(digests)):
            raise OtherRevision("another process has removed a chunk")
        return {digest: decode_chunk(contents[digest]) for digest in digests}

    async def add(self, number: int, contents: dict[bytes, bytes]) -> None:
        """Store chunks in short transactions."""
        rows = list(contents.items())
        for begin in range(0, len(rows), CHUNKS_AT_ONCE):
            await self._store.add_chunks(number, rows[begin : begin + CHUNKS_AT_ONCE])

    async def add_changes(self, number: int, changes: list[Change]) -> StoredPages:
        """Store changes in short transactions."""
        return await self._store.add_pages(number, _packed(changes))

    async def add_first(self, number: int, content: SnapshotContent) -> StoredPages:
        """Store the changes that add all messages, chunk by chunk."""
        return await self._store.add_pages(number, self._added(number, content))

    async def _added(
        self, number: int, content: SnapshotContent
    ) -> AsyncIterator[list[bytes]]:
        for each in content.chunks:
            chunk = await self.decode(number, [each.digest])
            yield await asyncio.to_thread(_pages_added, chunk[each.digest])


async def content_of(fetched: Fetched) -> SnapshotContent:
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


def _pages_of(changes: list[Change]) -> list[bytes]:
    return list(pack_pages(changes))


def _pages_added(chunk: KeptColumns) -> list[bytes]:
    return _pages_of(find_changes((), [chunk]))


async def _packed(changes: list[Change]) -> AsyncIterator[list[bytes]]:
    """Yield the changes in pages."""
    for begin in range(0, len(changes), PAGE_CHANGES):
        some = changes[begin : begin + PAGE_CHANGES]
        yield await asyncio.to_thread(_pages_of, some)
