"""Building of priced messages: prices and encoded items are reused where possible.

Most messages of a refresh are those of the refresh before. An unchanged text keeps its
price, and an unchanged item keeps its bytes in the answer.
"""

from collections.abc import Collection, Iterator, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.usage.pricing.plans import Plan
from service.usage.pricing.text import MAX_BATCH, Flags
from service.usage.snapshots.columns import (
    ANSWER_BEGIN,
    ANSWER_END,
    BY_TEXT,
    COMMA,
    MessageRows,
    PricedMessages,
    Steps,
)
from service.usage.snapshots.errors import TextsMissing
from service.usage.snapshots.matching import NO_ROW, Matched, match
from service.usage.snapshots.memory_files import join
from service.usage.snapshots.messages import Message, Messages
from service.usage.snapshots.parts import Parts
from service.usage.snapshots.quarter_sums import sum_up

MAX_INT32: Final = 2**31 - 1
RATED_AT_ONCE: Final = 16 * MAX_BATCH
ENCODED_AT_ONCE: Final = 16_384
"""More items would be slower to encode: their objects do not fit the caches."""
ETAG_BYTES: Final = 12
"""As in `service.web.http_cache.encodings`, which the child process does not load."""

_encoder: Final = msgspec.json.Encoder()


class ReportPrice(NamedTuple):
    """The name and the price of a report, in hundredths of a credit."""

    name: str
    hundredths: int


class ResolvedReports(NamedTuple):
    """The outcome for each of `Messages.report_keys`, in their order."""

    prices: Sequence[ReportPrice | None]
    """None where the texts price the messages that name the report."""
    failed: Collection[int]
    """Indexes of unavailable reports, where the settings allow these."""


class Built(NamedTuple):
    """Priced messages, and the rows that this build has priced."""

    priced: PricedMessages
    new_rows: MessageRows
    """`(n_new,)` intp: rows with a price that differs from the build before."""


