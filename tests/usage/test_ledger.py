"""A period's messages are checked, priced once, priced exactly, and explained."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from service.upstream.client import decode
from service.upstream.errors import ContractBroken, MalformedBody
from service.usage.errors import MessageNotFound
from service.usage.formats import to_json
from service.usage.ledger import Ledger, Messages, read_messages, to_credits
from service.usage.model import Explanation, Report, StepTaken
from service.usage.pricing import price
from service.usage.rating import TEXT_RULES, TOKEN_ESTIMATE
from service.usage.reports import Settled
from tests.reference import (
    items_of,
    ledger_of,
    message,
    prices_of,
    rate,
    read,
    report,
    sendable_texts,
)

SHORT_LEASE: Final = report("7", "Short Lease Report", 61)
TENANTS: Final = report("8", "Tenant Obligations Report", 79.5)
LARGEST: Final = 2**63 - 1


def body_of(messages: str) -> bytes:
    """A body whose messages are written in JSON like this."""
    return f'{{"messages": [{messages}]}}'.encode()


def with_id(message_id: str) -> bytes:
    return body_of(f'{{"id": {message_id}, "text": "", "timestamp": "2024-04-29"}}')


def with_report_id(report_id: str) -> bytes:
    fields = '"id": 1, "text": "", "timestamp": "2024-04-29"'
    return body_of(f'{{{fields}, "report_id": {report_id}}}')


# Reading.


def test_messages_are_read_in_upstreams_order() -> None:
    """Nothing is dropped, merged or moved, and timestamps stay verbatim."""
    sent = [
        message(2, "b", timestamp="2024-04-30T00:00:00+02:00"),
        message(1, "a", timestamp="2024-04-29"),
        message(2, "b", timestamp="2024-04-30T00:00:00+02:00"),
    ]
    messages = read(sent)
    assert msgspec.to_builtins(messages.all) == sent
    assert messages.ids.tolist() == [2, 1, 2]
    first, second, third = messages.instants.tolist()
    assert second < first == third


def test_empty_period_is_read() -> None:
    """A period may have just begun."""
    messages = read([])
    assert (
        messages.all,
        messages.references.keys,
        messages.references.invalid_ids,
    ) == ([], [], {})


@pytest.mark.parametrize("message_id", [0, -1, LARGEST, -LARGEST - 1])
def test_id_of_64_bits_is_read(message_id: int) -> None:
    """Every id that 64 bits hold is answered as it came."""
    assert items_of(ledger_of([message(message_id)]))[0]["message_id"] == message_id


@pytest.mark.parametrize(
    "message_id",
    [
        *("null", "true", "1.0", "1e3", '"1"', '""', "[1]", "{}"),
        *(str(LARGEST + 1), str(-LARGEST - 2), str(2**64), "9" * 400, "9" * 5000),
    ],
    ids=lambda written: written[:24],
)
def test_id_of_another_kind_breaks_the_contract(message_id: str) -> None:
    """Ids are integers of 64 bits; anything else is an error that can be caught."""
    with pytest.raises(msgspec.ValidationError):
        read_messages(with_id(message_id))


def test_unreadable_timestamp_breaks_the_contract() -> None:
    """One message that cannot be dated refuses the period, by name."""
    body = msgspec.json.encode(
        {"messages": [message(1), message(2, timestamp="2024-02-30T00:00:00Z")]}
    )
    with pytest.raises(msgspec.ValidationError, match="'2024-02-30T00:00:00Z'"):
        read_messages(body)


@pytest.mark.parametrize(
    "opening, closing",
    [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")],
    ids=["lists", "objects", "both"],
)
async def test_deep_nesting_breaks_the_contract(opening: str, closing: str) -> None:
    """A report id nested without end is upstream's error, not a crash."""
    nested = with_report_id(opening * 100_000 + "1" + closing * 100_000)
    with pytest.raises(ContractBroken):
        await decode(bytearray(nested), read_messages)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", with_id("1")[:-1], with_id("1") + b"x", b'{"messages": [\xff]}']
    + [with_report_id(written) for written in ('"\\ud800"', "NaN", "01")],
    ids=[
        *("nothing", "HTML", "cut off", "more", "no UTF-8"),
        *("lone surrogate", "NaN", "leading zero"),
    ],
)
async def test_body_that_is_no_json_is_malformed(body: bytes) -> None:
    """What cannot be parsed is told apart from what breaks the contract."""
    with pytest.raises(MalformedBody):
        await decode(bytearray(body), read_messages)


