"""The plan switch: the cost of the period under each plan."""

from decimal import Decimal
from typing import Final

import aiohttp
from playwright.async_api import expect

from tests.browser.conftest import OpenPage
from tests.browser.dashboard import IN_BROWSER, MINUS
from tests.browser.serving import Served

pytestmark = IN_BROWSER

TEXT_RULES: Final = "Text rules"
TOKENS: Final = "Token estimate"


async def total_of(served: Served, plan: str) -> Decimal:
    """Return the total of the period under a plan by the service."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{served.url}/usage/reports?plan={plan}") as answer,
    ):
        body = await answer.json()
    parts = [*body["reports"], body["text"]]
    return sum((Decimal(str(each["credits_used"])) for each in parts), Decimal())


def signed(difference: Decimal) -> str:
    """Return a difference as the page formats it."""
    sign = "+" if difference > 0 else MINUS
    return f"{sign}{abs(difference):,.2f}"


async def test_differences_are_what_the_service_says(
    open_page: OpenPage, shared: Served
) -> None:
    """Each plan shows its total, and the difference from the selected plan."""
    rules = await total_of(shared, "text-rules")
    tokens = await total_of(shared, "token-estimate")
    assert rules != tokens
    dashboard = await open_page()
    by_rules = dashboard.plans.locator("label", has_text=TEXT_RULES)
    by_tokens = dashboard.plans.locator("label", has_text=TOKENS)
    await expect(dashboard.plans.get_by_label(TEXT_RULES)).to_be_checked()
    await expect(by_rules).to_contain_text(f"{rules:,.2f}")
    await expect(by_tokens).to_contain_text(f"{tokens:,.2f}")
    await expect(by_tokens).to_contain_text(signed(tokens - rules))
    await by_tokens.click()
    await expect(dashboard.total).to_contain_text(f"{tokens:,.2f}")
    await expect(by_rules).to_contain_text(signed(rules - tokens))
    await expect(by_tokens).not_to_contain_text(signed(tokens - rules))