def build(
    messages: Messages,
    reports: ResolvedReports,
    plan: Plan,
    before: PricedMessages | None = None,
    *,
    refresh_id: str = "",
) -> Built:
    """Price every message under a plan, and encode the answer.

    `before` are the messages of the previous build under the same plan. Raises
    `TextsMissing` for messages without texts.
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
        reused = _reuse_prices(priced, matched, before)
        _rate(priced, messages.sent, priced.by_text & ~reused)
        is_unchanged = _find_unchanged(priced, matched.rows, before)
    _set_refresh_ids(priced, is_unchanged, matched.rows, before, refresh_id)
    _set_marks(priced, matched, before, refresh_id)
    reusable = is_unchanged & matched.has_same_time
    kept = _encode(priced, matched.rows, reusable, before)
    _find_items(priced, before, kept)
    _sum_up(priced, before, kept)
    _hash(priced, before, kept)
    return Built(priced, np.flatnonzero(~is_unchanged))


def _price_by_report(
    messages: Messages, reports: ResolvedReports, plan: Plan
) -> PricedMessages:
    """Return the messages with the prices of reports; other messages cost 0."""
    names: dict[str, int] = {}
    # The additional last element is that of `NO_REPORT`, -1.
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


def _reuse_prices(
    priced: PricedMessages, matched: Matched, before: PricedMessages
) -> Flags:
    """Copy the prices of unchanged texts; return the rows with a copied price.

    The result has the shape `(n_messages,)`, bool.
    """
    if before.messages.sent is None:
        return np.zeros(len(priced), np.bool_)
    rows, kept = matched.rows, matched.in_place
    reused: Flags = (rows != NO_ROW) & priced.by_text & before.by_text[rows]
    np.copyto(priced.hundredths, before.hundredths[rows], where=reused)
    # Most rows are in their place, and a slice is copied in a fraction of the time.
    priced.steps = np.empty((len(before.steps), len(rows)), before.steps.dtype)
    priced.steps[:, :kept] = before.steps[:, :kept]
    priced.steps[:, kept:] = before.steps[:, rows[kept:]]
    priced.steps[:, np.flatnonzero(before.by_text[rows] & ~reused)] = 0
    return reused


def _rate(priced: PricedMessages, sent: Parts[Message], needed: Flags) -> None:
    """Price the texts of the `needed` rows by the plan."""
    # Batches bound the memory of the measures.
    all_rows = np.flatnonzero(needed)
    for at in range(0, len(all_rows), RATED_AT_ONCE):
        rows = all_rows[at : at + RATED_AT_ONCE]
        amounts = priced.plan.amounts([each.text for each in sent.take(rows)])
        priced.hundredths[rows] = amounts.sum(axis=0)
        priced.steps = _widen(priced.steps, amounts)
        priced.steps[:, rows] = amounts


def _widen(steps: Steps, amounts: Steps) -> Steps:
    """Return the steps in a dtype that the other amounts fit too."""
    # Only texts of more than 100 million characters need more than 32 bits.
    if (
        steps.dtype == np.int64
        or not amounts.size
        or np.abs(amounts).max() <= MAX_INT32
    ):
        return steps
    return steps.astype(np.int64)


def _find_unchanged(
    priced: PricedMessages, rows: MessageRows, before: PricedMessages
) -> Flags:
    """Return which rows have the same price and source: `(n_messages,)` bool."""
    is_unchanged: Flags = (
        (rows != NO_ROW)
        & (priced.by_text == before.by_text[rows])
        & (priced.hundredths == before.hundredths[rows])
    )
    if before.messages.sent is None:
        # Texts cannot be compared here. A changed text may have the same price, but
        # rarely the same steps.
        is_unchanged &= (priced.steps == before.steps[:, rows]).all(axis=0)
    return is_unchanged


def _set_refresh_ids(
    priced: PricedMessages,
    is_unchanged: Flags,
    rows: MessageRows,
    before: PricedMessages | None,
    refresh_id: str,
) -> None:
    """Set the refresh that logged the price's steps of each message."""
    if before is None:
        priced.refresh_ids = [refresh_id]
        return
    refresh_of = before.refresh_of[rows[is_unchanged]]
    # Only ids in use are kept, or the list would grow with every refresh.
    used = np.flatnonzero(np.bincount(refresh_of))
    place_of = np.zeros(len(before.refresh_ids), np.int32)
    place_of[used] = np.arange(1, len(used) + 1)
    priced.refresh_ids = [refresh_id, *(before.refresh_ids[each] for each in used)]
    priced.refresh_of[is_unchanged] = place_of[refresh_of]


def _set_marks(
    priced: PricedMessages,
    matched: Matched,
    before: PricedMessages | None,
    refresh_id: str,
) -> None:
    """Set the refreshes that last changed values, and the order, of messages."""
    if before is None or not len(before):
        priced.values_since = priced.order_since = refresh_id
        return
    rows, is_matched = matched.rows, matched.rows != NO_ROW
    is_same = matched.has_same_time & _find_same_names(priced, rows, before)
    is_same &= priced.hundredths == before.hundredths[rows]
    by_id = _with_corrected(priced.messages, rows, before.messages)
    has_new_values = bool(((by_id != NO_ROW) & ~(is_matched & is_same)).any())
    priced.values_since = refresh_id if has_new_values else before.values_since
    # Those in their place are in their order, so only the last one is compared.
    others = by_id[max(0, matched.in_place - 1) :]
    is_moved = bool((np.diff(others[others != NO_ROW]) <= 0).any())
    priced.order_since = refresh_id if is_moved else before.order_since


def _with_corrected(
    messages: Messages, rows: MessageRows, before: Messages
) -> MessageRows:
    """Return the rows, and those of previous messages that now have another text."""
    is_gone = np.ones(len(before.ids), np.bool_)
    is_gone[rows[rows != NO_ROW]] = False
    gone, new = np.flatnonzero(is_gone), np.flatnonzero(rows == NO_ROW)
    _, of_gone, of_new = np.intersect1d(
        before.ids[gone], messages.ids[new], return_indices=True
    )
    by_id = rows.copy()
    by_id[new[of_new]] = gone[of_gone]
    return by_id


