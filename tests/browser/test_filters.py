"""Filters: by bar, day, report and text; what they leave is counted and summed."""

from playwright.async_api import expect

from tests.browser.conftest import OpenPage
from tests.browser.dashboard import IN_BROWSER

pytestmark = IN_BROWSER


async def test_bar_filters_by_its_day_and_back(open_page: OpenPage) -> None:
    """A click on a day's bar shows that day alone; a second one shows all again."""
    dashboard = await open_page()
    # 29 April and 1 and 2 May; 30 April has no height to click on.
    await dashboard.bars.last.click()
    await dashboard.expect_ids(1004, 1005, 1006)
    await dashboard.expect_query("?day=2024-05-02")
    await expect(dashboard.day).to_have_value("2024-05-02")
    await expect(dashboard.shown).to_have_text("Showing 3 of 7 messages")
    await dashboard.bars.last.click()
    await expect(dashboard.rows).to_have_count(7)
    await dashboard.expect_query("")


async def test_day_of_the_chart_table_filters(open_page: OpenPage) -> None:
    """The table behind the chart does all that its bars do."""
    dashboard = await open_page()
    await dashboard.page.get_by_text("Show as a table").click()
    days = dashboard.page.get_by_role("table", name="Credits per day (UTC)")
    await expect(days.locator("tbody tr")).to_have_count(4)
    await expect(days.locator("tbody tr").nth(1)).to_contain_text("0.00")
    first = days.get_by_role("button").first
    await expect(first).to_have_attribute("aria-pressed", "false")
    await first.click()
    await dashboard.expect_ids(1000, 1001)
    await expect(first).to_have_attribute("aria-pressed", "true")
    await first.click()
    await expect(dashboard.rows).to_have_count(7)


async def test_filters_hold_together(open_page: OpenPage) -> None:
    """Each filter narrows what the others leave; the total is of what is left."""
    dashboard = await open_page()
    await expect(dashboard.clear).to_have_count(0)
    await expect(dashboard.total).to_contain_text("306.05")
    await dashboard.report.select_option("Tenant Obligations Report")
    await dashboard.expect_ids(1000, 1003)
    await expect(dashboard.total).to_contain_text("158.00")
    await dashboard.day.select_option("2024-05-01")
    await dashboard.expect_ids(1003)
    await expect(dashboard.total).to_contain_text("79.00")
    await expect(dashboard.shown).to_have_text("Showing 1 of 7 messages")
    tiles = dashboard.page.locator("dl.tiles")
    await expect(tiles).to_contain_text("306.05")
    await dashboard.clear.click()
    await expect(dashboard.rows).to_have_count(7)
    await expect(dashboard.shown).to_contain_text("7 messages")
    await dashboard.expect_query("")


async def test_messages_without_a_report_can_be_chosen(open_page: OpenPage) -> None:
    """No report is a choice too, and not the same as all of them."""
    dashboard = await open_page()
    await dashboard.report.select_option("No report")
    await dashboard.expect_ids(1001, 1004, 1005)
    await dashboard.page.reload()
    await dashboard.expect_ids(1001, 1004, 1005)


async def test_text_is_looked_for_in_report_names(open_page: OpenPage) -> None:
    """What is typed filters as it is typed, in any case."""
    dashboard = await open_page()
    await dashboard.search.press_sequentially("LEASE")
    await dashboard.expect_ids(1002)
    await dashboard.search.press("Enter")
    await dashboard.expect_ids(1002)
    await dashboard.search.fill("")
    await expect(dashboard.rows).to_have_count(7)


async def test_no_match_says_so_and_offers_all(open_page: OpenPage) -> None:
    """Filters that leave nothing leave a sentence and a way back."""
    dashboard = await open_page()
    await dashboard.search.fill("no such report")
    await expect(dashboard.page.get_by_text("No message matches")).to_be_visible()
    await dashboard.clear.click()
    await expect(dashboard.rows).to_have_count(7)
    await expect(dashboard.search).to_have_value("")


async def test_chosen_report_that_the_period_lacks_stays_visible(
    open_page: OpenPage,
) -> None:
    """A report of an old address is shown as chosen, and can be let go."""
    dashboard = await open_page("?report=Short+Lease+Report")
    await dashboard.open("?report=Gone")
    await expect(dashboard.chosen_report).to_contain_text("Gone")
    await dashboard.report.select_option("All reports")
    await expect(dashboard.rows).to_have_count(7)
