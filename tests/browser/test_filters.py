"""Filters by bar, day, report and text, with the count and total of the matches."""

from playwright.async_api import expect

from tests.browser.conftest import OpenPage
from tests.browser.dashboard import IN_BROWSER

pytestmark = IN_BROWSER


async def test_bar_filters_by_its_day_and_back(open_page: OpenPage) -> None:
    """A click on a day's bar shows that day only; a second click shows all days."""
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


async def test_filtered_figure_has_the_days_of_its_filter(open_page: OpenPage) -> None:
    """`How much` shows the days of its figure; without filtered days, the period's."""
    dashboard = await open_page("?tz=Asia/Tokyo")
    period = dashboard.how_much.get_by_text("29-04-2024 to 02-05-2024 (Asia/Tokyo)")
    await expect(period).to_be_visible()
    await dashboard.report.select_option("Tenant Obligations Report")
    await dashboard.expect_ids(1000, 1003)
    await expect(period).to_be_visible()
    await dashboard.go("?from=2024-04-29&to=2024-05-01")
    await dashboard.expect_ids(1000, 1001, 1002, 1003)
    days = dashboard.how_much.get_by_text("29-04-2024 to 01-05-2024 (UTC)")
    await expect(days).to_be_visible()
    await expect(dashboard.how_much).not_to_contain_text("02-05-2024")
    await dashboard.day.select_option("2024-05-02")
    await dashboard.expect_ids(1004, 1005, 1006)
    await expect(dashboard.how_much.get_by_text("02-05-2024 (UTC)")).to_be_visible()
    await expect(dashboard.how_much).not_to_contain_text(" to ")


async def test_filters_hold_together(open_page: OpenPage) -> None:
    """Filters are combined; the total is that of the matches."""
    dashboard = await open_page()
    await expect(dashboard.clear).to_be_disabled()
    await expect(dashboard.total).to_contain_text("306.05")
    await dashboard.report.select_option("Tenant Obligations Report")
    await dashboard.expect_ids(1000, 1003)
    await expect(dashboard.total).to_contain_text("158.00")
    await dashboard.day.select_option("2024-05-01")
    await dashboard.expect_ids(1003)
    await expect(dashboard.total).to_contain_text("79.00")
    await expect(dashboard.shown).to_have_text("Showing 1 of 7 messages")
    await expect(dashboard.how_much).to_contain_text("79.00 credits")
    await expect(dashboard.how_much).to_contain_text("of the 306.05 credits")
    await dashboard.clear.click()
    await expect(dashboard.rows).to_have_count(7)
    await expect(dashboard.shown).to_contain_text("7 messages")
    await dashboard.expect_query("")


async def test_no_match_says_so_and_offers_all(open_page: OpenPage) -> None:
    """Without a match the page shows a text and a button that clears the filters."""
    dashboard = await open_page()
    await dashboard.search.fill("no such report")
    await expect(dashboard.page.get_by_text("No message matches")).to_be_visible()
    await dashboard.clear.click()
    await expect(dashboard.rows).to_have_count(7)
    await expect(dashboard.search).to_have_value("")
