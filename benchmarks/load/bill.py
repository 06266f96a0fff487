"""The expected answers of a load run, and the check of an answer against them.

Later answers are compared with the first one. That one is checked against its sums by
day and by report, and against the upstream's messages if they are available.
Amounts are whole hundredths of a credit.
"""

import json
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import Any, Final

SHAPES: Final = (
    ("message_id", "timestamp", "credits_used"),
    ("message_id", "timestamp", "report_name", "credits_used"),
)


class WrongAnswer(Exception):
    """An answer that a caller must not get; the text says what is wrong with it."""


class Bill:
    """A period as the service billed it."""

    def __init__(self, body: bytes) -> None:
        self.items = read_items(body)
        self.by_id = {item["message_id"]: item for item in self.items}
        self.total = sum(hundredths(item["credits_used"]) for item in self.items)
        self._seen: dict[str, bytes] = {}

    def check_whole(self, body: bytes, etag: str) -> None:
        """The whole period, tagged: the same tag means the same bytes."""
        expect(etag != "", "no ETag")
        known = self._seen.get(etag)
        if known is None:
            expect(read_items(body) == self.items, "another bill than at the start")
            self._seen[etag] = body
            return
        expect(body == known, f"other bytes under the same ETag {etag}")

    def check_part(self, body: bytes) -> Sequence[dict[str, Any]]:
        """Some messages of the period, each at its price; returns them."""
        items = read_items(body)
        for item in items:
            expect(self.by_id[item["message_id"]] == item, f"wrong: {item}")
        return items

    def check_message(self, body: bytes, message_id: int) -> None:
        """One message: its steps add up to its price in the bill."""
        told = _read(body)
        price = hundredths(self.by_id[message_id]["credits_used"])
        expect(hundredths(told["credits_used"]) == price, f"wrong price: {told}")
        expect(hundredths(told["steps"][-1]["total"]) == price, f"last total: {told}")
        steps = sum(hundredths(step["credits"]) for step in told["steps"])
        expect(steps == price, f"steps do not add up: {told}")

    def check_daily(self, body: bytes) -> None:
        """The days: all of them, one after another, adding up to the bill."""
        days = _read(body)["days"]
        self._check_sums(days)
        dates = [date.fromisoformat(day["date"]) for day in days]
        gaps = {later - day for day, later in pairwise(dates)}
        expect(gaps <= {timedelta(days=1)}, "days are missing or doubled")

    def check_reports(self, body: bytes) -> None:
        """The sums by report and of text, adding up to the bill."""
        told = _read(body)
        self._check_sums([*told["reports"], told["text"]])

    def check_upstream(self, body: bytes) -> None:
        """Upstream's messages: the same ids and timestamps in the same order."""
        sent = [(each["id"], each["timestamp"]) for each in _read(body)["messages"]]
        billed = [(each["message_id"], each["timestamp"]) for each in self.items]
        expect(sent == billed, "not upstream's messages in upstream's order")

    def _check_sums(self, parts: Sequence[dict[str, Any]]) -> None:
        messages = sum(part["messages"] for part in parts)
        expect(messages == len(self.items), f"{messages} messages")
        total = sum(hundredths(part["credits_used"]) for part in parts)
        expect(total == self.total, f"{total / 100} credits of {self.total / 100}")


def read_items(body: bytes) -> list[dict[str, Any]]:
    """The items of a `/usage` body, each of the one shape that they may have."""
    answer = _read(body)
    expect(list(answer) == ["usage"], "not a usage answer")
    items: list[dict[str, Any]] = answer["usage"]
    for item in items:
        expect(tuple(item) in SHAPES, f"another shape: {item}")
        hundredths(item["credits_used"])
    return items


def hundredths(credits_used: float) -> int:
    """Credits as whole hundredths; more than two decimals are a wrong bill."""
    whole = round(credits_used * 100)
    expect(whole / 100 == credits_used, f"more than two decimals: {credits_used}")
    return whole


def expect(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as assert does
    """Raise `WrongAnswer` unless it holds."""
    if not holds:
        raise WrongAnswer(otherwise)


def _read(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise WrongAnswer(f"not JSON: {error}") from error
    expect(isinstance(answer, dict), "not a JSON object")
    return dict(answer)
