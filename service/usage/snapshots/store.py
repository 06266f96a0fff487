"""The store: snapshots by number, and all computation on them.

It is plain computation without waiting, so that it can run where it disturbs nobody:
in the serving process for a small period, in a child process for a large one. All
arguments and results can be pickled.

`load` reads messages for a snapshot that `build` then makes; neither changes one that
is there. A refresh that was given up may still compute when the next one has begun:
its messages are dropped.
"""

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.usage.pricing.plans import PLANS_BY_ID
from service.usage.pricing.timestamps import Instants
from service.usage.snapshots import queries, sharing
from service.usage.snapshots.answers import Source, StepTaken
from service.usage.snapshots.build import Built, ResolvedReports, build
from service.usage.snapshots.columns import (
    Buffer,
    PricedMessages,
    Rows,
    Summary,
    to_credits,
)
from service.usage.snapshots.errors import RevisionGone, TextsMissing
from service.usage.snapshots.formats import FORMATS, JSON
from service.usage.snapshots.messages import (
    Body,
    Messages,
    ReportKey,
    digest_of,
    read_messages,
)
from service.usage.snapshots.selection import Cursor, Selection, select

PlanId = str

MAX_INSTANT: Final = 2**63 - 1

_DIGEST_BYTES: Final = 8
_encode: Final = msgspec.json.Encoder().encode


class Shrink(NamedTuple):
    """A list of messages that has lost most of those known before."""

    known: int
    lost: int
    survivors: str
    """A digest of the known messages that are left."""


class Known(NamedTuple):
    """The messages that were known before, as far as a shrink shows by them."""

    ids: NDArray[np.int64]
    instants: Instants


class Loaded(NamedTuple):
    """Messages that were read: their number, and the report ids that they name."""

    messages: int
    report_keys: list[ReportKey]
    invalid_ids: list[Any]
    digest: str
    shrink: Shrink | None


class Logging(NamedTuple):
    """The refresh that prices are logged by, and for how many messages."""

    refresh_id: str
    max_messages: int


class LoggedPrice(NamedTuple):
    """The price of one message, with its steps, for the log."""

    message_id: int
    source: Source
    report_id: ReportKey | None
    credits_used: float
    steps: list[StepTaken]


class Priced(NamedTuple):
    """The totals of a period under a plan, and which messages were priced now."""

    summary: Summary
    reused: int
    logged: list[LoggedPrice]
    """The first messages priced now, as many as were asked for."""
    omitted: int
    """How many more were priced now."""


class Extract(NamedTuple):
    """Selected messages, encoded; and the end of the page if another one follows."""

    body: bytes
    next: Cursor | None


class Explained(NamedTuple):
    """The price of one message as JSON, and the refresh that logged its steps."""

    body: bytes
    refresh_id: str


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """One period: its messages, its reports, and its prices by plan."""

    messages: Messages
    reports: ResolvedReports
    priced: dict[PlanId, PricedMessages] = field(default_factory=dict)
    earlier: dict[PlanId, PricedMessages] = field(default_factory=dict)
    """Prices of the snapshot before, by plans that have not priced this one yet."""


