"""A hundred thousand messages: few rendered rows, all of them reachable."""

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
MOST_PRINTED: Final = 5_000
HEAD_ROWS: Final = 1
FIRST_ID: Final = 1000


async def to_the_end(dashboard: Dashboard) -> None:
    """Scroll the page to the table, and the table to its last row."""
    await dashboard.scroll.scroll_into_view_if_needed()
    await dashboard.scroll.evaluate("(it) => { it.scrollTop = it.scrollHeight }")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def credits_used(large: Served) -> list[Decimal]:
    """Return the price of each message by the service."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{large.url}/usage") as answer,
    ):
        body = await answer.json()
    return [Decimal(str(item["credits_used"])) for item in body["usage"]]


async def test_few_rows_are_drawn_and_all_are_counted(
    open_page: OpenPage, large: Served, credits_used: list[Decimal]
) -> None:
    """The table announces its length, and its total includes all rows."""
    dashboard = await open_page(served=large)
    count = await dashboard.table.get_attribute("aria-rowcount")
    assert count == str(HEAD_ROWS + MANY + 1)  # the total is a row too
    assert await dashboard.rows.count() < MOST_DRAWN
    await expect(dashboard.total).to_contain_text(f"{sum(credits_used):,.2f}")
    await expect(dashboard.shown).to_contain_text(f"{MANY:,} messages")
    first = dashboard.rows.first
    await expect(first).to_have_attribute("aria-rowindex", str(HEAD_ROWS + 1))


async def test_end_can_be_reached(open_page: OpenPage, large: Served) -> None:
    """End shows the last row with its correct index; Home returns."""
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
    """After sorting, the highest price is first and the lowest last."""
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


async def test_large_period_is_accessible(open_page: OpenPage, large: Served) -> None:
    """A table with few rendered rows has no violation."""
    dashboard = await open_page(served=large)
    await check(dashboard)


async def test_paper_has_more_rows_than_the_screen(
    open_page: OpenPage, large: Served
) -> None:
    """Rows that the screen does not draw are printed, up to a limit that is named."""
    dashboard = await open_page(served=large)
    # The events of printing; the file itself would take a minute.
    await dashboard.page.evaluate('dispatchEvent(new Event("beforeprint"))')
    assert await dashboard.rows.count() == MOST_PRINTED
    note = f"The first {MOST_PRINTED:,} of {MANY:,} messages are printed"
    await expect(dashboard.page.locator(".print-only").last).to_contain_text(note)
    await dashboard.page.evaluate('dispatchEvent(new Event("afterprint"))')
    await expect(dashboard.opener(FIRST_ID)).to_be_visible()
    assert await dashboard.rows.count() < MOST_DRAWN
