"""The cache: the plan that prices a snapshot. test_stale_serving tests its ages."""

import pytest

from service.sandbox.server import RunningSandbox
from service.usage.cache import find_plan
from service.usage.errors import UnknownPlan
from service.usage.pricing.plans import TEXT_RULES, TOKEN_ESTIMATE, Plan
from tests.conftest import MakeClient, message, report


@pytest.mark.parametrize(
    "name, plan",
    [
        ("text-rules", TEXT_RULES),
        ("text-rules/1", TEXT_RULES),
        ("token-estimate", TOKEN_ESTIMATE),
        ("token-estimate/1", TOKEN_ESTIMATE),
    ],
)
def test_plan_is_found_with_and_without_its_version(name: str, plan: Plan) -> None:
    """A caller may name a version, or the current one by the name alone."""
    assert find_plan(name) is plan


@pytest.mark.parametrize(
    "name", ["", "flat-rate", "text-rules/2", "text-rules/", "TEXT-RULES", "/1"]
)
def test_unknown_plan_lists_the_known_ones(name: str) -> None:
    """There is no default for a plan that does not exist."""
    with pytest.raises(UnknownPlan) as raised:
        find_plan(name)

    assert raised.value.known == ("text-rules", "token-estimate")


async def test_naming_a_plan_does_not_change_the_default(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """Plans are priced apart, and reports cost the same under each."""
    sandbox.sandbox.set_report(7, report(7, "Short Lease Report", 61))
    sandbox.sandbox.set_messages([message(1, report_id=7), message(2, "zz zz -")])
    service = await client(usage={"plan": "token-estimate"})
    seen = []
    for query in ("", "?plan=text-rules", "", "?plan=text-rules/1"):
        response = await service.get(f"/usage/2{query}")
        body = await response.json()
        seen.append((response.headers["Usage-Plan"], body["credits_used"]))
    usage = await (await service.get("/usage?plan=text-rules")).json()

    estimate, rules = ("token-estimate/1", 1.0), ("text-rules/1", 3.3)
    assert seen == [estimate, rules, estimate, rules]
    assert usage["usage"][0]["credits_used"] == 61.0
