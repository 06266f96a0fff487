"""Checks of answers in load runs."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.load.bill import Bill, WrongAnswer

ITEMS: list[dict[str, Any]] = [
    {"message_id": 1, "timestamp": "2024-04-29T01:00:00Z", "credits_used": 1.85},
    {
        "message_id": 2,
        "timestamp": "2024-05-01T01:00:00Z",
        "report_name": "Short Lease Report",
        "credits_used": 61.0,
    },
]
DAYS = [
    {"date": "2024-04-29", "messages": 1, "credits_used": 1.85},
    {"date": "2024-04-30", "messages": 0, "credits_used": 0.0},
    {"date": "2024-05-01", "messages": 1, "credits_used": 61.0},
]
REPORT = {"report_name": "Short Lease Report", "messages": 1, "credits_used": 61.0}
TEXT = {"messages": 1, "credits_used": 1.85}
STEPS = [
    {"step": "base", "credits": 1.0, "total": 1.0},
    {"step": "characters", "credits": 0.85, "total": 1.85},
]
UPSTREAM = [
    {"id": item["message_id"], "timestamp": item["timestamp"], "text": "rent"}
    for item in ITEMS
]

Check = Callable[[Bill, bytes], object]


def check_tagged(bill: Bill, body: bytes) -> None:
    """The whole answer under a tag that was not seen before."""
    bill.check_whole(body, '"b"')


def check_first(bill: Bill, body: bytes) -> None:
    """One message's explanation."""
    bill.check_message(body, 1)


def usage(*items: dict[str, Any]) -> dict[str, Any]:
    """A body of `/usage`."""
    return {"usage": list(items)}


def explained(credits_used: float, *steps: dict[str, Any]) -> dict[str, Any]:
    """A body of `/usage/1`."""
    return {"message_id": 1, "credits_used": credits_used, "steps": list(steps)}


@pytest.fixture
def bill() -> Bill:
    """The right bill, seen once."""
    body = json.dumps(usage(*ITEMS)).encode()
    bill = Bill(body)
    bill.check_whole(body, '"a"')
    return bill


@pytest.mark.parametrize(
    "check,body",
    [
        pytest.param(check_tagged, usage(*ITEMS), id="whole"),
        pytest.param(Bill.check_part, usage(ITEMS[1]), id="part"),
        pytest.param(check_first, explained(1.85, *STEPS), id="message"),
        pytest.param(Bill.check_daily, {"days": DAYS}, id="daily"),
        pytest.param(
            Bill.check_reports, {"reports": [REPORT], "text": TEXT}, id="reports"
        ),
        pytest.param(Bill.check_upstream, {"messages": UPSTREAM}, id="upstream"),
    ],
)
def test_right_answers_pass(bill: Bill, check: Check, body: dict[str, Any]) -> None:
    """An answer that agrees with the bill is no failure."""
    check(bill, json.dumps(body).encode())


@pytest.mark.parametrize(
    "check,body",
    [
        pytest.param(
            check_tagged,
            usage({**ITEMS[0], "credits_used": 1.86}, ITEMS[1]),
            id="another price",
        ),
        pytest.param(check_tagged, usage(*ITEMS[::-1]), id="another order"),
        pytest.param(check_tagged, usage(ITEMS[0]), id="a message missing"),
        pytest.param(
            check_tagged, usage(*ITEMS, {**ITEMS[0], "text": "x"}), id="another shape"
        ),
        pytest.param(check_tagged, {"usage": ITEMS, "more": 1}, id="another field"),
        pytest.param(
            Bill.check_part,
            usage({**ITEMS[1], "credits_used": 61.004}),
            id="three decimals",
        ),
        pytest.param(check_first, explained(2.0, *STEPS), id="another message price"),
        pytest.param(check_first, explained(1.85, STEPS[1]), id="a step missing"),
        pytest.param(
            check_first, explained(1.85, *STEPS[::-1]), id="another last total"
        ),
        pytest.param(Bill.check_daily, {"days": DAYS[1:]}, id="days do not add up"),
        pytest.param(Bill.check_daily, {"days": DAYS[::2]}, id="an empty day missing"),
        pytest.param(
            Bill.check_reports, {"reports": [], "text": TEXT}, id="a report missing"
        ),
        pytest.param(
            Bill.check_upstream, {"messages": UPSTREAM[1:]}, id="not upstream's"
        ),
    ],
)
def test_wrong_answers_are_reported(
    bill: Bill, check: Check, body: dict[str, Any]
) -> None:
    """Every kind of wrong answer raises an error."""
    with pytest.raises(WrongAnswer):
        check(bill, json.dumps(body).encode())


@pytest.mark.parametrize(
    "body,etag",
    [
        pytest.param(b'{"usage": []}', '"a"', id="other bytes, same tag"),
        pytest.param(b'{"usage": []}', "", id="no tag"),
        pytest.param(b"<html>", '"b"', id="not JSON"),
    ],
)
def test_a_tag_stands_for_its_bytes(bill: Bill, body: bytes, etag: str) -> None:
    """A missing ETag, or one with other bytes, is reported."""
    with pytest.raises(WrongAnswer):
        bill.check_whole(body, etag)
