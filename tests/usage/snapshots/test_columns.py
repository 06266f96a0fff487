"""Sums and single prices are exact to the hundredth of a credit."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from service.usage.snapshots.columns import to_credits
from tests.reference import (
    message,
    priced_of,
    report,
)


def test_great_sums_are_exact() -> None:
    """70,000 of the most expensive reports and a hundredth are not rounded off."""
    costs = report("7", "Expensive", 1_000_000_000) | report("8", "Cheap", 0.01)
    rows = [message(0, report_id=8)] + [message(1, report_id=7)] * 70_000
    total = priced_of(rows, costs).summary.credits_total
    assert f"{total:.2f}" == repr(total) == "70000000000000.01"


@given(st.integers(0, 10**13))
def test_credits_have_two_decimals(hundredths: int) -> None:
    """A JSON number of credits is the hundredths and nothing behind them."""
    whole, rest = divmod(hundredths, 100)
    encoded = msgspec.json.encode(to_credits(hundredths)).decode()
    assert encoded == f"{whole}.{rest:02}".removesuffix("0")
