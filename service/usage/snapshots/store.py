"""The store: snapshots by number, and all computation on them.

The store runs in the serving process for a small period, and in a child process for a
large one. All arguments and results can be pickled.

`load` decodes the messages, and `build` makes a snapshot of them. An abandoned refresh
may still compute when the next one has started; its messages are dropped.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import msgspec
import numpy as np

from service.usage.pricing.plans import PLANS_BY_ID
from service.usage.snapshots import chunking, kept, kept_texts, queries, sharing
from service.usage.snapshots.body_hashes import BodyHashes
from service.usage.snapshots.build import Built, ResolvedReports, build
from service.usage.snapshots.columns import (
    Buffer,
    PricedMessages,
    Summary,
)
from service.usage.snapshots.cursors import MessageCursor
from service.usage.snapshots.decoding import read_messages
from service.usage.snapshots.errors import RevisionGone, TextsMissing
from service.usage.snapshots.formats import FORMATS, JSON
from service.usage.snapshots.item_rows import ItemRows, rows_of
from service.usage.snapshots.logged_prices import Priced, PriceLogging, describe
from service.usage.snapshots.messages import (
    Messages,
    MessagesBody,
    ReportKey,
    show_invalid_id,
)
from service.usage.snapshots.outline import encode_outline, make_outline
from service.usage.snapshots.quarter_sums import QuarterSums
from service.usage.snapshots.selection import Selection, select
from service.usage.snapshots.shrink import KnownMessages, Shrink, find_shrink
from service.usage.snapshots.spans import Span, count_earlier, within

T = TypeVar("T")

PlanId = str

_encode: Final = msgspec.json.Encoder().encode


class LoadedMessages(NamedTuple):
    """The number of loaded messages, and the report ids that they name."""

    messages: int
    report_keys: list[ReportKey]
    invalid_ids: list[str]
    """As JSON, cut for the log: a process cannot pickle deeply nested values."""
    digest: str
    shrink: Shrink | None
    earlier: int = 0
    """Messages of the body that precede the span of the snapshot."""


@dataclass(frozen=True)
class Extract:
    """An encoded page, and the cursor of the next one if there is one."""

    # No tuple, because a cache refers to it weakly.

    body: Buffer
    next: MessageCursor | None


class Explained(NamedTuple):
    """The price of one message as JSON, and the refresh that logged its steps."""

    body: bytes
    refresh_id: str


class KeptSnapshot(NamedTuple):
    """Kept data of a snapshot besides its chunks; times in microseconds."""

    chunks: list[kept.ChunkRef]
    texts: list[bytes]
    """The digests of the chunks of texts, or none."""
    outline: bytes
    first_at: int
    last_at: int


def _no_hashes() -> kept.TextHashes:
    return np.zeros(0, np.uint64)


@dataclass(eq=False)
class _StoredSnapshot:
    """One period: its messages, its reports, and its prices by plan."""

    messages: Messages
    whole: Messages
    """All messages of the body, also those of other spans."""
    reports: ResolvedReports
    priced: dict[PlanId, PricedMessages] = field(default_factory=dict)
    earlier: dict[PlanId, PricedMessages] = field(default_factory=dict)
    """Prices of the previous snapshot under plans that have not priced this one."""
    text_hashes: kept.TextHashes = field(default_factory=_no_hashes)
    """Those of the first messages, which the previous snapshot had too."""
    chunked: chunking.Chunked | None = None
    """The chunks, if they were needed."""
    chunked_before: chunking.Chunked | None = None
    """Those of an earlier snapshot, until the chunks of this one are known."""


class _Loaded(NamedTuple):
    """The messages that a snapshot will have, and all those of its body."""

    messages: Messages
    whole: Messages


class SnapshotStore:
    """Snapshots by number."""

    def __init__(self) -> None:
        self._snapshots: dict[int, _StoredSnapshot] = {}
        self._loading = 0
        self._loaded: _Loaded | None = None
        self._abandoned = 0
        # A drop comes from another thread, or from the garbage collector in this one.
        self._changing = threading.RLock()

    def ping(self) -> None:
        """Return, to show that the process is alive."""

    def load(
        self,
        number: int,
        body: MessagesBody | None,
        previous: int | None,
        span: Span | None = None,
        hashes: BodyHashes | None = None,
    ) -> LoadedMessages:
        """Decode the upstream's messages for a snapshot of this number.

        With a span, it has only the messages of the span. The messages of the previous
        snapshot are used for None and for an equal body. `hashes` are those of the
        body, if they are known.

        Raises `msgspec.DecodeError` for a body that violates the contract, and
        `RevisionGone` if the previous messages are gone.
        """
        with self._changing:
            self._loading, self._loaded = number, None
        before = self._snapshots.get(previous) if previous is not None else None
        whole = _read(body, before.whole if before else None, hashes)
        messages = whole if span is None else within(whole, span)
        # During the decoding another refresh may have started, or `drop` come.
        with self._changing:
            if number == self._loading and number > self._abandoned:
                self._loaded = _Loaded(messages, whole)
        return LoadedMessages(
            messages=len(messages.ids),
            report_keys=messages.report_keys,
            invalid_ids=[*map(show_invalid_id, messages.invalid_ids)],
            digest=messages.digest,
            shrink=find_shrink(messages, _known(before)) if before else None,
            earlier=0 if span is None else count_earlier(whole, span),
        )

    def known(self, number: int) -> KnownMessages:
        """Return the columns by which another worker finds a shrink."""
        return _known(self._find(number))

    def find_shrink(self, number: int, known: KnownMessages) -> Shrink | None:
        """Return the shrink of the loaded messages against those of another worker."""
        if number != self._loading or self._loaded is None:
            raise RevisionGone("another refresh has started")
        return find_shrink(self._loaded.messages, known)

    def build(
        self,
        number: int,
        previous: int | None,
        reports: ResolvedReports,
        logging: PriceLogging,
        *,
        plan: PlanId,
    ) -> Priced:
        """Make a snapshot of the messages that were loaded for this number.

        Raises `RevisionGone` if another refresh has started, or this one is abandoned.
        """
        with self._changing:
            if number != self._loading or self._loaded is None:
                raise RevisionGone("another refresh has started")
            (messages, whole), self._loaded = self._loaded, None
        before = self._snapshots.get(previous) if previous is not None else None
        earlier = dict(before.priced) if before else {}
        hashes = _shared_hashes(messages, before)
        snapshot = _StoredSnapshot(messages, whole, reports, {}, earlier, hashes)
        if before is not None:
            snapshot.chunked_before = before.chunked or before.chunked_before
        built = _price(snapshot, plan, logging.refresh_id)
        # `drop` came during the computation, and nobody would drop the snapshot later.
        with self._changing:
            if number <= self._abandoned:
                raise RevisionGone("the refresh was abandoned")
            self._snapshots[number] = snapshot
        return describe(built, logging.max_messages)

    def price(self, number: int, plan: PlanId, logging: PriceLogging) -> Priced:
        """Price a snapshot under another plan; raises `TextsMissing`."""
        snapshot = self._find(number)
        if plan in snapshot.priced:
            priced = snapshot.priced[plan]
            return describe(Built(priced, np.zeros(0, np.intp)), 0)
        if snapshot.messages.sent is None:
            raise TextsMissing
        built = _price(snapshot, plan, logging.refresh_id)
        return describe(built, logging.max_messages)

    def adopt(self, number: int, packed: bytes, *, is_kept: bool = False) -> Summary:
        """Make a snapshot of the packed columns of another process.

        With `is_kept`, of the chunks of a kept period; then it raises `ChunkDamaged`.
        """
        if is_kept:
            priced, reports = kept_texts.restore(packed)
        else:
            priced, reports = sharing.unpack(packed), ResolvedReports((), ())
        prices = {priced.plan.id: priced}
        messages = priced.messages
        snapshot = _StoredSnapshot(messages, messages, reports, prices)
        self._snapshots[number] = snapshot
        return priced.summary

    def pack(self, number: int, plan: PlanId) -> bytes:
        """Return the columns of a snapshot under a plan as bytes."""
        return sharing.pack(self.priced(number, plan))

    def find_chunks(
        self, number: int, plan: PlanId, *, keep_texts: bool = False
    ) -> KeptSnapshot:
        """Return what is kept of a snapshot, but its chunks; raises `TextsMissing`."""
        snapshot = self._find(number)
        priced, sent = self.priced(number, plan), snapshot.messages.sent
        if sent is None:
            raise TextsMissing
        snapshot.text_hashes = hashes = kept.hash_texts(sent, snapshot.text_hashes)
        chunked = chunking.find_chunks(priced, hashes, snapshot.chunked_before)
        snapshot.chunked, snapshot.chunked_before = chunked, None
        outline = make_outline(priced, chunked.chunks)
        chunks = chunked.chunks
        return KeptSnapshot(
            chunks=chunks,
            texts=kept_texts.find_text_digests(chunks, hashes) if keep_texts else [],
            outline=encode_outline(outline),
            first_at=int(outline.chunks.first_at.min()),
            last_at=int(outline.chunks.last_at.max()),
        )

    def encode_chunk(self, number: int, plan: PlanId, begin: int, end: int) -> bytes:
        """Return one of the chunks that `find_chunks` has found, compressed."""
        texts = self._find(number).text_hashes
        return kept.encode_chunk(self.priced(number, plan), texts, begin, end)

    def encode_texts(self, number: int, begin: int, end: int) -> bytes:
        """Return the texts of one of these chunks; raises `TextsMissing`."""
        sent = self._find(number).messages.sent
        if sent is None:
            raise TextsMissing
        return kept_texts.encode_texts(sent, begin, end)

    def run(self, work: Callable[..., T], *args: Any) -> T:
        """Run a function that needs no snapshot, where it delays no event loop."""
        return work(*args)

    def rows(self, number: int, plan: PlanId, begin: int, end: int) -> ItemRows:
        """Return the items of some messages under a plan."""
        return rows_of(self.priced(number, plan), begin, end)

    def messages(self, number: int) -> int:
        """Return the number of messages in a snapshot; raises `RevisionGone`."""
        return len(self._find(number).messages.ids)

    def drop(self, number: int) -> None:
        """Drop a snapshot, or the messages that are loaded for it.

        While it is being built, `build` raises `RevisionGone`.
        """
        with self._changing:
            if number == self._loading:
                self._loaded = None
            # Later refreshes have higher numbers, so the highest one is enough.
            if self._snapshots.pop(number, None) is None:
                self._abandoned = max(self._abandoned, number)

    def answer(self, number: int, plan: PlanId, media_type: str) -> Buffer:
        """Encode the whole period in one of the formats."""
        priced = self.priced(number, plan)
        if media_type == JSON:
            return priced.answer
        return FORMATS[media_type](priced, None)

    def extract(
        self, number: int, plan: PlanId, media_type: str, selection: Selection
    ) -> Extract:
        """Encode a page; raises `CursorExpired`."""
        priced = self.priced(number, plan)
        page = select(priced, selection)
        return Extract(FORMATS[media_type](priced, page.rows), page.next)

    def explain(self, number: int, plan: PlanId, message_id: int) -> Explained:
        """Encode the price of a message; raises `MessageNotFound`."""
        priced = self.priced(number, plan)
        row = queries.row_of(priced, message_id)
        refresh_id = priced.refresh_ids[priced.refresh_of[row]]
        return Explained(_encode(queries.explain(priced, row)), refresh_id)

    def daily(self, number: int, plan: PlanId, zone: str | None) -> bytes:
        """Encode the usage of each day in a time zone, UTC for None."""
        return _encode(queries.daily_usage(self.priced(number, plan), _zone(zone)))

    def by_report(self, number: int, plan: PlanId) -> bytes:
        """Encode the usage of each report."""
        return _encode(queries.usage_by_report(self.priced(number, plan)))

    def priced(self, number: int, plan: PlanId) -> PricedMessages:
        """Return the columns under a plan; raises `RevisionGone`."""
        priced = self._find(number).priced.get(plan)
        if priced is None:
            raise RevisionGone(f"snapshot {number} is not priced under {plan}")
        return priced

    def _find(self, number: int) -> _StoredSnapshot:
        try:
            return self._snapshots[number]
        except KeyError:
            raise RevisionGone(f"snapshot {number} is not in this process") from None


def encode_daily(sums: QuarterSums, zone: str | None) -> bytes | None:
    """Encode the usage of each day in a time zone, UTC for None.

    None if a day of the zone begins within a quarter of an hour.
    """
    found = queries.daily_usage_of(*sums, _zone(zone))
    return None if found is None else _encode(found)


def _zone(name: str | None) -> ZoneInfo | None:
    return None if name is None else ZoneInfo(name)


def _read(
    body: MessagesBody | None, before: Messages | None, hashes: BodyHashes | None
) -> Messages:
    """Return the messages of a body, or the previous ones if it is equal or None."""
    if body is not None:
        return read_messages(body, before, hashes)
    if before is None or before.sent is None:
        raise RevisionGone("the previous messages are gone")
    return before


def _shared_hashes(
    messages: Messages, before: _StoredSnapshot | None
) -> kept.TextHashes:
    """Return the hashes of the texts that the previous snapshot had as well."""
    if before is None or messages.sent is None or before.messages.sent is None:
        return _no_hashes()
    return before.text_hashes[: messages.sent.count_shared(before.messages.sent)]


def _known(snapshot: _StoredSnapshot) -> KnownMessages:
    return KnownMessages(snapshot.messages.ids, snapshot.messages.instants)


def _price(snapshot: _StoredSnapshot, plan: PlanId, refresh_id: str) -> Built:
    """Price a snapshot under a plan, and store the prices in it."""
    # Removed, because old prices would keep whole earlier periods in memory.
    before = snapshot.earlier.pop(plan, None)
    built = build(
        snapshot.messages,
        snapshot.reports,
        PLANS_BY_ID[plan],
        before,
        refresh_id=refresh_id,
    )
    snapshot.priced[plan] = built.priced
    return built
