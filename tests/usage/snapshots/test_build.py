"""An incremental build gives what a build from nothing gives, only with less work.

Histories are generated: one change follows another, each built upon the last. After
every change each answer is the one of a first build, byte for byte.
"""

import gc
import weakref
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.usage.pricing.plans import PLANS, TEXT_RULES, TOKEN_ESTIMATE, Plan
from service.usage.snapshots import build as module
from service.usage.snapshots.build import (
    ReportPrice,
    ResolvedReports,
    build,
)
from service.usage.snapshots.columns import PricedMessages
from service.usage.snapshots.errors import TextsMissing
from service.usage.snapshots.formats import FORMATS
from service.usage.snapshots.queries import daily_usage, explain, usage_by_report
from service.usage.snapshots.selection import SORT_COLUMNS, Selection, select
from service.usage.snapshots.sharing import pack, unpack
from tests.reference import (
    Reports,
    build_of,
    items_of,
    message,
    priced_of,
    prices_of,
    rate,
    read,
    report,
    sendable_texts,
)

Sent = list[dict[str, Any]]
State = tuple[Sent, dict[str, ReportPrice | None]]

SHORT_LEASE: Final = report("7", "Short Lease Report", 61)
TENANTS: Final = report("8", "Tenant Obligations Report", 79.5)

# Prices.