@pytest.mark.parametrize("body", [b"null", b"[]", b"{}", with_id("null")])
async def test_json_of_another_shape_breaks_the_contract(body: bytes) -> None:
    """What can be parsed but was not agreed on is the contract broken."""
    with pytest.raises(ContractBroken):
        await decode(bytearray(body), read_messages)


# Report ids.


@pytest.mark.parametrize(
    "report_id, key",
    [
        ("7", "7"),
        ("-7", "-7"),
        ("0", "0"),
        (str(2**64), str(2**64)),
        ('"7"', "7"),
        ('"07"', "07"),
        ('" "', " "),
        ('"../x?y#z"', "../x?y#z"),
        ('"\\u0000"', "\0"),
    ],
    ids=repr,
)
def test_usable_report_id_is_asked_for(report_id: str, key: str) -> None:
    """Integers and non-empty strings are usable, whatever they hold."""
    messages = read_messages(with_report_id(report_id))
    assert messages.references.keys == [key]
    assert messages.references.invalid_ids == {}


@pytest.mark.parametrize(
    "report_id",
    ["null", "true", "false", "7.0", "1e2", '""', "[]", "[7]", "{}", '{"id": 7}'],
)
def test_unusable_report_id_is_never_asked_for(report_id: str) -> None:
    """Null, booleans, floats, empty strings, objects and lists are no ids."""
    messages = read_messages(with_report_id(report_id))
    assert messages.references.keys == []
    assert messages.references.invalid_ids == {0: msgspec.json.decode(report_id)}


def test_missing_report_id_is_neither_asked_for_nor_invalid() -> None:
    """Most messages name no report, which is nothing to log."""
    messages = read([message(1)])
    assert (messages.references.keys, messages.references.invalid_ids) == ([], {})


def test_each_report_is_asked_for_once() -> None:
    """7 and "7" are one report, true is not 1, and first use gives the order."""
    ids: list[Any] = ["b", 7, "7", "b", True, 1.0, None, 1, 7]
    messages = read(message(row, report_id=wanted) for row, wanted in enumerate(ids))
    assert messages.references.keys == ["b", "7", "1"]
    assert list(messages.references.invalid_ids) == [4, 5, 6]


# Pricing.


def test_report_prices_its_messages_and_their_text_is_ignored() -> None:
    """A message of an existing report costs what the report costs, by its name."""
    ledger = ledger_of(
        [message(1, "x" * 200, report_id=7), message(2, "", report_id="7")], SHORT_LEASE
    )
    assert items_of(ledger) == [
        {
            "message_id": message_id,
            "timestamp": "2024-04-29T02:08:29.375Z",
            "report_name": "Short Lease Report",
            "credits_used": 61.0,
        }
        for message_id in (1, 2)
    ]


@pytest.mark.parametrize("report_id", [9, "9", None, True, 7.0, "", [7], {"id": 7}])
def test_message_without_an_existing_report_is_priced_by_its_text(
    report_id: object,
) -> None:
    """A report that is 404, or an unusable id, falls back to the text, unnamed."""
    ledger = ledger_of([message(1, "rent rent", report_id=report_id)], SHORT_LEASE)
    [item] = items_of(ledger)
    assert item["credits_used"] == 1.85
    assert "report_name" not in item
    assert ledger.source(0) == "text"


def test_free_report_costs_nothing_and_is_named() -> None:
    """The floor of 1 credit is the plan's, not the reports'."""
    [item] = items_of(
        ledger_of([message(1, report_id=7)], report("7", "Free Report", 0))
    )
    assert (item["report_name"], item["credits_used"]) == ("Free Report", 0.0)


def test_duplicates_are_priced_each() -> None:
    """One item a message: a message sent twice is answered and billed twice."""
    twice = [message(1, "rent rent"), message(2, report_id=7)] * 2
    ledger = ledger_of(twice, SHORT_LEASE)
    assert prices_of(ledger) == [1.85, 61.0, 1.85, 61.0]
    assert ledger.credits_total == 125.7


