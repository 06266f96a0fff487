"""What upstream may send is taken as promised, and everything else is refused."""

from decimal import Decimal
from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from service.usage.model import (
    MAX_CREDIT_COST,
    CurrentPeriod,
    Message,
    Report,
    UsageAnswer,
    UsageItem,
)


def decode_report(credit_cost: str) -> Report:
    """A report whose cost is written in JSON like this."""
    body = f'{{"id": 7, "name": "Short Lease Report", "credit_cost": {credit_cost}}}'
    return msgspec.json.decode(body, type=Report)


@pytest.mark.parametrize(
    "credit_cost, hundredths",
    [
        ("0", 0),
        ("-0.0", 0),
        ("61", 6100),
        ("61.00", 6100),
        ("0.01", 1),
        ("0.29", 29),
        ("1.15", 115),
        ("4.35", 435),
        ("1e3", 100_000),
        ("999999999.99", 99_999_999_999),
        ("1000000000", 100_000_000_000),
    ],
)
def test_cost_is_exact_in_hundredths(credit_cost: str, hundredths: int) -> None:
    """A cost in its bounds becomes the hundredths that it was written as."""
    assert decode_report(credit_cost).hundredths == hundredths


@given(st.integers(0, MAX_CREDIT_COST * 100))
def test_every_cost_of_two_decimals_is_exact(hundredths: int) -> None:
    """No binary fraction shifts a price, up to the dearest report."""
    written = str(Decimal(hundredths) / 100)
    assert decode_report(written).hundredths == hundredths


@given(
    st.integers(0, MAX_CREDIT_COST * 1000 - 1).filter(
        lambda thousandths: thousandths % 10
    )
)
def test_no_cost_of_three_decimals_is_taken(thousandths: int) -> None:
    """A cost that cannot be billed exactly is refused, not rounded."""
    with pytest.raises(msgspec.ValidationError, match="more than two decimals"):
        decode_report(str(Decimal(thousandths) / 1000))


@pytest.mark.parametrize(
    "credit_cost",
    [
        *("-1", "-0.01", "0.005", "61.001", "1e-300", "5e-324"),
        *("1000000000.01", "1000000001", "1e10", "1e308", "1e309"),
        *(str(2**63), str(2**64), "1" + "0" * 400, "1" + "0" * 5000),
        *("null", "true", "false", '"61"', "[61]", "{}"),
        *("NaN", "Infinity", "-Infinity", "0x3d", "061", ".5", ""),
    ],
    ids=lambda written: written[:24] or "nothing",
)
def test_unusable_cost_is_refused(credit_cost: str) -> None:
    """Negative, too fine, too large, of another type or no JSON: no such report."""
    with pytest.raises(msgspec.DecodeError):
        decode_report(credit_cost)


@pytest.mark.parametrize(
    "body",
    [
        {"name": "n", "credit_cost": 1},
        {"id": 7, "credit_cost": 1},
        {"id": 7, "name": "n"},
        {"id": None, "name": "n", "credit_cost": 1},
        {"id": 7.5, "name": "n", "credit_cost": 1},
        {"id": True, "name": "n", "credit_cost": 1},
        {"id": 7, "name": None, "credit_cost": 1},
        {"id": 7, "name": 7, "credit_cost": 1},
        [7, "n", 1],
        None,
    ],
    ids=[
        *("no id", "no name", "no cost", "null id", "float id", "boolean id"),
        *("null name", "number as name", "list", "null"),
    ],
)
def test_report_that_breaks_the_contract_is_refused(body: object) -> None:
    """Every field of a report is mandatory and has its type."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(body), type=Report)


@pytest.mark.parametrize("report_id", ["7", "-7", '"7"', '"../x"', str(2**70)])
def test_report_is_read_with_fields_nobody_knows(report_id: str) -> None:
    """Ids are integers or strings, and extra fields do no harm."""
    body = f'{{"x": [1, {{}}], "id": {report_id}, "name": "n", "credit_cost": 2}}'
    report = msgspec.json.decode(body, type=Report)
    assert report == Report(msgspec.json.decode(report_id), "n", 2)


MESSAGE = {"id": 1000, "text": "Rent?", "timestamp": "2024-04-29T02:08:29.375Z"}


def decode_period(*messages: object) -> list[Message]:
    body = msgspec.json.encode({"messages": messages, "more": {"x": 1}})
    return msgspec.json.decode(body, type=CurrentPeriod).messages


def test_message_is_read_and_unknown_fields_are_ignored() -> None:
    """The four known fields are kept as they came; nothing else is."""
    [message] = decode_period({**MESSAGE, "report_id": 7, "user": {"id": [None]}})
    assert message == Message(1000, "Rent?", "2024-04-29T02:08:29.375Z", 7)
    assert decode_period(MESSAGE)[0].report_id is UNSET


@pytest.mark.parametrize(
    "report_id", [None, True, 7.5, "", "7", [7], {"id": 7}], ids=repr
)
def test_report_id_may_be_anything(report_id: Any) -> None:
    """An id that is no id does not make the message unreadable."""
    [message] = decode_period({**MESSAGE, "report_id": report_id})
    assert message.report_id == report_id


@pytest.mark.parametrize("field", MESSAGE)
def test_message_without_a_mandatory_field_is_refused(field: str) -> None:
    """A message without id, text or timestamp breaks the contract."""
    rest = {name: value for name, value in MESSAGE.items() if name != field}
    with pytest.raises(msgspec.ValidationError, match=f"missing.*`{field}`"):
        decode_period(MESSAGE, rest)


@pytest.mark.parametrize(
    "field, value",
    [
        *product(["id"], [None, True, 1.0, "1000", [], {}]),
        *product(["text"], [None, True, 1, [], {}]),
        *product(["timestamp"], [None, False, 1714356509, [], {}]),
    ],
)
def test_message_with_a_wrong_type_is_refused(field: str, value: object) -> None:
    """A mandatory field of another type breaks the contract, and is named."""
    with pytest.raises(msgspec.ValidationError, match=rf"\$\.messages\[1\]\.{field}"):
        decode_period(MESSAGE, {**MESSAGE, field: value})


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"messages": null}', b'{"messages": {}}', b"[]", b"null", b""],
    ids=lambda body: body.decode() or "nothing",
)
def test_body_without_a_list_of_messages_is_refused(body: bytes) -> None:
    """An answer of another shape is no empty period."""
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(body, type=CurrentPeriod)


def test_answer_has_the_contracts_names_and_leaves_the_name_out() -> None:
    """These four names in this order, and no `report_name` where none priced it."""
    named = UsageItem(
        1000, "2024-04-29T02:08:29.375Z", "Tenant Obligations Report", 79.0
    )
    unnamed = UsageItem(1001, "2024-04-29T03:25:03.613Z", UNSET, 5.2)
    assert msgspec.json.encode(UsageAnswer([named, unnamed])) == (
        b'{"usage":[{"message_id":1000,"timestamp":"2024-04-29T02:08:29.375Z",'
        b'"report_name":"Tenant Obligations Report","credits_used":79.0},'
        b'{"message_id":1001,"timestamp":"2024-04-29T03:25:03.613Z",'
        b'"credits_used":5.2}]}'
    )
