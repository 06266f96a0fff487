"""Cursors while the period changes: no message is skipped or repeated unnoticed."""

from collections import Counter
from typing import Any

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from service.usage.pricing.plans import TEXT_RULES
from service.usage.snapshots.build import ReportPrice, ResolvedReports, build
from service.usage.snapshots.columns import PricedMessages
from service.usage.snapshots.cursors import MessageCursor, Sort
from service.usage.snapshots.decoding import read_messages
from service.usage.snapshots.errors import CursorExpired
from service.usage.snapshots.selection import Selection, select

TEXTS = ("", "Rent?", "rent rent", "What is the rent? " * 3)
REPORTS = (None, 7, 8)
SORTS: tuple[Sort, ...] = (
    (),
    (("credits_used", True),),
    (("report_name", False), ("credits_used", True)),
    (("timestamp", True),),
    (("message_id", False),),
)

Item = dict[str, Any]

items = st.builds(
    lambda number, text, minute, report: {
        "id": number,
        "text": text,
        "timestamp": f"2024-05-01T00:{minute:02}:00.000Z",
        **({} if report is None else {"report_id": report}),
    },
    st.integers(1, 9),
    st.sampled_from(TEXTS),
    st.integers(0, 9),
    st.sampled_from(REPORTS),
)


@st.composite
def edited(draw: st.DrawFn, period: list[Item]) -> list[Item]:
    """Return a period after some of its messages were removed, changed or added."""
    kept = [each for each in period if draw(st.integers(0, 5))]
    changed = [
        each if draw(st.integers(0, 5)) else {**each, **draw(items), "id": each["id"]}
        for each in kept
    ]
    for added in draw(st.lists(items, max_size=3)):
        changed.insert(draw(st.integers(0, len(changed))), added)
    return changed


def common(period: list[Item], other: list[Item]) -> list[tuple[Any, Any]]:
    """Return the messages that both have, in the order of the first."""
    known = {(each["id"], each["timestamp"]) for each in other}
    listed = [(each["id"], each["timestamp"]) for each in period]
    return [each for each in listed if each in known]


def price(
    period: list[Item],
    costs: tuple[int, int],
    number: int,
    before: PricedMessages | None,
) -> PricedMessages:
    """Price a period by the reports 7 and 8, which cost so much, in a new refresh."""
    messages = read_messages(msgspec.json.encode({"messages": period}))
    known = {"7": ReportPrice("Lease", costs[0]), "8": ReportPrice("Title", costs[1])}
    resolved = ResolvedReports([known[key] for key in messages.report_keys], ())
    return build(
        messages, resolved, TEXT_RULES, before, refresh_id=f"refresh {number}"
    ).priced


def contents(
    priced: PricedMessages, rows: list[int]
) -> list[tuple[int, str, int, str]]:
    """Return what a client sees of each message."""
    names = [*priced.names, ""]
    return [
        (
            int(priced.messages.ids[row]),
            priced.messages.timestamps[row],
            int(priced.hundredths[row]),
            names[priced.name_of[row]],
        )
        for row in rows
    ]


@given(
    st.lists(items, min_size=2, max_size=12),
    st.data(),
    st.sampled_from(SORTS),
    st.integers(1, 4),
)
@settings(max_examples=200, deadline=None)
def test_messages_that_stay_come_exactly_once(
    period: list[Item], data: st.DataObject, sort: Sort, limit: int
) -> None:
    """Over all pages, or the cursor has expired, also in a process without history.

    In the order of the period, a message that changes its place may be missed.
    """
    costs = st.tuples(st.sampled_from((4_000, 6_000)), st.sampled_from((4_000, 9_000)))
    before = price(period, data.draw(costs), 1, None)
    first = select(before, Selection(sort=sort, limit=limit))
    if first.next is None:
        return
    now, restarts = data.draw(edited(period)), data.draw(st.booleans())
    assume(sort or common(period, now) == common(now, period))
    after = price(now, data.draw(costs), 2, None if restarts else before)
    cursor = msgspec.convert(msgspec.to_builtins(first.next), MessageCursor)
    try:
        rest = select(after, Selection(sort=sort, cursor=cursor))
    except CursorExpired:
        return
    seen = Counter(contents(before, first.rows.tolist()))
    seen.update(contents(after, rest.rows.tolist()))
    whole_before = Counter(contents(before, list(range(len(before)))))
    whole_after = Counter(contents(after, list(range(len(after)))))
    for message in whole_before & whole_after:
        if whole_before[message] == whole_after[message]:
            assert seen[message] == whole_after[message], message
