"""Both plans price every text as the contract and `docs/plans.md` say, to the cent."""

import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.usage.pricing.plans import (
    PLANS,
    TEXT_RULES,
    TOKEN_ESTIMATE,
    Plan,
    PlanStep,
)
from service.usage.pricing.text import MAX_BATCH
from tests import reference

QUESTION: Final = "Are there any restrictions on alterations or improvements?"
PAGE: Final = Path(__file__).parents[3] / "docs" / "plans.md"

EXAMPLE_ROW: Final = re.compile(
    r"^\| (?:\(empty\)|(?:(?P<times>\d+) × )?`(?P<text>[^`]*)`) \|"
    r".*\| (?P<credits>[\d.]+) \|$",
    re.MULTILINE,
)
STEP_ROW: Final = re.compile(
    r"^\| `(\w+)` \|.*\| (−?\d+\.\d\d) \| (\d+\.\d\d) \|$",  # noqa: RUF001
    re.MULTILINE,
)

each_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


def section(title: str, end: str) -> str:
    """The page's text from this heading to the next that starts with `end`."""
    return PAGE.read_text("utf-8").partition(f"{title}\n")[2].partition(f"\n{end}")[0]


def examples_of(title: str) -> list[tuple[str, int]]:
    """The texts of a section's table with their prices in hundredths."""
    rows = EXAMPLE_ROW.finditer(section(title, "## "))
    return [
        (int(row["times"] or 1) * (row["text"] or ""), hundredths(row["credits"]))
        for row in rows
    ]


def hundredths(written: str) -> int:
    """Credits as a page writes them, with its minus sign and one or more decimals."""
    return round(float(written.replace("−", "-")) * 100)  # noqa: RUF001


def explain(plan: Plan, texts: Sequence[str]) -> list[list[reference.Step]]:
    """Return the steps of each text's price, with running totals."""
    names = [step.name for step in plan.steps]
    amounts = plan.amounts(texts)
    columns = zip(amounts.T.tolist(), amounts.cumsum(axis=0).T.tolist(), strict=True)
    return [list(map(reference.Step, names, own, totals)) for own, totals in columns]


@pytest.mark.parametrize(
    "text, price",
    [
        ("", 100),
        ("a", 200),
        ("rent rent", 185),
        ("Rent rent", 100),
        ("zz zz -", 330),
        (QUESTION, 520),
        ("x" * 100, 860),
        ("x" * 101, 1870),
    ],
    ids=["empty", "a", "rent", "Rent", "hyphen", "question", "100 x", "101 x"],
)
def test_text_rules_price_the_contracts_texts(text: str, price: int) -> None:
    """Each text of the contract's table costs what stands beside it."""
    assert TEXT_RULES.rate([text]).tolist() == [price]
    assert reference.rate(TEXT_RULES, [text]) == [price]


@pytest.mark.parametrize(
    "text, price",
    [("What is the rent?", 200), ("Hi", 100), ("", 100), ("x" * 12, 120)],
    ids=["rent", "Hi", "empty", "12"],
)
def test_token_estimate_prices_the_contracts_texts(text: str, price: int) -> None:
    """0.4 a token of four characters, rounded up, and never below 1."""
    assert TOKEN_ESTIMATE.rate([text]).tolist() == [price]
    assert reference.rate(TOKEN_ESTIMATE, [text]) == [price]


@each_plan
@given(texts=st.lists(reference.texts, max_size=10))
def test_plan_equals_the_reference_step_by_step(plan: Plan, texts: list[str]) -> None:
    """Any list of any texts is priced as the contract's words say, at every step."""
    steps = explain(plan, texts)
    assert steps == [reference.REFERENCES[plan.name](text) for text in texts]
    assert plan.rate(texts).tolist() == [taken[-1].total for taken in steps]


@each_plan
@given(texts=st.lists(reference.texts, max_size=10), seed=st.integers(0, 2**32))
def test_price_does_not_depend_on_the_neighbours(
    plan: Plan, texts: list[str], seed: int
) -> None:
    """A text costs the same alone, in a list, and in the list in another order."""
    prices = plan.rate(texts).tolist()
    assert prices == [plan.rate([text]).tolist()[0] for text in texts]
    order = Random(seed).sample(range(len(texts)), len(texts))
    shuffled = plan.rate([texts[index] for index in order]).tolist()
    assert shuffled == [prices[index] for index in order]


@each_plan
@pytest.mark.parametrize(
    "count", [0, 1, MAX_BATCH - 1, MAX_BATCH, MAX_BATCH + 1, 2 * MAX_BATCH + 3]
)
def test_any_number_of_texts_is_priced_in_order(plan: Plan, count: int) -> None:
    """Lists that fill batches exactly, almost or several times lose no text."""
    kinds = ["", "a", "rent rent", QUESTION, "Aa!", "\0\n", "\u6f22 \u6f22", "\ud800"]
    texts = Random(count).choices(kinds, k=count)
    price_of = dict(zip(kinds, reference.rate(plan, kinds), strict=True))
    assert plan.rate(texts).tolist() == [price_of[text] for text in texts]
    totals = [steps[-1].total for steps in explain(plan, texts)]
    assert totals == [price_of[text] for text in texts]


def test_plan_of_a_new_step_is_priced() -> None:
    """A plan is only its list of steps; its amounts may exceed 32 bits."""
    huge = PlanStep("huge", lambda texts, totals: totals + 2**40)
    plan = Plan("huge", 3, (huge, huge))
    assert plan.id == "huge/3"
    assert plan.amounts([""]).tolist() == [[2**40], [2**41]]
    assert plan.rate(["", "a"]).tolist() == [3 * 2**40] * 2


def test_page_explains_its_worked_example_as_the_code_does() -> None:
    """Each step in the page's worked example is what the plan itself answers."""
    example = section("### A worked example", "###")
    assert f"\n`{QUESTION}`\n" in example
    published = [
        reference.Step(name, hundredths(amount), hundredths(total))
        for name, amount, total in STEP_ROW.findall(example)
    ]
    assert [published] == explain(TEXT_RULES, [QUESTION])
    assert example.endswith("It costs 5.2 credits.\n")


@each_plan
def test_page_tells_the_plans_version_and_steps(plan: Plan) -> None:
    """A plan's section is headed by its version and lists its steps in order."""
    rules = section(f"## `{plan.id}`", "## ").partition("###")[0]
    steps = re.findall(r"^\| `(\w+)` \| [^|]+ \|$", rules, re.MULTILINE)
    assert steps == [step.name for step in plan.steps]


@pytest.mark.parametrize(
    "plan, heading, least",
    [
        (TEXT_RULES, "### More examples", 11),
        (TOKEN_ESTIMATE, "## `token-estimate/1`", 4),
    ],
    ids=PLANS,
)
def test_pages_examples_cost_what_it_says(plan: Plan, heading: str, least: int) -> None:
    """Every text in the page's tables costs what the page says it costs."""
    examples = examples_of(heading)
    assert len(examples) >= least
    assert plan.rate([text for text, _ in examples]).tolist() == [
        price for _, price in examples
    ]
