"""The plan switch: what the period would cost otherwise, as the service says it."""

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
    """What the service says that the period costs under a plan."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{served.url}/usage/reports?plan={plan}") as answer,
    ):
        body = await answer.json()
    parts = [*body["reports"], body["text"]]
    return sum((Decimal(str(each["credits_used"])) for each in parts), Decimal())


def signed(difference: Decimal) -> str:
    """A difference as the page writes it."""
    sign = "+" if difference > 0 else MINUS
    return f"{sign}{abs(difference):,.2f}"


async def test_differences_are_what_the_service_says(
    open_page: OpenPage, shared: Served
) -> None:
    """Each plan shows its total, and how far it is from the one on the screen."""
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


async def test_default_plan_needs_no_address(open_page: OpenPage) -> None:
    """Only a plan that is not the default is in the address."""
    dashboard = await open_page()
    await dashboard.plans.get_by_label(TOKENS).check()
    await dashboard.expect_query("?plan=token-estimate%2F1")
    await expect(dashboard.page.locator("header")).to_contain_text(TOKENS)
    await dashboard.plans.get_by_label(TEXT_RULES).check()
    await dashboard.expect_query("")
    await expect(dashboard.total).to_contain_text("306.05")


async def test_rows_and_steps_follow_the_plan(open_page: OpenPage) -> None:
    """Prices by text change with the plan, those of reports do not, nor do the rows."""
    dashboard = await open_page()
    await dashboard.plans.get_by_label(TOKENS).check()
    credits_used = dashboard.rows.nth(1).locator("td").last
    await expect(credits_used).to_have_text("6.00")
    await expect(dashboard.rows.first.locator("td").last).to_have_text("79.00")
    await dashboard.opener(1001).click()
    await expect(dashboard.table.locator("table")).to_contain_text("6.00")


async def test_arrow_keys_change_the_plan(open_page: OpenPage) -> None:
    """The plans are one group of radio buttons, as keyboards know them."""
    dashboard = await open_page()
    await dashboard.plans.get_by_label(TEXT_RULES).focus()
    await dashboard.page.keyboard.press("ArrowDown")
    await expect(dashboard.plans.get_by_label(TOKENS)).to_be_checked()
    await dashboard.expect_query("?plan=token-estimate%2F1")
    await dashboard.page.keyboard.press("ArrowRight")
    await expect(dashboard.plans.get_by_label(TEXT_RULES)).to_be_checked()
    await dashboard.expect_query("")
