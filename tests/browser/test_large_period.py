"""A hundred thousand messages: few rows drawn, all of them there to be read."""

from decimal import Decimal
from typing import Final

import aiohttp
import pytest_asyncio
from playwright.async_api import expect

from tests.browser.axe import check
from tests.browser.conftest import MANY, OpenPage
from tests.browser.dashboard import IN_BROWSER, Dashboard
from tests.browser.serving import Served

pytestmark = IN_BROWSER

MOST_DRAWN: Final = 200
HEAD_ROWS: Final = 1
FIRST_ID: Final = 1000


async def to_the_end(dashboard: Dashboard) -> None:
    """Scroll the page to the table, and the table to its last row."""
    await dashboard.scroll.scroll_into_view_if_needed()
    await dashboard.scroll.evaluate("(it) => { it.scrollTop = it.scrollHeight }")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def credits_used(large: Served) -> list[Decimal]:
    """What each message costs, as the service says it."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{large.url}/usage") as answer,
    ):
        body = await answer.json()
    return [Decimal(str(item["credits_used"])) for item in body["usage"]]


async def test_few_rows_are_drawn_and_all_are_counted(
    open_page: OpenPage, large: Served, credits_used: list[Decimal]
) -> None:
    """The table says how long it is, and its total is of all rows, drawn or not."""
    dashboard = await open_page(served=large)
    count = await dashboard.table.get_attribute("aria-rowcount")
    assert count == str(HEAD_ROWS + MANY + 1)  # the total is a row too
    assert await dashboard.rows.count() < MOST_DRAWN
    await expect(dashboard.total).to_contain_text(f"{sum(credits_used):,.2f}")
    await expect(dashboard.shown).to_contain_text(f"{MANY:,} messages")
    first = dashboard.rows.first
    await expect(first).to_have_attribute("aria-rowindex", str(HEAD_ROWS + 1))


async def test_end_can_be_reached(open_page: OpenPage, large: Served) -> None:
    """The End key shows the last row, with its true place; Home goes back."""
    dashboard = await open_page(served=large)
    await dashboard.scroll.focus()
    await dashboard.page.keyboard.press("End")
    last = dashboard.opener(FIRST_ID + MANY - 1)
    await expect(last).to_be_in_viewport()
    row = dashboard.rows.filter(has_text=str(FIRST_ID + MANY - 1))
    await expect(row).to_have_attribute("aria-rowindex", str(HEAD_ROWS + MANY))
    assert await dashboard.rows.count() < MOST_DRAWN
    await dashboard.page.keyboard.press("Home")
    await expect(dashboard.opener(FIRST_ID)).to_be_in_viewport()


async def test_sorting_orders_all_rows(
    open_page: OpenPage, large: Served, credits_used: list[Decimal]
) -> None:
    """The dearest message comes first and the cheapest last, from anywhere in it."""
    order = sorted(range(MANY), key=lambda at: -credits_used[at])
    dashboard = await open_page(served=large)
    await to_the_end(dashboard)
    await expect(dashboard.opener(FIRST_ID + MANY - 1)).to_be_in_viewport()
    await dashboard.sorter("Credits Used").click()
    await dashboard.sorter("Credits Used").click()
    await expect(dashboard.opener(FIRST_ID + order[0])).to_be_in_viewport()
    first = dashboard.rows.first.locator("td").last
    await expect(first).to_have_text(f"{credits_used[order[0]]:,.2f}")
    await to_the_end(dashboard)
    await expect(dashboard.opener(FIRST_ID + order[-1])).to_be_in_viewport()


async def test_filters_narrow_it(open_page: OpenPage, large: Served) -> None:
    """A report's messages are found among all, and their total is their own."""
    dashboard = await open_page(served=large)
    name = await dashboard.report.locator("option").nth(2).inner_text()
    await dashboard.search.fill(name)
    await expect(dashboard.shown).not_to_contain_text(f"Showing {MANY:,}")
    await expect(dashboard.rows.first.locator("td").nth(2)).to_have_text(name)
    await dashboard.clear.click()
    await expect(dashboard.opener(FIRST_ID)).to_be_visible()


async def test_open_row_makes_room(open_page: OpenPage, large: Served) -> None:
    """An opened row stays open when it has been scrolled out of sight and back."""
    dashboard = await open_page(served=large)
    await dashboard.opener(FIRST_ID + 2).click()
    steps = dashboard.table.locator("table")
    await expect(steps).to_be_visible()
    await to_the_end(dashboard)
    await expect(steps).to_have_count(0)
    await dashboard.scroll.evaluate("(scroller) => { scroller.scrollTop = 0 }")
    await expect(steps).to_be_visible()


async def test_large_period_is_accessible(open_page: OpenPage, large: Served) -> None:
    """A table of which few rows are drawn."""
    dashboard = await open_page(served=large)
    await check(dashboard)
