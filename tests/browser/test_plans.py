"""The plan switch: the cost of the period under each plan."""

from decimal import Decimal
from typing import Final

import aiohttp
from playwright.async_api import expect

from tests.browser.conftest import OpenPage
from tests.browser.dashboard import IN_BROWSER, MINUS
from tests.browser.serving import Served

pytestmark = IN_BROWSER

WHAT_IF: Final = "Not your plan: what it would cost"
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
    await dashboard.compare.click()
    by_rules = dashboard.plans.locator("label", has_text=TEXT_RULES)
    by_tokens = dashboard.plans.locator("label", has_text=TOKENS)
    await expect(dashboard.plans.get_by_label(TEXT_RULES)).to_be_checked()
    await expect(by_rules).to_contain_text(f"{rules:,.2f}")
    await expect(by_tokens).to_contain_text(f"{tokens:,.2f}")
    await expect(by_tokens).to_contain_text(signed(tokens - rules))
    await by_tokens.click()
    await expect(dashboard.total).to_contain_text(f"{tokens:,.2f}")
    await expect(by_rules).to_contain_text("your plan")
    await expect(by_tokens).to_contain_text(signed(tokens - rules))


async def test_other_plan_is_never_taken_for_the_bill(open_page: OpenPage) -> None:
    """A standing notice, the figures' title, the print and the facts say so."""
    dashboard = await open_page("?plan=token-estimate")
    notice = dashboard.page.get_by_text(WHAT_IF)
    await expect(notice).to_be_visible()
    await expect(dashboard.page.locator("header")).to_contain_text("(not your plan)")
    would = dashboard.page.get_by_role("heading", name="How much it would cost")
    await expect(would).to_be_visible()
    await dashboard.page.emulate_media(media="print")
    await expect(notice).to_be_visible()
    await dashboard.page.emulate_media(media="screen")
    await dashboard.page.get_by_role("button", name="Back to your plan").click()
    await expect(notice).to_have_count(0)
    announced = dashboard.page.get_by_role("status").filter(has_text="Prices of")
    await expect(announced).to_have_text("Prices of Text rules.")
