"""JSON, NDJSON and CSV agree, for any names, any rows, and for none."""

import csv
import io
from random import Random
from typing import Final

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType

from service.usage.snapshots.answers import UsageItem
from service.usage.snapshots.build import ReportPrice
from service.usage.snapshots.columns import MessageRows, PricedMessages
from service.usage.snapshots.formats import (
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
    priced: PricedMessages, rows: MessageRows | None, items: list[UsageItem]
) -> None:
    encoded = [msgspec.json.encode(item) for item in items]
    answer = b'{"usage":[' + b",".join(encoded) + b"]}"
    assert to_json(priced, rows) == answer
    assert to_ndjson(priced, rows) == b"".join(item + b"\n" for item in encoded)
    assert read_csv(to_csv(priced, rows)) == [HEADER, *map(as_csv, items)]


@given(rows_sent, reports_sent, st.integers(0, 2**32))
def test_period_and_rows_are_encoded_like_their_items(
    rows: list[tuple[int, str, int]], reports: list[tuple[str, float]], seed: int
) -> None:
    """All, and any rows in any order, are cut out whole, whatever strings they hold."""
    priced, items = build(rows, reports)
    assert_formats_agree(priced, None, items)
    chance = Random(seed)
    chosen = chance.sample(range(len(rows)), chance.randint(0, len(rows)))
    assert_formats_agree(
        priced, np.array(chosen, np.intp), [items[row] for row in chosen]
    )