def test_messages_of_failed_reports_are_degraded() -> None:
    """A report that does not exist is no degradation; each message of a failed one is.

    A failed report whose last copy prices its messages does not count.
    """
    messages = read(message(row, report_id=row // 2) for row in range(6))
    resolved = ResolvedReports([None, None, ReportPrice("Lease", 100)], [1])
    priced = build(messages, resolved, TEXT_RULES).priced
    assert priced.degraded == priced.summary.degraded == 2


def test_messages_without_texts_cannot_be_built() -> None:
    """Columns of another process have no texts to price."""
    adopted = unpack(pack(priced_of([message(1)]))).messages
    with pytest.raises(TextsMissing):
        build(adopted, ResolvedReports((), ()), TOKEN_ESTIMATE)


# Rows that a build prices, and rows that it reuses.

A, B = message(1, "a"), message(2, "rent rent")
C, D = message(3, "x", report_id=7), message(4, "y", report_id=8)
PERIOD: Final = [A, B, C, D]
REPORTS: Final = {**SHORT_LEASE, **TENANTS}


@pytest.mark.parametrize(
    "messages, reports, new_rows",
    [
        (PERIOD, REPORTS, []),
        ([*PERIOD, message(5)], REPORTS, [4]),
        ([message(5), *PERIOD], REPORTS, [0]),
        ([A, message(5), B, C, D], REPORTS, [1]),
        ([D, C, B, A], REPORTS, []),
        ([B, D], REPORTS, []),
        ([], REPORTS, []),
        ([A | {"text": "b"}, B, C, D], REPORTS, [0]),
        ([A, B, C, D | {"text": "z"}], REPORTS, [3]),
        ([D, B, C, A | {"text": "b"}], REPORTS, [3]),
        ([A | {"timestamp": "2024-05-01"}, B, C, D], REPORTS, []),
        ([A | {"report_id": 7}, B, C, D], REPORTS, [0]),
        ([A, B, C, message(4, "y")], REPORTS, [3]),
        ([A, B, C | {"report_id": "7"}, D], REPORTS, []),
        (PERIOD, TENANTS, [2]),
        (PERIOD, {}, [2, 3]),
        (PERIOD, {**TENANTS, **report("7", "Short Lease Report", 62)}, [2]),
        ([A | {"id": 5}, B, C, D], REPORTS, [0]),
        ([*PERIOD, *PERIOD], REPORTS, [4, 5, 6, 7]),
    ],
    ids=[
        *("same", "appended", "prepended", "inserted", "reversed", "fewer", "none"),
        *("text changed", "report's text changed", "moved and changed"),
        *("timestamp changed", "report gained", "report lost", "report id rewritten"),
        *("report missing", "reports missing", "report costs more", "id changed"),
        "twice",
    ],
)
def test_only_changed_rows_are_new(
    messages: Sent, reports: Reports, new_rows: list[int]
) -> None:
    """Rows priced alike before are reused; the others are listed, and right."""
    before = priced_of(PERIOD, REPORTS)
    built = build_of(messages, reports, before=before)
    assert built.new_rows.tolist() == new_rows
    assert_same(built.priced, priced_of(messages, reports))


def test_known_text_is_not_priced_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the texts of new rows are given to the plan."""
    before = priced_of(PERIOD, REPORTS)
    priced_texts: list[str] = []
    amounts_of_all: Callable[..., Any] = Plan.amounts

    def amounts(self: Plan, texts: list[str]) -> Any:
        priced_texts.extend(texts)
        return amounts_of_all(self, texts)

    monkeypatch.setattr(Plan, "amounts", amounts)
    priced_of([message(5, "new"), *PERIOD], REPORTS, before=before)
    assert priced_texts == ["new"]


def test_unchanged_period_is_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second answer of the same period is cut from the first, whole."""
    messages = [message(n, "rent", report_id=7) for n in range(50)]
    before = priced_of(messages, SHORT_LEASE)
    monkeypatch.setattr(module, "encode_items", None)

    built = build_of(messages, SHORT_LEASE, before=before)

    assert built.new_rows.tolist() == []
    assert built.priced.answer == before.answer


def test_adopted_columns_are_built_upon() -> None:
    """Without the previous texts all texts are priced, but only changes are new."""
    before = unpack(pack(priced_of(PERIOD, REPORTS)))
    built = build_of([*PERIOD, message(5, "new")], REPORTS, before=before)
    assert built.new_rows.tolist() == [4]
    assert_same(built.priced, priced_of([*PERIOD, message(5, "new")], REPORTS))


# Refreshes that logged a price.


def test_each_message_names_the_refresh_that_priced_it() -> None:
    """A reused price keeps the refresh that logged its steps; unused ones are gone."""
    first = build_of([A, B], refresh_id="first").priced
    second = build_of([A, B, C], before=first, refresh_id="second").priced
    third = build_of(
        [B, C | {"text": "z"}, D], before=second, refresh_id="third"
    ).priced
    assert refreshes_of(first) == ["first"] * 2
    assert refreshes_of(second) == ["first", "first", "second"]
    assert refreshes_of(third) == ["first", "third", "third"]
    assert third.refresh_ids == ["third", "first"]


def refreshes_of(priced: PricedMessages) -> list[str]:
    return [priced.refresh_ids[place] for place in priced.refresh_of.tolist()]


def test_refreshes_are_bounded_by_messages() -> None:
    """A year of refreshes that change nothing leaves one id, and one spare."""
    priced = build_of([A, B], refresh_id="0").priced
    for number in range(1, 50):
        priced = build_of([A, B], before=priced, refresh_id=f"{number}").priced
    assert priced.refresh_ids == ["49", "0"]


# Amounts of more than 32 bits.


def huge_steps(monkeypatch: pytest.MonkeyPatch, texts: set[str]) -> None:
    """Let some texts cost what no int32 holds: real ones would take gigabytes."""
    amounts_of_all: Callable[..., Any] = Plan.amounts

    def amounts(self: Plan, priced: list[str]) -> Any:
        factor = np.where([text in texts for text in priced], 2**33, 1)
        return amounts_of_all(self, priced) * factor

    monkeypatch.setattr(Plan, "amounts", amounts)


def test_huge_steps_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are kept in 64 bits where one needs them, also when they are reused."""
    huge_steps(monkeypatch, {"huge"})
    monkeypatch.setattr(module, "RATED_AT_ONCE", 2)
    small = [message(n, "Hi") for n in range(4)]
    before = priced_of(small)
    first = priced_of([*small, message(9, "huge")], before=before)
    again = priced_of([message(9, "huge"), message(10), *small], before=first)
    back = priced_of(small, before=again)

    assert [str(each.steps.dtype) for each in (before, first)] == ["int32", "int64"]
    for priced in (before, first, again, back):
        assert (priced.steps.sum(axis=0) == priced.hundredths).all()
    assert first.hundredths[4] == again.hundredths[0] >= 100 * 2**33
    assert_same(unpack(pack(again)), again)


# Generated periods.


def priced_rows(priced: PricedMessages) -> list[tuple[Any, ...]]:
    messages = priced.messages
    assert messages.sent is not None
    texts, sources = (
        [each.text for each in messages.sent],
        map(priced.source, range(len(priced))),
    )
    columns = (messages.ids.tolist(), texts, sources, prices_of(priced))
    return list(zip(*columns, strict=True))


# Generated histories.

REPORT_IDS: Final[tuple[Any, ...]] = (7, "7", 8, "x/9", 404, None, 1.5, [])
NAMES: Final = ("Lease", "Tenants", 'a {"m" in it', 'ends in {"', "Prüfung 🏠", "")

resolved_reports = st.builds(
    lambda prices, names: {
        key: ReportPrice(name, price)
        for key, name, price in zip(("7", "8", "x/9"), names, prices, strict=True)
        if price is not None
    },
    st.tuples(*[st.sampled_from([None, 0, 100, 6100, 250])] * 3),
    st.tuples(*[st.sampled_from(NAMES)] * 3),
)


@st.composite
def some_messages(draw: st.DrawFn) -> Sent:
    """A few messages of few ids, so that some are duplicates or come again."""
    texts = st.sampled_from(["a", "rent rent", '{"m":1},{"m']) | sendable_texts
    times = st.sampled_from(["2024-04-29", "2024-05-01T12:00:00+02:00"])
    made = []
    for message_id in draw(st.lists(st.integers(-2, 9), max_size=5)):
        fields = {"timestamp": draw(times)}
        if draw(st.booleans()):
            fields["report_id"] = draw(st.sampled_from(REPORT_IDS))
        made.append(message(message_id, draw(texts), **fields))
    return made


def change_one(sent: Sent, new: Sent, at: int) -> Sent:
    """Give the message at a place another text, price and time."""
    at = at % max(1, len(sent))
    return [*sent[:at], *new[:1], *sent[at + 1 :]]


def remove_some(sent: Sent, new: Sent, at: int) -> Sent:
    """Remove some messages from a place on."""
    return [*sent[:at], *sent[at + len(new) :]]


def add_some(sent: Sent, new: Sent, at: int) -> Sent:
    """Add messages at the end, at the beginning or between."""
    return [*sent[:at], *new, *sent[at:]]


def reorder(sent: Sent, _new: Sent, at: int) -> Sent:
    """Put the same messages in another order."""
    return [*sent[at:], *reversed(sent[:at])]


def duplicate(sent: Sent, _new: Sent, at: int) -> Sent:
    """Repeat a part."""
    return [*sent, *sent[:at]]


Change = Callable[[Sent, Sent, int], Sent]
History = list[tuple[Change, Sent, int, dict[str, ReportPrice | None] | None]]
changes = st.sampled_from((change_one, remove_some, add_some, reorder, duplicate))
histories = st.lists(
    st.tuples(
        changes, some_messages(), st.integers(0, 8), st.none() | resolved_reports
    ),
    max_size=8,
)
first_states = st.tuples(some_messages(), resolved_reports)


def states_of(first: State, history: History) -> list[State]:
    """Return the first state of a period, and the state after each change."""
    states = [first]
    for change, new, at, changed in history:
        sent, reports = states[-1]
        states.append((change(sent, new, at), reports if changed is None else changed))
    return states


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@given(history=histories, first=first_states)
def test_incremental_build_answers_like_a_first_one(
    plan: Plan, first: State, history: History
) -> None:
    """Whatever happens to a period, nothing of the past shows in any answer."""
    before = None
    for state in states_of(first, history):
        before = priced_of(*state, plan=plan, before=before)
        assert_same(before, priced_of(*state, plan=plan))
        assert_prices_are_right(state, before)


@given(history=histories, first=first_states)
def test_row_is_new_only_if_it_has_changed(first: State, history: History) -> None:
    """A row without its like before is always new; one with only its like never is."""
    state, *states = states_of(first, history)
    before = priced_of(*state)
    for state in states:
        built = build_of(*state, before=before)
        assert_new_rows_are_right(built.priced, set(built.new_rows.tolist()), before)
        before = built.priced


def assert_same(priced: PricedMessages, expected: PricedMessages) -> None:
    """Compare the columns, and the answer to every query."""
    for to_format in FORMATS.values():
        assert bytes(to_format(priced, None)) == to_format(expected, None)
    assert priced.summary == expected.summary
    assert priced.names == expected.names
    assert priced.hundredths.tolist() == expected.hundredths.tolist()
    assert priced.steps.tolist() == expected.steps.tolist()
    for row in range(len(expected)):
        assert explain(priced, row) == explain(expected, row)
    assert daily_usage(priced) == daily_usage(expected)
    assert usage_by_report(priced) == usage_by_report(expected)
    for column in SORT_COLUMNS:
        selection = Selection(sort=((column, True),))
        rows = select(expected, selection).rows
        assert select(priced, selection).rows.tolist() == rows.tolist()
        assert priced.encoded_items(rows) == expected.encoded_items(rows)


def assert_prices_are_right(state: State, priced: PricedMessages) -> None:
    """Compare every item with what the reference makes of its message."""
    messages, reports = state
    by_text = rate(priced.plan, (sent["text"] for sent in messages))
    expected = []
    for sent, hundredths in zip(messages, by_text, strict=True):
        item = {"message_id": sent["id"], "timestamp": sent["timestamp"]}
        given_id = sent.get("report_id")
        found = reports.get(str(given_id)) if isinstance(given_id, int | str) else None
        named = {"report_name": found.name} if found else {}
        cost = found.hundredths if found else hundredths
        expected.append({**item, **named, "credits_used": cost / 100})
    assert items_of(priced) == expected


def assert_new_rows_are_right(
    priced: PricedMessages, new_rows: set[int], before: PricedMessages
) -> None:
    """Compare by id, text, source and price, as far as those tell messages apart."""
    known = priced_rows(before)
    ids_before, ids = before.messages.ids.tolist(), priced.messages.ids.tolist()
    for row, own in enumerate(priced_rows(priced)):
        is_unique = ids_before.count(own[0]) == ids.count(own[0]) == 1
        if own not in known:
            assert row in new_rows
        elif is_unique:
            assert row not in new_rows


# Memory.


def test_builds_do_not_keep_those_before_alive() -> None:
    """A year of refreshes keeps one build, not all of them."""
    first = priced_of([message(1), message(2)])
    reference = weakref.ref(first)

    second = priced_of([message(1), message(3)], before=first)
    del first
    gc.collect()

    assert reference() is None
    assert len(second) == 2