def test_reports_of_one_name_keep_their_prices() -> None:
    """A name is only a name: the id decides the price."""
    same_name = report("7", "Lease", 1) | report("8", "Lease", 2)
    ledger = ledger_of([message(1, report_id=7), message(2, report_id=8)], same_name)
    assert prices_of(ledger) == [1.0, 2.0]
    assert {item["report_name"] for item in items_of(ledger)} == {"Lease"}


def test_missing_and_failed_reports_are_counted_apart() -> None:
    """A report that does not exist is no degradation; one that failed is, a message."""
    messages = read(message(row, report_id=row // 2) for row in range(6))
    found: dict[str, Report | None] = {"0": None, "1": None, **SHORT_LEASE, "2": None}
    ledger = price(messages, Settled(found, {"1"}), TEXT_RULES)
    assert (ledger.missing_reports, ledger.degraded) == (2, 2)


@given(st.lists(sendable_texts, max_size=8))
def test_total_is_the_sum_of_the_items(written: list[str]) -> None:
    """What the period used is what its messages used, to the hundredth."""
    ledger = ledger_of(message(1, text) for text in written)
    expected = rate(TEXT_RULES, written)
    assert prices_of(ledger) == [hundredths / 100 for hundredths in expected]
    assert ledger.credits_total == sum(expected) / 100


def test_great_sums_are_exact() -> None:
    """70,000 of the dearest reports and a hundredth are not rounded off."""
    dearest = report("7", "Dear", 1_000_000_000) | report("8", "Cheap", 0.01)
    rows = [message(0, report_id=8)] + [message(1, report_id=7)] * 70_000
    total = ledger_of(rows, dearest).credits_total
    assert f"{total:.2f}" == repr(total) == "70000000000000.01"


def test_other_plan_changes_only_the_price_of_texts() -> None:
    """Under another plan nothing differs but the credits of text-priced messages."""
    messages = [
        message(1, "What is the rent?"),
        message(2, "x" * 101, report_id=7),
        message(3, "", report_id=9),
        message(1, "What is the rent?"),
    ]
    usual = items_of(ledger_of(messages, SHORT_LEASE))
    other = items_of(ledger_of(messages, SHORT_LEASE, TOKEN_ESTIMATE))
    prices = [item.pop("credits_used") for item in usual]
    other_prices = [item.pop("credits_used") for item in other]
    assert usual == other
    assert prices == [1.05, 61.0, 1.0, 1.05]
    assert other_prices == [2.0, 61.0, 1.0, 2.0]


# The ledger before.

A, B = message(1, "a"), message(2, "rent rent")
C, D = message(3, "x", report_id=7), message(4, "y", report_id=8)
PERIOD: Final = [A, B, C, D]
REPORTS: Final = {**SHORT_LEASE, **TENANTS}


@pytest.mark.parametrize(
    "messages, reports, fresh",
    [
        (PERIOD, REPORTS, []),
        ([*PERIOD, message(5)], REPORTS, [4]),
        ([message(5), *PERIOD], REPORTS, [0]),
        ([A, message(5), B, C, D], REPORTS, [1]),
        ([D, C, B, A], REPORTS, []),
        ([B, D], REPORTS, []),
        ([], REPORTS, []),
        ([A | {"text": "b"}, B, C, D], REPORTS, [0]),
        ([A, B, C, D | {"text": "z"}], REPORTS, [3]),
        ([D, B, C, A | {"text": "b"}], REPORTS, [3]),
        ([A | {"timestamp": "2024-05-01"}, B, C, D], REPORTS, []),
        ([A | {"report_id": 7}, B, C, D], REPORTS, [0]),
        ([A, B, C, message(4, "y")], REPORTS, [3]),
        ([A, B, C | {"report_id": "7"}, D], REPORTS, []),
        (PERIOD, TENANTS, [2]),
        (PERIOD, {}, [2, 3]),
        (PERIOD, {**TENANTS, **report("7", "Short Lease Report", 62)}, [2]),
        ([A | {"id": 5}, B, C, D], REPORTS, [0]),
        ([*PERIOD, *PERIOD], REPORTS, [4, 5, 6, 7]),
    ],
    ids=[
        *("same", "appended", "prepended", "inserted", "reversed", "fewer", "none"),
        *("text changed", "report's text changed", "moved and changed"),
        *("timestamp changed", "report gained", "report lost", "report id rewritten"),
        *("report missing", "reports missing", "report dearer", "id changed", "twice"),
    ],
)
def test_only_what_changed_is_fresh(
    messages: list[dict[str, Any]],
    reports: dict[str, Report | None],
    fresh: list[int],
) -> None:
    """Rows priced alike before are carried over; the others are named, and right."""
    before = ledger_of(PERIOD, REPORTS)
    ledger = ledger_of(messages, reports, before=before)
    assert ledger.fresh.tolist() == fresh
    assert to_json(ledger) == to_json(ledger_of(messages, reports))


def test_empty_period_is_priced() -> None:
    """Without messages nothing was used, and nothing is an error."""
    ledger = ledger_of([], before=ledger_of(PERIOD, REPORTS))
    assert (len(ledger), ledger.credits_total, items_of(ledger)) == (0, 0.0, [])


def test_first_ledger_is_fresh_throughout() -> None:
    """Without a ledger before, and after an empty one, every message is new."""
    assert ledger_of(PERIOD, REPORTS).fresh.tolist() == [0, 1, 2, 3]
    after_none = ledger_of(PERIOD, REPORTS, before=ledger_of([]))
    assert after_none.fresh.tolist() == [0, 1, 2, 3]
    assert to_json(after_none) == to_json(ledger_of(PERIOD, REPORTS))


def test_report_that_exists_at_last_prices_its_message() -> None:
    """A price by text is not kept once the report is there."""
    before = ledger_of([C])
    ledger = ledger_of([C], SHORT_LEASE, before=before)
    assert ledger.fresh.tolist() == [0]
    assert prices_of(ledger) == [61.0]


def test_price_of_another_source_is_fresh_even_if_it_is_equal() -> None:
    """A report that happens to cost what the text did is another price."""
    before = ledger_of([message(1, "Hi"), message(2, "Hi", report_id=7)])
    after = [message(1, "Hi", report_id=7), message(2, "Hi")]
    ledger = ledger_of(after, report("7", "Lease", 1), before=before)
    assert prices_of(before) == prices_of(ledger) == [1.0, 1.0]
    assert ledger.fresh.tolist() == [0]


def test_renamed_report_is_answered_by_its_new_name() -> None:
    """What is carried over is the price, never an old name."""
    renamed = {**TENANTS, **report("7", "Lease, Short", 61)}
    ledger = ledger_of(PERIOD, renamed, before=ledger_of(PERIOD, REPORTS))
    assert to_json(ledger) == to_json(ledger_of(PERIOD, renamed))


def test_known_text_is_not_priced_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the texts of fresh rows are given to the plan."""
    before = ledger_of(PERIOD, REPORTS)
    rated: list[str] = []
    plan = TEXT_RULES.__class__

    def rate_noting(self: Any, texts: list[str]) -> Any:
        rated.extend(texts)
        return rate_all(self, texts)

    rate_all: Callable[..., Any] = plan.rate
    monkeypatch.setattr(plan, "rate", rate_noting)
    ledger_of([message(5, "new"), *PERIOD], REPORTS, before=before)
    assert rated == ["new"]


report_ids = st.sampled_from([UNSET, 7, "7", 8, 9, None])
costs = st.sampled_from([1, 2.5])
reports_found = st.builds(
    lambda seven, eight: report("7", "Lease", seven) | report("8", "Tenants", eight),
    *(costs, costs),
) | costs.map(lambda cost: report("8", "Lease", cost))


def periods(*, distinct: bool) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Short periods of few ids, texts and reports, so that two of them overlap."""
    one = st.builds(
        lambda message_id, text, report_id: {
            name: value
            for name, value in message(message_id, text, report_id=report_id).items()
            if value is not UNSET
        },
        *(st.integers(1, 6), st.sampled_from(["a", "rent rent", "xyz"]), report_ids),
    )
    unique_by = (lambda sent: sent["id"]) if distinct else None
    return st.lists(one, max_size=7, unique_by=unique_by)


@given(
    *(periods(distinct=False), periods(distinct=False), reports_found, reports_found)
)
def test_ledger_before_never_changes_an_answer(
    old: list[dict[str, Any]],
    new: list[dict[str, Any]],
    old_reports: dict[str, Report | None],
    new_reports: dict[str, Report | None],
) -> None:
    """Whatever was before, duplicates and all, the answer is as without it."""
    before = ledger_of(old, old_reports)
    assert to_json(ledger_of(new, new_reports, before=before)) == to_json(
        ledger_of(new, new_reports)
    )


@given(periods(distinct=True), periods(distinct=True), reports_found, reports_found)
def test_fresh_rows_are_those_not_priced_alike_before(
    old: list[dict[str, Any]],
    new: list[dict[str, Any]],
    old_reports: dict[str, Report | None],
    new_reports: dict[str, Report | None],
) -> None:
    """A row is fresh unless its id had the same text, source and price before."""
    before = ledger_of(old, old_reports)
    ledger = ledger_of(new, new_reports, before=before)
    known = priced_rows(before)
    expected = [row for row, own in enumerate(priced_rows(ledger)) if own not in known]
    assert ledger.fresh.tolist() == expected


def priced_rows(ledger: Ledger) -> list[tuple[Any, ...]]:
    messages: Messages = ledger.messages
    return [
        (sent.id, sent.text, ledger.source(row), cost)
        for row, (sent, cost) in enumerate(
            zip(messages.all, prices_of(ledger), strict=True)
        )
    ]


# Explaining.


def test_text_price_is_explained_step_by_step() -> None:
    """The plan's steps, in order, each with its part and the total, in credits."""
    ledger = ledger_of([message(5, "zz zz -", report_id=9)])
    assert ledger.explain(5) == Explanation(
        message_id=5,
        timestamp="2024-04-29T02:08:29.375Z",
        credits_used=3.3,
        source="text",
        plan="text-rules/1",
        steps=[
            StepTaken("base", 1.0, 1.0),
            StepTaken("characters", 0.35, 1.35),
            StepTaken("words", 0.3, 1.65),
            StepTaken("third_vowels", 0.0, 1.65),
            StepTaken("length_penalty", 0.0, 1.65),
            StepTaken("unique_words", 0.0, 1.65),
            StepTaken("palindrome", 1.65, 3.3),
        ],
    )


def test_report_price_is_explained_in_one_step() -> None:
    """A report's price has one step, and the report's name."""
    explanation = ledger_of(PERIOD, REPORTS).explain(4)
    assert explanation.report_name == "Tenant Obligations Report"
    assert explanation.source == "report"
    assert explanation.steps == [StepTaken("report", 79.5, 79.5)]
    assert explanation.credits_used == 79.5


def test_carried_price_is_explained_like_a_new_one() -> None:
    """Where a price comes from the ledger before, its steps are still told."""
    again = ledger_of([B, A], before=ledger_of([A, B]))
    assert again.explain(2) == ledger_of([B]).explain(2)


def test_steps_of_several_rows_stand_in_the_order_asked_for() -> None:
    """Rows may be asked for in any order, of either source."""
    ledger = ledger_of(PERIOD, REPORTS)
    totals = [steps[-1].total for steps in ledger.steps([3, 1, 0, 2])]
    assert totals == [79.5, 1.85, 2.0, 61.0]
    assert ledger.steps([]) == []


def test_first_of_duplicates_is_explained() -> None:
    """An id that stands twice means the first message that has it."""
    ledger = ledger_of([message(1), message(2, "a"), message(2, "rent rent")])
    assert ledger.row_of(2) == 1
    assert ledger.explain(2).credits_used == 2.0


@pytest.mark.parametrize("message_id", [0, 5, -1, LARGEST, LARGEST + 1, -(2**70)])
@pytest.mark.parametrize("messages", [PERIOD, []], ids=["period", "empty"])
def test_id_that_no_message_has_is_not_found(
    messages: list[dict[str, Any]], message_id: int
) -> None:
    """Any other integer, of any size, is answered by the same error."""
    with pytest.raises(MessageNotFound, match=str(message_id)):
        ledger_of(messages, REPORTS).explain(message_id)


@given(st.integers(0, 10**13))
def test_credits_have_two_decimals_at_most(hundredths: int) -> None:
    """A JSON number of credits is the hundredths and nothing behind them."""
    whole, rest = divmod(hundredths, 100)
    written = msgspec.json.encode(to_credits(hundredths)).decode()
    assert written == f"{whole}.{rest:02}".removesuffix("0")
