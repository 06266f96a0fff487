"""Building priced messages: price and encode what is new, and reuse the rest.

A refresh mostly finds what the refresh before found. Rows are matched with the priced
messages before: an unchanged text keeps its price, and an unchanged item its bytes.
"""

from collections.abc import Collection, Iterator, Sequence
from operator import eq
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.usage.pricing.plans import Plan
from service.usage.pricing.text import MAX_BATCH
from service.usage.snapshots.columns import (
    ANSWER_BEGIN,
    ANSWER_END,
    BY_TEXT,
    COMMA,
    Flags,
    PricedMessages,
    Rows,
    Steps,
)
from service.usage.snapshots.errors import TextsMissing
from service.usage.snapshots.messages import Message, Messages

NO_ROW: Final = -1
"""In a column of rows of the priced messages before: there was none."""
MAX_INT32: Final = 2**31 - 1
RATED_AT_ONCE: Final = 16 * MAX_BATCH

_encoder: Final = msgspec.json.Encoder()


class ReportPrice(NamedTuple):
    """The name and the price of a report, in hundredths of a credit."""

    name: str
    hundredths: int


class ResolvedReports(NamedTuple):
    """The outcome for each of `Messages.report_keys`, in their order."""

    prices: Sequence[ReportPrice | None]
    """None where the text prices the messages that name the report."""
    failed: Collection[int]
    """Places of reports that were unavailable, and are allowed to be."""


class Matched(NamedTuple):
    """The rows of the priced messages before, in columns of shape `(n_messages,)`."""

    rows: Rows
    """The row before with the same id and text, or `NO_ROW`."""
    has_same_time: Flags
    """True where the timestamp is the same too."""


class Built(NamedTuple):
    """Priced messages, and which of them this build has priced."""

    priced: PricedMessages
    new_rows: Rows
    """Rows that are not unchanged from the build before."""


def build(
    messages: Messages,
    reports: ResolvedReports,
    plan: Plan,
    before: PricedMessages | None = None,
    *,
    refresh_id: str = "",
) -> Built:
    """Price every message under a plan, and encode the answer.

    `before` has the same plan: its prices and encoded items are reused where nothing
    has changed. Raises `TextsMissing` where the messages came without their texts.
    """
    if messages.sent is None:
        raise TextsMissing
    priced = _price_by_report(messages, reports, plan)
    if before is None or not len(before):
        none = np.full(len(messages.ids), NO_ROW, np.intp)
        matched = Matched(none, none != NO_ROW)
        _rate(priced, messages.sent, priced.by_text)
        is_unchanged = matched.has_same_time
    else:
        matched = match(messages, before.messages)
        reused = _reuse_prices(priced, matched.rows, before)
        _rate(priced, messages.sent, priced.by_text & ~reused)
        is_unchanged = _find_unchanged(priced, matched.rows, before)
    _note_refresh(priced, is_unchanged, matched.rows, before, refresh_id)
    reusable = is_unchanged & matched.has_same_time
    priced.answer = _encode(priced, matched.rows, reusable, before)
    return Built(priced, np.flatnonzero(~is_unchanged))


def match(messages: Messages, before: Messages) -> Matched:
    """Match each message with the one before that has its id and text.

    Upstream mostly appends, so rows are compared in place first; only those that
    differ are looked up by id. Where texts are missing, equal ids are enough.
    """
    count, common = len(messages.ids), min(len(messages.ids), len(before.ids))
    same = _find_same(messages, before, common)
    rows = np.full(count, NO_ROW, np.intp)
    rows[:common][same] = np.flatnonzero(same)
    same_time = np.zeros(count, np.bool_)
    same_time[:common] = same
    moved = [*np.flatnonzero(~same).tolist(), *range(common, len(before.ids))]
    moved_ids = before.ids[np.array(moved, np.intp)].tolist()
    row_by_id = dict(zip(moved_ids, moved, strict=True))
    for row in np.flatnonzero(rows == NO_ROW).tolist():
        old = row_by_id.get(int(messages.ids[row]), NO_ROW)
        if old != NO_ROW and _has_same_text(messages, row, before, old):
            rows[row] = old
            same_time[row] = messages.timestamps[row] == before.timestamps[old]
    return Matched(rows, same_time)


def _find_same(messages: Messages, before: Messages, common: int) -> Flags:
    """Return which of the first rows are the same message in the same place."""
    if messages.sent is not None and before.sent is not None:
        return _equal(messages.sent, before.sent, common)
    same_time = _equal(messages.timestamps, before.timestamps, common)
    same: Flags = same_time & (messages.ids[:common] == before.ids[:common])
    return same


def _equal(left: Sequence[object], right: Sequence[object], count: int) -> Flags:
    return np.fromiter(map(eq, left[:count], right[:count]), np.bool_, count)


def _has_same_text(messages: Messages, row: int, before: Messages, old: int) -> bool:
    if messages.sent is None or before.sent is None:
        return True
    return messages.sent[row].text == before.sent[old].text