def _find_same_names(
    priced: PricedMessages, rows: MessageRows, before: PricedMessages
) -> Flags:
    """Return which rows have the same report name: `(n_messages,)` bool."""
    index_of = {name: index for index, name in enumerate(priced.names)}
    indexes = [index_of.get(name, len(index_of)) for name in before.names]
    new_index: NDArray[np.int32] = np.array([*indexes, BY_TEXT], np.int32)
    same: Flags = new_index[before.name_of[rows]] == priced.name_of
    return same


def _encode(
    priced: PricedMessages,
    rows: MessageRows,
    reusable: Flags,
    before: PricedMessages | None,
) -> int:
    """Set the answer; runs of unchanged items are copied from the answer before.

    Returns how many of the first messages are unchanged and in their place.
    """
    if before is not None and len(before):
        reusable = reusable & _find_same_names(priced, rows, before)
    rows = np.where(reusable, rows, NO_ROW)
    runs = list(_runs(rows))
    items = [
        _cut(before, rows[begin], rows[end - 1])
        if before is not None and rows[begin] != NO_ROW
        else encode_items(priced, begin, end)
        for begin, end in runs
    ]
    # One join, because each `+` would copy a large answer.
    pieces: list[bytes | memoryview] = [COMMA] * (2 * len(items) - 1)
    pieces[::2] = items
    priced.answer = join([ANSWER_BEGIN, *pieces, ANSWER_END])
    return runs[0][1] if before is not None and runs and rows[0] == 0 else 0


def _find_items(
    priced: PricedMessages, before: PricedMessages | None, kept: int
) -> None:
    """Set the begins of items, of which the first `kept` have the place of before."""
    if before is None or not kept:
        # Now, because the next refresh needs them at once.
        priced.item_begins = priced.find_items(len(ANSWER_BEGIN))
        return
    begins = before.item_begins[:kept]
    following = priced.find_items(int(before.item_begins[kept]))
    priced.item_begins = np.concatenate([begins, following])


def _sum_up(priced: PricedMessages, before: PricedMessages | None, kept: int) -> None:
    """Set the sums by time, of which the first `kept` messages are in those before."""
    if before is None or len(before) - kept > kept:
        return  # they are added up when they are needed first
    others = slice(kept, None)
    gone, new = (
        sum_up(each.messages.instants[others], each.hundredths[others])
        for each in (before, priced)
    )
    priced.quarter_sums = before.quarter_sums.replace(gone, new)


def _hash(priced: PricedMessages, before: PricedMessages | None, kept: int) -> None:
    """Hash the answer, from the end of the items before where all of them are kept."""
    hashed, at = blake2b(digest_size=ETAG_BYTES), 0
    if before is not None and before.hashed is not None and kept == len(before):
        hashed, at = before.hashed.copy(), len(before.answer) - len(ANSWER_END)
    hashed.update(memoryview(priced.answer)[at : -len(ANSWER_END)])
    priced.hashed = hashed


def encode_items(priced: PricedMessages, begin: int, end: int) -> bytes:
    """Encode the items of a run of rows as JSON, with commas between them."""
    cuts = [*range(begin, end, ENCODED_AT_ONCE), end]
    runs = map(slice, cuts, cuts[1:])
    return COMMA.join([_encoder.encode(priced.items(rows))[1:-1] for rows in runs])


def _cut(before: PricedMessages, first: int, last: int) -> memoryview:
    begins = before.item_begins
    return memoryview(before.answer)[begins[first] : begins[last + 1] - len(COMMA)]


def _runs(rows: MessageRows) -> Iterator[tuple[int, int]]:
    """Yield the bounds of runs: rows that were adjacent before, or are all new."""
    if not len(rows):
        return
    is_new = rows == NO_ROW
    follows = np.where(is_new[1:], is_new[:-1], ~is_new[:-1] & (np.diff(rows) == 1))
    cuts = (np.flatnonzero(~follows) + 1).tolist()
    yield from zip([0, *cuts], [*cuts, len(rows)], strict=True)
