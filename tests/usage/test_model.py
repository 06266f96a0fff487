"""Reports are decoded as the contract promises, and everything else is refused."""

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.usage.model import PlanItem, PlansAnswer
from service.usage.reports import MAX_CREDIT_COST, Report, Resolved


def decode_report(credit_cost: str) -> Report:
    """A report whose cost is written in JSON like this."""
    body = f'{{"id": 7, "name": "Short Lease Report", "credit_cost": {credit_cost}}}'
    return msgspec.json.decode(body, type=Report)


def hundredths_of(report: Report) -> int:
    """Return the price that a build is given for the report."""
    [price] = Resolved({"7": report}, set()).prices_of(["7"]).prices
    assert price is not None
    assert price.name == report.name
    return price.hundredths


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
    assert hundredths_of(decode_report(credit_cost)) == hundredths


@given(st.integers(0, MAX_CREDIT_COST * 100))
def test_every_cost_of_two_decimals_is_exact(hundredths: int) -> None:
    """No binary fraction shifts a price, up to the highest cost."""
    written = str(Decimal(hundredths) / 100)
    assert hundredths_of(decode_report(written)) == hundredths


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


def test_plans_are_answered_with_the_contracts_names() -> None:
    """Each plan has its id, and says whether it is the default one."""
    plans = PlansAnswer([PlanItem("text-rules/1", is_default=True)])
    assert msgspec.json.encode(plans) == (
        b'{"plans":[{"plan":"text-rules/1","is_default":true}]}'
    )
