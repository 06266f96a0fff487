"""Pricing with a ledger before is pricing from scratch, only with less work.

Periods here live a life: one change follows another, each priced upon the last. After
every change the answer is what pricing afresh gives, byte for byte.
"""

import gc
import weakref
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.usage.formats import FORMATS
from service.usage.ledger import ANSWER_BEGIN, ANSWER_END, Ledger
from service.usage.model import Report
from service.usage.pricing import encode_items
from service.usage.rating import PLANS, TEXT_RULES, Plan
from tests.reference import (
    items_of,
    ledger_of,
    message,
    rate,
    report,
    sendable_texts,
)

Messages = list[dict[str, Any]]
Found = dict[str, Report | None]
State = tuple[Messages, Found]

REPORT_IDS: Final[tuple[Any, ...]] = (7, "7", 8, "x/9", 404, None, 1.5, [])
NAMES: Final = ("Lease", "Tenants", 'a {"m" in it', 'ends in {"', "Prüfung 🏠", "")
EMPTY: Final[State] = ([], {})

found_reports = st.builds(
    lambda costs, names: {
        key: Report(key, name, cost)
        for key, name, cost in zip(("7", "8", "x/9"), names, costs, strict=True)
        if cost is not None
    },
    st.tuples(*[st.sampled_from([None, 0, 1, 61, 2.5])] * 3),
    st.tuples(*[st.sampled_from(NAMES)] * 3),
)


@st.composite
def some_messages(draw: st.DrawFn) -> Messages:
    """A few messages of few ids, so that some are told twice or meet again."""
    texts = st.sampled_from(["a", "rent rent", '{"m":1},{"m']) | sendable_texts
    times = st.sampled_from(["2024-04-29", "2024-05-01T12:00:00+02:00"])
    made = []
    for message_id in draw(st.lists(st.integers(-2, 9), max_size=5)):
        fields = {"timestamp": draw(times)}
        if draw(st.booleans()):
            fields["report_id"] = draw(st.sampled_from(REPORT_IDS))
        made.append(message(message_id, draw(texts), **fields))
    return made


def edited(state: State, new: Messages, at: int) -> State:
    """The message at a place has another text, price and time."""
    messages, reports = state
    at = at % max(1, len(messages))
    return [*messages[:at], *new[:1], *messages[at + 1 :]], reports


def deleted(state: State, new: Messages, at: int) -> State:
    """Some messages from a place on are gone."""
    return [*state[0][:at], *state[0][at + len(new) :]], state[1]


def inserted(state: State, new: Messages, at: int) -> State:
    """Upstream has grown, at its end, its beginning or between."""
    return [*state[0][:at], *new, *state[0][at:]], state[1]


def turned(state: State, _new: Messages, at: int) -> State:
    """The same messages in another order."""
    return [*state[0][at:], *reversed(state[0][:at])], state[1]


def doubled(state: State, _new: Messages, at: int) -> State:
    """A part is told twice."""
    return [*state[0], *state[0][:at]], state[1]


Change = Callable[[State, Messages, int], State]
change = st.sampled_from((edited, deleted, inserted, turned, doubled))
life = st.lists(
    st.tuples(change, some_messages(), st.integers(0, 8), st.none() | found_reports),
    max_size=8,
)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@given(steps=life, born=st.tuples(some_messages(), found_reports))
def test_a_long_line_of_ledgers_answers_like_a_first_one(
    plan: Plan, born: State, steps: list[tuple[Change, Messages, int, Found | None]]
) -> None:
    """Whatever happens to a period, nothing of the past shows in any format."""
    state, ledger = born, ledger_of(*born, plan=plan)
    for alter, new, at, reports in steps:
        messages, known = alter(state, new, at)
        state = messages, known if reports is None else reports
        ledger = ledger_of(*state, plan=plan, before=ledger)
        scratch = ledger_of(*state, plan=plan)

        for to_format in FORMATS.values():
            assert to_format(ledger, None) == to_format(scratch, None)
        assert ledger.items(scratch.fresh) == scratch.items(scratch.fresh)
        assert ledger.credits_total == scratch.credits_total
        assert_bill_is_right(state, ledger)


@given(steps=life, born=st.tuples(some_messages(), found_reports))
def test_a_row_is_fresh_only_if_it_has_changed(
    born: State, steps: list[tuple[Change, Messages, int, Found | None]]
) -> None:
    """What had no like before is always fresh; what had only its like never is."""
    state, before = born, ledger_of(*born)
    for alter, new, at, reports in steps:
        messages, known = alter(state, new, at)
        state = messages, known if reports is None else reports
        ledger = ledger_of(*state, before=before)
        assert_freshness_is_right(ledger, before)
        before = ledger


def assert_bill_is_right(state: State, ledger: Ledger) -> None:
    """Every item is what the contract says of its message, by the reference."""
    messages, reports = state
    by_text = rate(ledger.plan, (sent["text"] for sent in messages))
    expected = []
    for sent, hundredths in zip(messages, by_text, strict=True):
        item = {"message_id": sent["id"], "timestamp": sent["timestamp"]}
        given_id = sent.get("report_id")
        found = reports.get(str(given_id)) if isinstance(given_id, int | str) else None
        named = {"report_name": found.name} if found else {}
        cost = found.credit_cost if found else hundredths / 100
        expected.append({**item, **named, "credits_used": cost})
    assert items_of(ledger) == expected


def assert_freshness_is_right(ledger: Ledger, before: Ledger) -> None:
    """By id and text, as far as those tell messages apart."""
    likes: dict[tuple[int, str], set[tuple[str, int]]] = {}
    times_told: dict[int, int] = {}
    for row, sent in enumerate(before.messages.all):
        likes.setdefault((sent.id, sent.text), set()).add(priced(before, row))
        times_told[sent.id] = times_told.get(sent.id, 0) + 1
    times_now = [sent.id for sent in ledger.messages.all]
    fresh = set(ledger.fresh.tolist())
    for row, sent in enumerate(ledger.messages.all):
        known = likes.get((sent.id, sent.text), set())
        is_told_once = times_told.get(sent.id) == times_now.count(sent.id) == 1
        if priced(ledger, row) not in known:
            assert row in fresh
        elif is_told_once:
            assert row not in fresh


def priced(ledger: Ledger, row: int) -> tuple[str, int]:
    return ledger.source(row), int(ledger.hundredths[row])


def test_a_refresh_without_change_prices_and_encodes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second ledger of the same period is cut from the first, whole."""
    messages = [message(n, "rent", report_id=7) for n in range(50)]
    before = ledger_of(messages, report("7", "Lease", 61))
    monkeypatch.setattr("service.usage.pricing.encode_items", None)

    ledger = ledger_of(messages, report("7", "Lease", 61), before=before)

    assert ledger.fresh.tolist() == []
    assert ledger.answer == before.answer


def test_ledgers_do_not_keep_those_before_alive() -> None:
    """A year of refreshes holds one ledger, not all of them."""
    first = ledger_of([message(1), message(2)])
    gone = weakref.ref(first)

    second = ledger_of([message(1), message(3)], before=first)
    del first
    gc.collect()

    assert gone() is None
    assert len(second) == 2


def test_runs_of_items_are_joined_as_one_answer() -> None:
    """Items encoded in pieces read as the whole."""
    ledger = ledger_of([message(n) for n in range(5)], plan=TEXT_RULES)

    pieces = [encode_items(ledger, 0, 2), encode_items(ledger, 2, 5)]

    assert ANSWER_BEGIN + b",".join(pieces) + ANSWER_END == ledger.answer
