"""Pricing a period: what is new is rated and encoded, the rest is taken over.

A refresh mostly finds what the last one found. Rows are matched with the ledger
before; an unchanged text keeps its price, and an unchanged item its bytes.
"""

from collections.abc import Iterator
from operator import eq
from typing import Final, NamedTuple

import msgspec
import numpy as np

from service.usage.ledger import (
    ANSWER_BEGIN,
    ANSWER_END,
    BY_TEXT,
    Flags,
    Ledger,
    Messages,
    Prices,
    Rows,
)
from service.usage.model import Message, UsageItem
from service.usage.rating import Hundredths, Plan
from service.usage.reports import Settled

NO_ROW: Final = -1
"""In a column of rows of the ledger before: there was none."""

_encoder: Final = msgspec.json.Encoder()


class Carried(NamedTuple):
    """What a ledger takes over from the one before, in columns with a row a message."""

    rows: Rows
    """The row of the ledger before with the same id and text, or `NO_ROW`."""
    is_priced: Flags
    """Priced by text now and before: the price holds."""
    is_unchanged: Flags
    """Of the same price and source: there is nothing to log."""
    items: Rows
    """The row of the ledger before whose encoded item holds, or `NO_ROW`."""


def price(
    messages: Messages, settled: Settled, plan: Plan, before: Ledger | None = None
) -> Ledger:
    """Price every message, and encode the answer.

    `settled` holds every report key of `messages`. `before` is the last ledger of the
    same plan: what it has priced and encoded is taken over where nothing has changed.
    """
    prices = _price_by_report(messages, settled)
    carried = _carry(prices, before)
    if before is not None:
        old_rows = carried.rows[carried.is_priced]
        prices.hundredths[carried.is_priced] = before.hundredths[old_rows]
    rows = np.flatnonzero(prices.by_text & ~carried.is_priced)
    texts = [messages.all[row].text for row in rows.tolist()]
    prices.hundredths[rows] = plan.rate(texts)
    return Ledger(
        plan=plan,
        messages=messages,
        hundredths=prices.hundredths,
        names=prices.names,
        name_of=prices.name_of,
        fresh=np.flatnonzero(~carried.is_unchanged),
        settled=settled,
        answer=_encode(prices, carried, before),
    )


def encode_items(prices: Prices, begin: int, end: int) -> bytes:
    """The items of a run of rows as JSON, with commas between them."""
    items = list(map(UsageItem, *prices.columns(begin, end)))
    return _encoder.encode(items)[1:-1]


def _price_by_report(messages: Messages, settled: Settled) -> Prices:
    """Prices of the rows that a report prices; the others stay 0."""
    rows, places, keys, _ = messages.references
    names: dict[str, int] = {}
    reports = [settled.reports[key] for key in keys]
    cost = np.array(
        [report.hundredths if report else 0 for report in reports], np.int64
    )
    name = np.array(
        [
            names.setdefault(report.name, len(names)) if report else BY_TEXT
            for report in reports
        ],
        np.int32,
    )
    hundredths: Hundredths = np.zeros(len(messages.all), np.int64)
    hundredths[rows] = cost[places]
    name_of = np.full(len(messages.all), BY_TEXT, np.int32)
    name_of[rows] = name[places]
    return Prices(
        messages=messages, hundredths=hundredths, names=list(names), name_of=name_of
    )


def _carry(prices: Prices, before: Ledger | None) -> Carried:
    """Compare a period, priced as far as reports go, with the ledger before."""
    count = len(prices.name_of)
    if before is None or not len(before):
        none = np.full(count, NO_ROW, np.intp)
        return Carried(none, np.zeros(count, np.bool_), np.zeros(count, np.bool_), none)
    rows, is_equal = _rows_before(prices.messages.all, before.messages.all)
    was_here, by_text, was_by_text = (
        rows != NO_ROW,
        prices.by_text,
        before.by_text[rows],
    )
    is_priced = was_here & by_text & was_by_text
    same_price = prices.hundredths == before.hundredths[rows]
    by_report = was_here & ~by_text & ~was_by_text & same_price
    is_unchanged = is_priced | by_report
    holds = is_unchanged & is_equal & _same_name(prices, before, rows)
    return Carried(rows, is_priced, is_unchanged, np.where(holds, rows, NO_ROW))


def _same_name(prices: Prices, before: Ledger, rows: Rows) -> Flags:
    """Whether a row's report name is that of its row before, or neither has one."""
    places = {name: place for place, name in enumerate(prices.names)}
    places_now = [places.get(name, len(places)) for name in before.names]
    now_of = np.array([*places_now, BY_TEXT], np.int32)  # BY_TEXT is the last
    same: Flags = now_of[before.name_of[rows]] == prices.name_of
    return same


def _rows_before(messages: list[Message], before: list[Message]) -> tuple[Rows, Flags]:
    """Each message's row before (same id and text), and whether it was equal in all.

    Upstream mostly appends, so rows are compared in place first; only those that
    differ are looked up by id.
    """
    common = min(len(messages), len(before))
    rows = np.full(len(messages), NO_ROW, np.intp)
    is_equal = np.zeros(len(messages), np.bool_)
    same = np.fromiter(map(eq, messages[:common], before[:common]), np.bool_, common)
    rows[:common] = np.where(same, np.arange(common), NO_ROW)
    is_equal[:common] = same
    elsewhere = [*np.flatnonzero(~same).tolist(), *range(common, len(before))]
    by_id = {before[row].id: row for row in elsewhere}
    for row in np.flatnonzero(~is_equal).tolist():
        message = messages[row]
        old = by_id.get(message.id, NO_ROW)
        if old != NO_ROW and before[old].text == message.text:
            rows[row] = old
            is_equal[row] = before[old].timestamp == message.timestamp
    return rows, is_equal


def _encode(prices: Prices, carried: Carried, before: Ledger | None) -> bytes:
    """The answer: runs of items cut from the answer before, and new ones between."""
    items = b",".join(
        _carried_items(before, carried.items[begin], carried.items[end - 1])
        if before is not None and carried.items[begin] != NO_ROW
        else encode_items(prices, begin, end)
        for begin, end in _runs(carried.items)
    )
    return ANSWER_BEGIN + items + ANSWER_END


def _carried_items(before: Ledger, first: int, last: int) -> memoryview:
    begins, ends = before.item_bounds
    return memoryview(before.answer)[begins[first] : ends[last]]


def _runs(rows: Rows) -> Iterator[tuple[int, int]]:
    """Where rows follow one another in the ledger before, or were all not in it."""
    if not len(rows):
        return
    is_new = rows == NO_ROW
    follows = np.where(is_new[1:], is_new[:-1], ~is_new[:-1] & (np.diff(rows) == 1))
    cuts = (np.flatnonzero(~follows) + 1).tolist()
    yield from zip([0, *cuts], [*cuts, len(rows)], strict=True)
