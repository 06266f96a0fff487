"""A generated period: the same bytes for a seed, plausible, of any size."""

import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from service.sandbox.options import MAX_ITEMS, Faults, SandboxOptions
from service.sandbox.periods import Period, generate_period
from service.sandbox.phrases import (
    EMOJI,
    ONE_WORD,
    OTHER_LANGUAGES,
    PALINDROMES,
    name_report,
)

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
    """Nothing but the seed and the sizes decides a period, to the byte."""
    options = SandboxOptions()
    faulty = SandboxOptions(latency_ms=5, error_rate=0.5, faults=Faults(html=1))
    assert generate_period(options) == generate_period(faulty)


@pytest.mark.parametrize(
    "other",
    [SandboxOptions(seed=8), SandboxOptions(messages=111), SandboxOptions(reports=9)],
    ids=["seed", "messages", "reports"],
)
def test_another_seed_or_size_gives_another_period(other: SandboxOptions) -> None:
    """A different seed or size shows in the bytes."""
    assert generate_period(other) != generate_period(SandboxOptions())


@pytest.mark.parametrize("messages", [0, 1, 2, 3, 67, 110, 5000])
@pytest.mark.parametrize("reports", [0, 1, 8, 300])
def test_sizes_are_as_asked(messages: int, reports: int) -> None:
    """Any size is generated exactly, none and a single one included."""
    period = generate_period(SandboxOptions(messages=messages, reports=reports))
    assert len(read(period)) == messages
    assert len(period.reports) == reports


def test_messages_carry_what_the_contract_demands(big: Period) -> None:
    """Every message has an id from 1000 up, a text and a timestamp in UTC."""
    messages = read(big)
    assert [message["id"] for message in messages] == list(range(1000, 5000))
    assert all(type(message["text"]) is str for message in messages)
    assert all(TIMESTAMP.fullmatch(message["timestamp"]) for message in messages)
    named = {"id", "text", "timestamp", "report_id"}
    assert all(message.keys() <= named for message in messages)


def test_timestamps_ascend_over_months_with_gaps_of_days() -> None:
    """A period covers months in order, and is silent for days now and then."""
    times = [
        datetime.fromisoformat(message["timestamp"])
        for message in read(generate_period(SandboxOptions(messages=3000)))
    ]
    assert times == sorted(times)
    assert times[0] >= datetime(2024, 4, 29, tzinfo=UTC)
    assert times[-1] - times[0] > timedelta(days=90)
    assert max(after - before for before, after in pairwise(times)) > timedelta(days=2)


def test_texts_are_mostly_a_short_question(big: Period) -> None:
    """Most texts are 20 to 110 characters, some above 100, some very short."""
    lengths = [len(message["text"]) for message in read(big)]
    usual = sum(20 <= length <= 110 for length in lengths)
    longer = sum(length > 100 for length in lengths)
    assert 0.85 < usual / len(lengths) < 1
    assert 0.01 < longer / len(lengths) < 0.2
    assert min(lengths) < 10


@pytest.mark.parametrize(
    "oddities",
    [ONE_WORD, PALINDROMES, OTHER_LANGUAGES, EMOJI],
    ids=["one word", "palindromes", "other languages", "emoji"],
)
def test_odd_texts_turn_up_now_and_then(big: Period, oddities: tuple[str, ...]) -> None:
    """Each kind of odd text is there, and rare."""
    texts = Counter(message["text"] for message in read(big))
    odd = sum(texts[oddity] for oddity in oddities)
    assert 0 < odd < 0.05 * texts.total()


def test_about_a_third_of_the_messages_name_a_report(big: Period) -> None:
    """30 % of the messages have a `report_id`; the others do not have the key."""
    naming = sum("report_id" in message for message in read(big))
    assert naming == 1200


@pytest.mark.parametrize(
    "messages, reports",
    [(110, 8), (4000, 1000), (20_000, 50)],
    ids=["default", "many", "repeated"],
)
def test_every_report_is_named_where_messages_suffice(
    messages: int, reports: int
) -> None:
    """The distinct known reports asked for are exactly those that exist."""
    period = generate_period(SandboxOptions(messages=messages, reports=reports))
    named = {
        message["report_id"]
        for message in read(period)
        if is_usable(message.get("report_id"))
    }
    known = [report_id for report_id in named if str(report_id) in period.reports]
    assert sorted(map(str, known)) == sorted(period.reports)


def test_some_ids_are_unknown_and_some_unusable(big: Period) -> None:
    """A few ids have no report and a few are no ids, of every kind."""
    named = [message["report_id"] for message in read(big) if "report_id" in message]
    unusable = [report_id for report_id in named if not is_usable(report_id)]
    unknown = [
        report_id
        for report_id in named
        if is_usable(report_id) and str(report_id) not in big.reports
    ]
    assert {repr(report_id) for report_id in unusable} == {
        "None",
        "''",
        "True",
        "1.5",
        "{}",
        "[]",
    }
    assert len(unusable) == len(unknown) == 40


def test_string_ids_always_resolve(big: Period) -> None:
    """A `report_id` that is a non-empty string names a report that exists."""
    strings = [
        message["report_id"]
        for message in read(big)
        if type(message.get("report_id")) is str and message["report_id"]
    ]
    assert strings
    assert set(strings) <= big.reports.keys()


def test_small_periods_name_nothing_bad() -> None:
    """Below some sixty messages every `report_id` resolves."""
    period = generate_period(SandboxOptions(messages=60))
    named = [m["report_id"] for m in read(period) if "report_id" in m]
    assert len(named) == 18
    assert {str(report_id) for report_id in named} == period.reports.keys()


def test_reports_carry_what_the_contract_demands(big: Period) -> None:
    """A report has the id it is kept under, a name, and 20 to 120 whole credits."""
    for report_id, body in big.reports.items():
        report = msgspec.json.decode(body)
        assert report.keys() == {"id", "name", "credit_cost"}
        assert report["id"] == int(report_id)
        assert report["name"].endswith(" Report")
        assert type(report["credit_cost"]) is int
        assert 20 <= report["credit_cost"] <= 120


def test_reports_have_names_lawyers_would_know() -> None:
    """The first names are plausible, and dozens differ."""
    assert name_report(0) == "Short Lease Report"
    assert name_report(1) == "Tenant Obligations Report"
    assert len({name_report(number) for number in range(88)}) == 88


@pytest.mark.parametrize(
    "given",
    [
        {"messages": -1},
        {"messages": MAX_ITEMS + 1},
        {"reports": MAX_ITEMS + 1},
        {"latency_ms": -0.1},
        {"error_rate": 1.01},
        {"faults": {"hang": -0.5}},
        {"faults": {"times": -1}},
    ],
    ids=str,
)
def test_options_out_of_bounds_are_refused(given: dict[str, object]) -> None:
    """Converting options checks every bound."""
    with pytest.raises(msgspec.ValidationError, match="Expected"):
        msgspec.convert(given, SandboxOptions)
