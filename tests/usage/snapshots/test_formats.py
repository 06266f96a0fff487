"""JSON, NDJSON and CSV agree, for any names, any rows, and for none."""

import csv
import io
import re
from random import Random
from typing import Final

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType

from service.usage.pricing.plans import PLANS, Plan
from service.usage.snapshots.answers import UsageItem
from service.usage.snapshots.build import ReportPrice
from service.usage.snapshots.columns import PricedMessages, Rows
from service.usage.snapshots.formats import (
    FORMATS,
    Encode,
    to_csv,
    to_json,
    to_ndjson,
)
from tests.reference import message, priced_of, report

HEADER: Final = ["message_id", "timestamp", "report_name", "credits_used"]

names = st.one_of(
    st.text(st.sampled_from("{}[]\":,\\\n\r\t\0m\u2028\u2029\x85 =;'")),
    st.sampled_from(['{"message_id":1', '"},{"m', '"]}', "a,b", "=1+1", "\ufeff"]),
    st.text(),
)
costs = st.integers(0, 10**11).map(lambda hundredths: hundredths / 100)
timestamps = st.sampled_from(
    [
        "2024-04-29T02:08:29.375Z",
        "2024-04-29",
        '2024-04-29"02:08:29',
        "2024-04-29,02:08:29",
        "2024-04-29\n02:08:29+05:45",
        "2024-04-29\u202802:08:29",
    ]
)
rows_sent = st.lists(
    st.tuples(st.integers(-(2**63), 2**63 - 1), timestamps, st.integers(-1, 3)),
    max_size=8,
)
reports_sent = st.lists(st.tuples(names, costs), min_size=4, max_size=4)


def build(
    rows: list[tuple[int, str, int]], reports: list[tuple[str, float]]
) -> tuple[PricedMessages, list[UsageItem]]:
    """A period with these reports, and its items; -1 stands for no report."""
    sent = [
        message(message_id, "rent rent", timestamp=timestamp, report_id=number)
        for message_id, timestamp, number in rows
    ]
    found: dict[str, ReportPrice | None] = {}
    for number, (name, cost) in enumerate(reports):
        found |= report(str(number), name, cost)
    priced: list[tuple[str | UnsetType, float]] = [*reports, (UNSET, 1.85)]
    items = [
        UsageItem(message_id, timestamp, *priced[number])
        for message_id, timestamp, number in rows
    ]
    return priced_of(sent, found), items


def read_csv(body: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(body.decode(), newline=""), strict=True))


def as_csv(item: UsageItem) -> list[str]:
    """An item's fields as a spreadsheet reads them."""
    name = "" if item.report_name is UNSET else item.report_name
    return [str(item.message_id), item.timestamp, name, str(item.credits_used)]


def assert_formats_agree(
    priced: PricedMessages, rows: Rows | None, items: list[UsageItem]
) -> None:
    encoded = [msgspec.json.encode(item) for item in items]
    answer = b'{"usage":[' + b",".join(encoded) + b"]}"
    assert to_json(priced, rows) == answer
    assert to_ndjson(priced, rows) == b"".join(item + b"\n" for item in encoded)
    assert read_csv(to_csv(priced, rows)) == [HEADER, *map(as_csv, items)]


@given(rows_sent, reports_sent)
def test_whole_period_is_encoded_like_its_items(
    rows: list[tuple[int, str, int]], reports: list[tuple[str, float]]
) -> None:
    """JSON is what encoding the items gives, and lines and CSV read back the same."""
    priced, items = build(rows, reports)
    assert_formats_agree(priced, None, items)


@given(rows_sent, reports_sent, st.integers(0, 2**32))
def test_rows_are_encoded_like_their_items(
    rows: list[tuple[int, str, int]], reports: list[tuple[str, float]], seed: int
) -> None:
    """Any rows in any order are cut out whole, whatever their strings hold."""
    priced, items = build(rows, reports)
    chance = Random(seed)
    chosen = chance.sample(range(len(rows)), chance.randint(0, len(rows)))
    assert_formats_agree(
        priced, np.array(chosen, np.intp), [items[row] for row in chosen]
    )


