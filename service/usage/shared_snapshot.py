"""A snapshot as processes share it: a small manifest, and the parts that it names.

The parts are the encoded answer, the resolved reports, and the columns of the snapshot.
The texts of the messages are not shared.
"""

import asyncio
from typing import NamedTuple

import msgspec
import zstandard
from msgspec import Struct

from service.storage.redis_blobs import (
    MAX_BLOB_BYTES,
    Blob,
    BlobContent,
    Blobs,
    BlobUnreadable,
)
from service.usage.reports import Report, Resolved
from service.usage.snapshot import Snapshot, answer_headers
from service.usage.snapshots.columns import Summary
from service.usage.snapshots.formats import JSON
from service.usage.snapshots.messages import ReportKey
from service.usage.snapshots.spans import Span
from service.web.http_cache.encodings import Answer, Coding


class Manifest(Struct, frozen=True):
    """The description of a shared snapshot, and the addresses of its parts."""

    revision: str
    refresh_id: str
    fetched_at: float
    """In seconds, by the clock of Redis."""
    etag: str | None
    digest: str
    summary: Summary
    answer: dict[Coding, Blob]
    reports: Blob
    columns: Blob
    columns_bytes: int
    """The size of the columns before compression."""
    # Below are fields that the manifests of an older version lack.
    span: Span | None = None
    earlier: int = 0

    @property
    def parts(self) -> set[Blob]:
        """Every part."""
        return {*self.answer.values(), self.reports, self.columns}


class SharedSnapshot(NamedTuple):
    """A snapshot that can be adopted; without parts if the process has its revision."""

    manifest: Manifest
    parts: tuple[Answer, Resolved] | None
    age_s: float


class PackedReports(Struct, frozen=True, array_like=True):
    """The resolved reports of a snapshot."""

    reports: dict[ReportKey, Report | None]
    failed: set[ReportKey]


class PackedSnapshot(NamedTuple):
    """The parts of a snapshot, compressed."""

    answer: dict[Coding, BlobContent]
    reports: BlobContent
    columns: BlobContent
    columns_bytes: int

    @property
    def parts(self) -> list[BlobContent]:
        """Every part."""
        return [*self.answer.values(), self.reports, self.columns]

    @property
    def is_too_large(self) -> bool:
        """True where Redis cannot store one of the parts."""
        return max(each.blob.size for each in self.parts) > MAX_BLOB_BYTES

    def manifest_of(self, snapshot: Snapshot) -> Manifest:
        """Return the manifest of these parts, without the time of the fetch."""
        return Manifest(
            revision=snapshot.revision,
            refresh_id=snapshot.refresh_id,
            fetched_at=0.0,
            etag=snapshot.etag,
            digest=snapshot.digest,
            summary=snapshot.summary,
            answer={coding: each.blob for coding, each in self.answer.items()},
            reports=self.reports.blob,
            columns=self.columns.blob,
            columns_bytes=self.columns_bytes,
            span=snapshot.span,
            earlier=snapshot.earlier,
        )


async def pack_snapshot(snapshot: Snapshot) -> PackedSnapshot:
    """Compress the parts of a snapshot, in threads.

    Raises `RevisionGone` or `WorkerLost` where the worker has lost the columns.
    """
    columns = await snapshot.worker.pack(snapshot.number, snapshot.plan.id)
    packed_columns = await asyncio.to_thread(_compress, columns)
    reports = await asyncio.to_thread(_pack_reports, snapshot.reports)
    answer = {
        coding: await asyncio.to_thread(BlobContent.of, bytes(body))
        for coding, body in (await snapshot.answer.compressed()).items()
    }
    return PackedSnapshot(answer, reports, packed_columns, len(columns))


async def read_parts(parts: Blobs, manifest: Manifest) -> tuple[Answer, Resolved]:
    """Return the answer and the reports; raises `BlobUnreadable`."""
    bodies = {
        coding: await parts.load(part) for coding, part in manifest.answer.items()
    }
    reports = await parts.load(manifest.reports)
    headers = answer_headers(manifest.summary, manifest.revision)
    try:
        answer = await asyncio.to_thread(Answer.restored, bodies, JSON, headers)
        return answer, await asyncio.to_thread(_unpack_reports, reports)
    except (KeyError, msgspec.DecodeError, zstandard.ZstdError) as error:
        raise BlobUnreadable from error


async def read_columns(parts: Blobs, manifest: Manifest) -> bytes:
    """Return the packed columns; `BlobUnreadable` where they are gone or broken."""
    compressed = await parts.load(manifest.columns)
    try:
        return await asyncio.to_thread(_decompress, compressed)
    except zstandard.ZstdError as error:
        raise BlobUnreadable from error


def _compress(content: bytes) -> BlobContent:
    return BlobContent.of(zstandard.ZstdCompressor(level=1).compress(content))


def _decompress(compressed: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(compressed)


def _pack_reports(resolved: Resolved) -> BlobContent:
    shared = PackedReports(resolved.reports, resolved.failed)
    return BlobContent.of(msgspec.msgpack.encode(shared))


def _unpack_reports(packed: bytes) -> Resolved:
    shared = msgspec.msgpack.decode(packed, type=PackedReports)
    return Resolved(shared.reports, shared.failed)
