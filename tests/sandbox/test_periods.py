"""Generated periods: reproducible, plausible, of any size."""

import re
from typing import Any

import msgspec
import pytest

from service.sandbox.options import Faults, SandboxOptions
from service.sandbox.periods import Period, generate_period

BIG = SandboxOptions(messages=4000, reports=1000)
TIMESTAMP = re.compile(r"2024-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def read(period: Period) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = msgspec.json.decode(period.messages_body)[
        "messages"
    ]
    return messages


def is_usable(report_id: object) -> bool:
    return type(report_id) in (int, str) and report_id != ""


@pytest.fixture(scope="module")
def big() -> Period:
    """4,000 messages and 1,000 reports."""
    return generate_period(BIG)


def test_same_seed_and_sizes_give_the_same_bytes() -> None:
    """Other options do not change the bytes."""
    options = SandboxOptions()
    faulty = SandboxOptions(latency_ms=5, error_rate=0.5, faults=Faults(html=1))
    assert generate_period(options) == generate_period(faulty)


@pytest.mark.parametrize(
    "other",
    [SandboxOptions(seed=8), SandboxOptions(messages=111), SandboxOptions(reports=9)],
    ids=["seed", "messages", "reports"],
)
def test_another_seed_or_size_gives_another_period(other: SandboxOptions) -> None:
    """Another seed or size gives other bytes."""
    assert generate_period(other) != generate_period(SandboxOptions())


@pytest.mark.parametrize("messages", [0, 1, 3, 67, 5000])
@pytest.mark.parametrize("reports", [0, 1, 300])
def test_sizes_are_exact(messages: int, reports: int) -> None:
    """Every combination of sizes is generated exactly."""
    period = generate_period(SandboxOptions(messages=messages, reports=reports))
    assert len(read(period)) == messages
    assert len(period.reports) == reports


def test_messages_match_the_contract(big: Period) -> None:
    """Every message has an id from 1000 up, a text and a timestamp in UTC."""
    messages = read(big)
    assert [message["id"] for message in messages] == list(range(1000, 5000))
    assert all(type(message["text"]) is str for message in messages)
    assert all(TIMESTAMP.fullmatch(message["timestamp"]) for message in messages)
    named = {"id", "text", "timestamp", "report_id"}
    assert all(message.keys() <= named for message in messages)


def test_a_third_of_the_messages_have_a_report_id(big: Period) -> None:
    """30 % of the messages have a `report_id`; the others lack the member."""
    naming = sum("report_id" in message for message in read(big))
    assert naming == 1200


@pytest.mark.parametrize(
    "messages, reports",
    [(110, 8), (4000, 1000), (20_000, 50)],
    ids=["default", "many", "repeated"],
)
def test_every_report_is_used_by_enough_messages(messages: int, reports: int) -> None:
    """The messages use exactly the existing reports."""
    period = generate_period(SandboxOptions(messages=messages, reports=reports))
    named = {
        message["report_id"]
        for message in read(period)
        if is_usable(message.get("report_id"))
    }
    known = [report_id for report_id in named if str(report_id) in period.reports]
    assert sorted(map(str, known)) == sorted(period.reports)


def test_some_ids_are_unknown_and_some_invalid(big: Period) -> None:
    """A few ids have no report, and a few are invalid in every way."""
    named = [message["report_id"] for message in read(big) if "report_id" in message]
    invalid = [report_id for report_id in named if not is_usable(report_id)]
    unknown = [
        report_id
        for report_id in named
        if is_usable(report_id) and str(report_id) not in big.reports
    ]
    assert {repr(report_id) for report_id in invalid} == {
        "None",
        "''",
        "True",
        "1.5",
        "{}",
        "[]",
    }
    assert len(invalid) == len(unknown) == 40


def test_small_periods_have_only_valid_ids() -> None:
    """With at most 60 messages every `report_id` resolves."""
    period = generate_period(SandboxOptions(messages=60))
    named = [m["report_id"] for m in read(period) if "report_id" in m]
    assert len(named) == 18
    assert {str(report_id) for report_id in named} == period.reports.keys()
