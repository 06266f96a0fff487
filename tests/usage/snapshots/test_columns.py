"""Priced messages: totals, items and steps, out of immutable columns."""

from typing import Final

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from service.usage.pricing.plans import PLANS, TEXT_RULES, TOKEN_ESTIMATE, Plan
from service.usage.snapshots.answers import StepTaken, UsageAnswer, UsageItem
from service.usage.snapshots.columns import Summary, steps_taken, to_credits
from tests.reference import (
    REFERENCES,
    message,
    priced_of,
    prices_of,
    rate,
    report,
    sendable_texts,
)

LEASE: Final = report("7", "Short Lease Report", 61)
STAMP: Final = "2024-04-29T02:08:29.375Z"

each_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


@each_plan
@given(written=st.lists(sendable_texts, max_size=8))
def test_total_is_the_sum_of_the_items(plan: Plan, written: list[str]) -> None:
    """The period used the sum of what its messages used, to the hundredth."""
    priced = priced_of((message(1, text) for text in written), plan=plan)
    expected = rate(plan, written)
    assert prices_of(priced) == [hundredths / 100 for hundredths in expected]
    assert priced.summary == Summary(plan.id, len(written), sum(expected) / 100, 0)


def test_great_sums_are_exact() -> None:
    """70,000 of the most expensive reports and a hundredth are not rounded off."""
    costs = report("7", "Expensive", 1_000_000_000) | report("8", "Cheap", 0.01)
    rows = [message(0, report_id=8)] + [message(1, report_id=7)] * 70_000
    total = priced_of(rows, costs).summary.credits_total
    assert f"{total:.2f}" == repr(total) == "70000000000000.01"


@given(st.integers(0, 10**13))
def test_credits_have_two_decimals_at_most(hundredths: int) -> None:
    """A JSON number of credits is the hundredths and nothing behind them."""
    whole, rest = divmod(hundredths, 100)
    encoded = msgspec.json.encode(to_credits(hundredths)).decode()
    assert encoded == f"{whole}.{rest:02}".removesuffix("0")


@each_plan
@given(written=st.lists(sendable_texts, min_size=1, max_size=6))
def test_steps_of_a_text_add_up_to_its_price(plan: Plan, written: list[str]) -> None:
    """Each message has the steps of the reference, which lead to its price."""
    priced = priced_of((message(1, text) for text in written), plan=plan)
    assert (priced.steps.sum(axis=0) == priced.hundredths).all()
    for row, text in enumerate(written):
        expected = [
            StepTaken(step.name, step.amount / 100, step.total / 100)
            for step in REFERENCES[plan.name](text)
        ]
        assert priced.steps_of(row) == expected
        assert expected[-1].total == prices_of(priced)[row]


def test_report_price_has_one_step() -> None:
    """Its amount is the price; the plan's own steps added nothing."""
    priced = priced_of([message(1, "x" * 200, report_id=7)], LEASE)
    assert priced.steps_of(0) == [StepTaken("report", 61.0, 61.0)]
    assert not priced.steps.any()


def test_steps_are_plain_numbers() -> None:
    """Steps can be encoded, logged and sent without arrays."""
    [first, *_] = steps_taken(TEXT_RULES, [100, 0, 0, 0, 0, 0, 0])
    assert first == StepTaken("base", 1.0, 1.0)
    assert {type(first.credits), type(first.total)} == {float}


def test_steps_of_another_plan_are_refused() -> None:
    """A row of amounts belongs to the steps of its own plan."""
    with pytest.raises(ValueError, match="zip"):
        steps_taken(TOKEN_ESTIMATE, [100, 0, 0])


def test_items_of_a_run_of_rows() -> None:
    """Rows before and after the run are left out."""
    rows = [message(row, report_id=row) for row in range(6, 9)]
    priced = priced_of(rows, LEASE)
    assert priced.items(1, 3) == [
        UsageItem(7, STAMP, "Short Lease Report", 61.0),
        UsageItem(8, STAMP, UNSET, 1.0),
    ]
    assert [priced.source(row) for row in range(3)] == ["text", "report", "text"]


def test_items_are_cut_out_of_the_answer_in_any_order() -> None:
    """Names that look like the beginning of an item change nothing."""
    names = report("7", '{"message_id":1},{"m', 1) | report("8", "]}", 1)
    rows = [message(row, report_id=row) for row in range(6, 9)]
    priced = priced_of(rows, names)
    items = [msgspec.json.encode(each) for each in priced.items(0, 3)]
    assert priced.encoded_items(np.array([2, 0, 1])) == [items[2], items[0], items[1]]
    assert priced.encoded_items(np.zeros(0, np.intp)) == []


def test_answer_has_the_contracts_names_and_leaves_the_name_out() -> None:
    """These four names in this order, and no `report_name` where none priced it."""
    named = UsageItem(1000, STAMP, "Tenant Obligations Report", 79.0)
    unnamed = UsageItem(1001, "2024-04-29T03:25:03.613Z", UNSET, 5.2)
    assert msgspec.json.encode(UsageAnswer([named, unnamed])) == (
        b'{"usage":[{"message_id":1000,"timestamp":"2024-04-29T02:08:29.375Z",'
        b'"report_name":"Tenant Obligations Report","credits_used":79.0},'
        b'{"message_id":1001,"timestamp":"2024-04-29T03:25:03.613Z",'
        b'"credits_used":5.2}]}'
    )