class SnapshotStore:
    """Snapshots by number."""

    def __init__(self) -> None:
        self._snapshots: dict[int, _Snapshot] = {}
        self._loading = 0
        self._loaded: Messages | None = None
        self._given_up = 0

    def ping(self) -> None:
        """Do nothing; an answer shows that the process is alive."""

    def load(self, number: int, body: Body | None, previous: int | None) -> Loaded:
        """Read upstream's messages for a snapshot of this number.

        For None, or a body like the one before, the messages are those of the
        previous snapshot. Raises `msgspec.DecodeError` where they break the contract.
        """
        self._loading, self._loaded = number, None
        before = self._snapshots.get(previous) if previous is not None else None
        messages = _read(body, before.messages if before else None)
        if number == self._loading:
            self._loaded = messages
        return Loaded(
            messages=len(messages.ids),
            report_keys=messages.report_keys,
            invalid_ids=messages.invalid_ids,
            digest=messages.digest,
            shrink=_find_shrink(messages, _known(before)) if before else None,
        )

    def known(self, number: int) -> Known:
        """Return what another worker needs of a snapshot to find a shrink."""
        return _known(self._find(number))

    def find_shrink(self, number: int, known: Known) -> Shrink | None:
        """Compare the messages that were loaded with those of another worker."""
        if number != self._loading or self._loaded is None:
            raise RevisionGone("another refresh has begun")
        return _find_shrink(self._loaded, known)

    def build(
        self,
        number: int,
        previous: int | None,
        reports: ResolvedReports,
        logging: Logging,
        *,
        plan: PlanId,
    ) -> Priced:
        """Make the snapshot of the messages that were loaded for this number."""
        if number != self._loading or self._loaded is None:
            raise RevisionGone("another refresh has begun")
        messages, self._loaded = self._loaded, None
        before = self._snapshots.get(previous) if previous is not None else None
        earlier = dict(before.priced) if before else {}
        snapshot = _Snapshot(messages, reports, {}, earlier)
        built = _price(snapshot, plan, logging.refresh_id)
        if number <= self._given_up:
            raise RevisionGone("the refresh was given up")
        self._snapshots[number] = snapshot
        return _describe(built, logging.max_messages)

    def price(self, number: int, plan: PlanId, logging: Logging) -> Priced:
        """Price a snapshot under one more plan; `TextsMissing` if it has no texts."""
        snapshot = self._find(number)
        if plan in snapshot.priced:
            priced = snapshot.priced[plan]
            return _describe(Built(priced, np.zeros(0, np.intp)), 0)
        if snapshot.messages.sent is None:
            raise TextsMissing
        built = _price(snapshot, plan, logging.refresh_id)
        return _describe(built, logging.max_messages)

    def adopt(self, number: int, packed: bytes) -> Summary:
        """Make a snapshot of columns that another process has packed."""
        priced = sharing.unpack(packed)
        prices = {priced.plan.id: priced}
        snapshot = _Snapshot(priced.messages, ResolvedReports((), ()), prices)
        self._snapshots[number] = snapshot
        return priced.summary

    def pack(self, number: int, plan: PlanId) -> bytes:
        """Return the columns of a snapshot under a plan as bytes."""
        return sharing.pack(self.priced(number, plan))

    def messages(self, number: int) -> int:
        """Return the number of messages in a snapshot; `RevisionGone` without it."""
        return len(self._find(number).messages.ids)

    def drop(self, number: int) -> None:
        """Forget a snapshot that no request needs any more, or one still being built.

        A refresh that was given up may compute on; numbers of later ones are higher.
        """
        if self._snapshots.pop(number, None) is None:
            self._given_up = max(self._given_up, number)

    def answer(self, number: int, plan: PlanId, media_type: str) -> Buffer:
        """Encode the whole period in one of the formats."""
        priced = self.priced(number, plan)
        if media_type == JSON:
            return priced.answer
        return FORMATS[media_type](priced, None)

    def extract(
        self, number: int, plan: PlanId, media_type: str, selection: Selection
    ) -> Extract:
        """Encode a page; `CursorExpired` where the message before it is gone."""
        priced = self.priced(number, plan)
        page = select(priced, selection)
        return Extract(bytes(FORMATS[media_type](priced, page.rows)), page.next)

    def explain(self, number: int, plan: PlanId, message_id: int) -> Explained:
        """Encode the price of a message; `MessageNotFound` without one."""
        priced = self.priced(number, plan)
        row = queries.row_of(priced, message_id)
        refresh_id = priced.refresh_ids[priced.refresh_of[row]]
        return Explained(_encode(queries.explain(priced, row)), refresh_id)

    def daily(self, number: int, plan: PlanId, zone: str | None) -> bytes:
        """Encode the usage of each day in a time zone, UTC for None."""
        found = ZoneInfo(zone) if zone is not None else None
        return _encode(queries.daily_usage(self.priced(number, plan), found))

    def by_report(self, number: int, plan: PlanId) -> bytes:
        """Encode the usage of each report."""
        return _encode(queries.usage_by_report(self.priced(number, plan)))

    def priced(self, number: int, plan: PlanId) -> PricedMessages:
        """Return the columns under a plan that the snapshot was priced by.

        Raises `RevisionGone`.
        """
        priced = self._find(number).priced.get(plan)
        if priced is None:
            raise RevisionGone(f"snapshot {number} is not priced under {plan}")
        return priced

    def _find(self, number: int) -> _Snapshot:
        try:
            return self._snapshots[number]
        except KeyError:
            raise RevisionGone(f"snapshot {number} is not in this process") from None


def _read(body: Body | None, before: Messages | None) -> Messages:
    """Decode a body, unless it is that of the messages before."""
    known = before if before is not None and before.sent is not None else None
    if body is None:
        if known is None:
            raise RevisionGone("the previous messages are gone")
        return known
    digest = digest_of(body)
    if known is not None and digest == known.digest:
        return known
    return read_messages(body, digest)


def _known(snapshot: _Snapshot) -> Known:
    return Known(snapshot.messages.ids, snapshot.messages.instants)


def _find_shrink(messages: Messages, before: Known) -> Shrink | None:
    """Return a shrink where more than half of the messages before are gone.

    It is none where a new period begins: no message is known, and all are later.
    """
    known, common = len(before.ids), min(len(messages.ids), len(before.ids))
    in_place = np.count_nonzero(messages.ids[:common] == before.ids[:common])
    if 2 * in_place >= known:
        return None
    survives = np.isin(before.ids, messages.ids)
    survivors = int(np.count_nonzero(survives))
    if 2 * survivors >= known:
        return None
    is_later = messages.instants.min(initial=MAX_INSTANT) > before.instants.max()
    if not survivors and len(messages.ids) and is_later:
        return None
    digest = blake2b(np.packbits(survives).tobytes(), digest_size=_DIGEST_BYTES)
    return Shrink(known, known - survivors, digest.hexdigest())


def _price(snapshot: _Snapshot, plan: PlanId, refresh_id: str) -> Built:
    """Price a snapshot under a plan, and keep that in it."""
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


def _describe(built: Built, max_logged: int) -> Priced:
    """Return the totals, and the first messages priced now."""
    priced, new = built
    logged = _logged_prices(priced, new[:max_logged])
    return Priced(
        summary=priced.summary,
        reused=len(priced) - len(new),
        logged=logged,
        omitted=len(new) - len(logged),
    )


def _logged_prices(priced: PricedMessages, rows: Rows) -> list[LoggedPrice]:
    messages = priced.messages
    keys = [*messages.report_keys, None]  # NO_REPORT is the last
    return [
        LoggedPrice(
            message_id=int(messages.ids[row]),
            source=priced.source(row),
            report_id=keys[messages.report_of[row]],
            credits_used=to_credits(int(priced.hundredths[row])),
            steps=priced.steps_of(row),
        )
        for row in rows.tolist()
    ]