@pytest.mark.parametrize("select", [None, np.zeros(0, np.intp)], ids=["all", "none"])
@pytest.mark.parametrize(
    "write, body",
    [
        (to_json, b'{"usage":[]}'),
        (to_ndjson, b""),
        (to_csv, b"message_id,timestamp,report_name,credits_used\r\n"),
    ],
    ids=["JSON", "NDJSON", "CSV"],
)
def test_empty_period_is_valid_in_every_format(
    write: Encode, body: bytes, select: Rows | None
) -> None:
    """No messages: an empty list, no line, the header alone."""
    assert write(priced_of([]), select) == body


def test_selection_of_nothing_is_an_empty_answer() -> None:
    """No row of a period that has some is answered like no row at all."""
    priced = priced_of([message(1), message(2)])
    assert_formats_agree(priced, np.zeros(0, np.intp), [])


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_period_of_thousands_is_encoded_whole(plan: Plan) -> None:
    """Any number of messages is answered, each with its own fields in order."""
    found = report("1", "Lease \u201cshort\u201d\n", 61.25)
    sent = [message(row, "x" * (row % 9), report_id=row % 3) for row in range(9001)]
    priced = priced_of(sent, found, plan)
    prices = plan.rate(["x" * (row % 9) for row in range(9001)]).tolist()
    stamp = "2024-04-29T02:08:29.375Z"
    items = [
        UsageItem(row, stamp, "Lease \u201cshort\u201d\n", 61.25)
        if row % 3 == 1
        else UsageItem(row, stamp, UNSET, prices[row] / 100)
        for row in range(9001)
    ]
    assert_formats_agree(priced, None, items)
    backwards = np.arange(9001)[::-1]
    assert_formats_agree(priced, backwards, items[::-1])


def test_incremental_build_is_encoded_anew_where_it_changed() -> None:
    """An answer built on the one before holds nothing of what has changed since."""
    found = report("1", "Lease", 61) | report("2", "Tenants", 2)
    renamed = report("1", "Lease, renamed", 61) | report("2", "Tenants", 3)
    sent = [message(row, "a", report_id=row % 4) for row in range(40)]
    changed = [
        *({**each, "timestamp": "2024-05-01"} for each in sent[5:9]),
        *({**each, "text": "rent rent"} for each in sent[20:30]),
        *sent[30:],
        *sent[:5],
        message(99),
    ]
    before = priced_of(sent, found)
    for write in FORMATS.values():
        write(before, None)
    for reports in (found, renamed, {}):
        for messages in (sent, sent[:7], [*sent, message(99)], changed, []):
            after = priced_of(messages, reports, before=before)
            fresh = priced_of(messages, reports)
            for write in FORMATS.values():
                assert write(after, None) == write(fresh, None)


@given(st.lists(costs, max_size=6))
def test_credits_are_numbers_of_two_decimals_at_most(prices: list[float]) -> None:
    """No format writes an exponent, a third decimal, or quotes."""
    found: dict[str, ReportPrice | None] = {}
    for number, cost in enumerate(prices):
        found |= report(str(number), "n", cost)
    priced = priced_of(
        (message(1, report_id=each) for each in range(len(prices))), found
    )
    body = bytes(to_json(priced)).decode()
    written = re.findall(r'"credits_used":(\d+\.\d{1,2})\}', body)
    assert list(map(float, written)) == prices
    assert [row[3] for row in read_csv(to_csv(priced))[1:]] == written


def test_media_types_are_the_contracts() -> None:
    """`Accept` may name these, and the contract's own JSON is first."""
    assert list(FORMATS) == [
        "application/json",
        "application/x-ndjson",
        "text/csv",
    ]
