"""Prices of batches, against the reference and against the service's own."""

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.usage.bulk import batches
from service.usage.bulk.batches import MESSAGES, REASONS, price_batch, rate_texts
from service.usage.bulk.report_table import ReportTable
from service.usage.pricing.plans import PLANS, TEXT_RULES, Plan
from service.usage.pricing.text import JoinedTexts, Texts
from service.usage.snapshots.build import ReportPrice
from tests.reference import REFERENCES, items_of, priced_of, texts

TIMESTAMP: Final = b"2024-04-29T02:08:29.375Z"
NO_REPORTS: Final = ReportTable({})


def batch_of(rows: Sequence[tuple[Any, ...]]) -> Any:
    """Return a batch of rows: id, text, timestamp and report key."""
    columns = [list(each) for each in zip(*rows, strict=True)] or [[], [], [], []]
    return pa.record_batch([list(range(len(rows))), *columns], schema=MESSAGES)


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


each_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=lambda p: p.name)


@each_plan
@given(given_texts=st.lists(texts, max_size=12))
def test_prices_are_those_of_the_reference(plan: Plan, given_texts: list[str]) -> None:
    """Each text costs what the published rules say, step by step."""
    column = pa.array(map(encode, given_texts), pa.binary())
    hundredths, steps = rate_texts(column, plan)
    expected = [REFERENCES[plan.name](text) for text in given_texts]
    assert hundredths.tolist() == [each[-1].total for each in expected]
    assert steps.T.tolist() == [[step.amount for step in each] for each in expected]


@given(given_texts=st.lists(texts, max_size=12), cut=st.integers(1, 4))
def test_batches_of_a_sliced_column(given_texts: list[str], cut: int) -> None:
    """A slice of a column, which begins inside of its memory, has the same prices."""
    column = pa.array(map(encode, given_texts), pa.binary()).slice(cut)
    expected = TEXT_RULES.rate(given_texts[cut:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "MAX_JOINED_TEXTS", cut)
        assert rate_texts(column, TEXT_RULES)[0].tolist() == expected.tolist()
        patch.setattr(batches, "MAX_JOINED_BYTES", 1)
        assert rate_texts(column, TEXT_RULES)[0].tolist() == expected.tolist()


@given(st.lists(texts, max_size=12))
def test_joined_texts_have_the_measures_of_texts(given_texts: list[str]) -> None:
    """Texts that are joined already have the same measures as a list of texts."""
    plain = Texts(given_texts)
    counts = np.fromiter(map(len, given_texts), np.int64, len(given_texts))
    joined = JoinedTexts(encode("\0".join(given_texts)), counts)
    for name in ("characters", "word_points", "third_vowels", "is_palindrome"):
        assert getattr(joined, name).tolist() == getattr(plain, name).tolist()
    assert joined.all_words_differ.tolist() == plain.all_words_differ.tolist()


@given(st.lists(st.tuples(texts, st.sampled_from([None, 7, "7", "8", "", True]))))
def test_prices_are_those_of_the_service(rows: list[tuple[str, Any]]) -> None:
    """Bulk pricing and `GET /usage` agree on price, source and report name."""
    reports = {"7": ReportPrice("Short Lease", 6125)}
    messages = [
        {
            "id": row,
            "text": text.encode("utf-8", "ignore").decode(),
            "timestamp": "2024-04-29T02:08:29.375Z",
            "report_id": report_id,
        }
        for row, (text, report_id) in enumerate(rows)
    ]
    expected = items_of(priced_of(messages, reports))
    keys = {7: "7", "7": "7", "8": "8"}
    batch = batch_of(
        [
            (
                each["id"],
                encode(str(each["text"])),
                TIMESTAMP,
                None if each["report_id"] is True else keys.get(each["report_id"]),
            )
            for each in messages
        ]
    )
    table = ReportTable(reports)
    priced = price_batch(batch, TEXT_RULES, table).messages.to_pylist()
    shown = [
        {
            "message_id": row["message_id"],
            "timestamp": row["timestamp"],
            **({"report_name": "Short Lease"} if row["report"] >= 0 else {}),
            "credits_used": float(row["credits_used"]),
        }
        for row in priced
    ]
    assert shown == expected
    for row in priced:
        assert sum(row["steps"].values()) == row["credits_used"]


def test_report_is_the_only_step() -> None:
    """A message that a report prices has one step that is not 0."""
    table = ReportTable({"7": ReportPrice("Short Lease", 6125)})
    batch = batch_of([(1, b"rent", TIMESTAMP, "7"), (2, b"rent", TIMESTAMP, None)])
    first, second = price_batch(batch, TEXT_RULES, table).messages.to_pylist()
    assert {k: v for k, v in first["steps"].items() if v} == {
        "report": Decimal("61.25")
    }
    assert second["steps"]["report"] == 0


@pytest.mark.parametrize(
    "row, reason",
    [
        ((None, b"a", TIMESTAMP, None), 1),
        ((1, None, TIMESTAMP, None), 2),
        ((1, b"a", None, None), 3),
        ((1, b"\xff", TIMESTAMP, None), 4),
        ((1, b"\xc3", TIMESTAMP, None), 4),
        ((1, b"long " * 20, TIMESTAMP, None), 5),
        ((1, b"a", b"soon", None), 6),
        ((1, b"a", b"2024-02-30T02:08:29.375Z", None), 6),
        ((1, b"a", b"2024-04-29T24:08:29.375Z", None), 6),
        ((1, b"a", b"2024-04-29T02:08:29.375\xff", None), 6),
        ((1, b"a", b"", None), 6),
    ],
)
def test_rows_that_break_the_contract(
    row: tuple[Any, ...], reason: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that breaks the contract is kept aside, and the others are priced."""
    monkeypatch.setattr(batches, "MAX_TEXT_BYTES", 50)
    good = (5, b"rent", TIMESTAMP, None)
    priced = price_batch(batch_of([good, row, good]), TEXT_RULES, NO_REPORTS)
    assert priced.messages["row"].to_pylist() == [0, 2]
    (rejected,) = priced.rejected.to_pylist()
    assert (rejected["row"], rejected["reason"]) == (1, REASONS[reason])
    assert json.loads(rejected["content"])["id"] == row[0]


def test_messages_are_in_order_of_their_days() -> None:
    """Messages of a day are together, in their order; the day is that of UTC."""
    stamps = [b"2024-05-02T00:00:00Z", b"2024-05-01T23:30:00-01:00", TIMESTAMP]
    batch = batch_of([(i, b"a", stamp, None) for i, stamp in enumerate(stamps)])
    priced = price_batch(batch, TEXT_RULES, NO_REPORTS)
    assert priced.messages["message_id"].to_pylist() == [2, 0, 1]
    assert priced.days.astype("datetime64[D]").astype(str).tolist() == [
        "2024-04-29",
        "2024-05-02",
        "2024-05-02",
    ]


def test_empty_batch() -> None:
    """A batch without rows is priced to one without rows."""
    priced = price_batch(batch_of([]), TEXT_RULES, NO_REPORTS)
    assert (priced.messages.num_rows, priced.rejected.num_rows) == (0, 0)