def _price_by_report(
    messages: Messages, reports: ResolvedReports, plan: Plan
) -> PricedMessages:
    """Return the messages with the prices that reports set; the others cost 0."""
    names: dict[str, int] = {}
    # One element more: `NO_REPORT` reads the last.
    cost = np.array([*(each.hundredths if each else 0 for each in reports.prices), 0])
    places = [
        names.setdefault(each.name, len(names)) if each else BY_TEXT
        for each in reports.prices
    ]
    name = np.array([*places, BY_TEXT], np.int32)
    failed = np.zeros(len(cost), np.bool_)
    failed[list(reports.failed)] = True
    count, name_of = len(messages.ids), name[messages.report_of]
    return PricedMessages(
        messages=messages,
        plan=plan,
        hundredths=cost.astype(np.int64)[messages.report_of],
        steps=np.zeros((len(plan.steps), count), np.int32),
        names=list(names),
        name_of=name_of,
        by_text=name_of == BY_TEXT,
        refresh_ids=[],
        refresh_of=np.zeros(count, np.int32),
        degraded=int(np.count_nonzero(failed[messages.report_of])),
    )


def _reuse_prices(priced: PricedMessages, rows: Rows, before: PricedMessages) -> Flags:
    """Copy prices of unchanged texts; return the rows that have one now."""
    if before.messages.sent is None:
        return np.zeros(len(priced), np.bool_)
    reused: Flags = (rows != NO_ROW) & priced.by_text & before.by_text[rows]
    np.copyto(priced.hundredths, before.hundredths[rows], where=reused)
    priced.steps = before.steps[:, rows]
    priced.steps *= reused
    return reused


def _rate(priced: PricedMessages, sent: Sequence[Message], needed: Flags) -> None:
    """Price texts by the plan, some at a time, so that little memory is needed."""
    all_rows = np.flatnonzero(needed)
    for at in range(0, len(all_rows), RATED_AT_ONCE):
        rows = all_rows[at : at + RATED_AT_ONCE]
        amounts = priced.plan.amounts([sent[row].text for row in rows.tolist()])
        priced.hundredths[rows] = amounts.sum(axis=0)
        priced.steps = _widen(priced.steps, amounts)
        priced.steps[:, rows] = amounts


def _widen(steps: Steps, others: Steps) -> Steps:
    """Return the steps in a type that holds the others too.

    Only texts of more than 100 million characters need more than 32 bits.
    """
    if steps.dtype == np.int64 or not others.size or np.abs(others).max() <= MAX_INT32:
        return steps
    return steps.astype(np.int64)


def _find_unchanged(
    priced: PricedMessages, rows: Rows, before: PricedMessages
) -> Flags:
    """Return the messages that cost the same as before, for the same reason."""
    is_unchanged: Flags = (
        (rows != NO_ROW)
        & (priced.by_text == before.by_text[rows])
        & (priced.hundredths == before.hundredths[rows])
    )
    if before.messages.sent is None:
        # A text that cannot be compared may have changed, and cost the same in all.
        is_unchanged &= (priced.steps == before.steps[:, rows]).all(axis=0)
    return is_unchanged


def _note_refresh(
    priced: PricedMessages,
    is_unchanged: Flags,
    rows: Rows,
    before: PricedMessages | None,
    refresh_id: str,
) -> None:
    """Note for each message the refresh that logged the steps of its price."""
    if before is None:
        priced.refresh_ids = [refresh_id]
        return
    refresh_of = before.refresh_of[rows[is_unchanged]]
    used = np.flatnonzero(np.bincount(refresh_of))
    place_of = np.zeros(len(before.refresh_ids), np.int32)
    place_of[used] = np.arange(1, len(used) + 1)
    priced.refresh_ids = [refresh_id, *(before.refresh_ids[each] for each in used)]
    priced.refresh_of[is_unchanged] = place_of[refresh_of]


def _find_same_names(
    priced: PricedMessages, rows: Rows, before: PricedMessages
) -> Flags:
    """Return the messages whose report name is that of their row before, or none."""
    places = {name: place for place, name in enumerate(priced.names)}
    now = [places.get(name, len(places)) for name in before.names]
    now_of: NDArray[np.int32] = np.array([*now, BY_TEXT], np.int32)
    same: Flags = now_of[before.name_of[rows]] == priced.name_of
    return same


def _encode(
    priced: PricedMessages,
    rows: Rows,
    reusable: Flags,
    before: PricedMessages | None,
) -> bytes:
    """Encode the answer: runs of items cut from the answer before, new ones between."""
    if before is not None and len(before):
        reusable = reusable & _find_same_names(priced, rows, before)
    rows = np.where(reusable, rows, NO_ROW)
    items = [
        _cut(before, rows[begin], rows[end - 1])
        if before is not None and rows[begin] != NO_ROW
        else encode_items(priced, begin, end)
        for begin, end in list(_runs(rows))
    ]
    # One join: each `+` would copy a large answer once more.
    pieces: list[bytes | memoryview] = [COMMA] * (2 * len(items) - 1)
    pieces[::2] = items
    return b"".join([ANSWER_BEGIN, *pieces, ANSWER_END])


def encode_items(priced: PricedMessages, begin: int, end: int) -> bytes:
    """Encode the items of a run of rows as JSON, with commas between them."""
    return _encoder.encode(priced.items(begin, end))[1:-1]


def _cut(before: PricedMessages, first: int, last: int) -> memoryview:
    begins, ends = before.item_bounds
    return memoryview(before.answer)[begins[first] : ends[last]]


def _runs(rows: Rows) -> Iterator[tuple[int, int]]:
    """Yield the bounds of runs: rows that follow one another before, or are all new."""
    if not len(rows):
        return
    is_new = rows == NO_ROW
    follows = np.where(is_new[1:], is_new[:-1], ~is_new[:-1] & (np.diff(rows) == 1))
    cuts = (np.flatnonzero(~follows) + 1).tolist()
    yield from zip([0, *cuts], [*cuts, len(rows)], strict=True)
