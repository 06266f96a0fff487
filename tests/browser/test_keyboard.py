"""Keyboard only: every control is reachable, shows its focus, and works."""

from typing import Final

from playwright.async_api import expect

from tests.browser.conftest import OpenPage
from tests.browser.dashboard import IN_BROWSER

pytestmark = IN_BROWSER

OUTLINE: Final = """
() => {
  const isOutlined = (it) => {
    const { outlineStyle, outlineWidth } = getComputedStyle(it);
    return outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
  };
  const it = document.activeElement;
  return isOutlined(it) || isOutlined(it.closest("label") ?? it);
}
"""
REACHED: Final = """
() => {
  const { tagName, textContent, id, type } = document.activeElement;
  return `${tagName} ${type ?? ""} ${id} ${textContent}`;
}
"""


async def test_plan_and_filters_are_used_without_a_mouse(open_page: OpenPage) -> None:
    """Tab reaches text and plan in the order of the page."""
    dashboard = await open_page()
    keyboard = dashboard.page.keyboard
    await dashboard.tab_to(dashboard.search)
    await keyboard.type("alter")
    await dashboard.expect_ids(1006)
    await dashboard.tab_to(dashboard.clear)
    await keyboard.press("Enter")
    await expect(dashboard.rows).to_have_count(7)
    await dashboard.tab_to(dashboard.compare)
    await keyboard.press("Enter")
    await dashboard.tab_to(dashboard.plans.get_by_label("Text rules"))
    await keyboard.press("ArrowDown")
    await expect(dashboard.plans.get_by_label("Token estimate")).to_be_checked()
    await keyboard.press("ArrowUp")
    await dashboard.expect_query("")


async def test_report_and_days_are_chosen_without_a_mouse(open_page: OpenPage) -> None:
    """Tab reaches reports, chart and table of days; arrow keys choose days."""
    dashboard = await open_page()
    keyboard = dashboard.page.keyboard
    await dashboard.tab_to(dashboard.reports.get_by_role("button", name="Short Lease"))
    await keyboard.press("Enter")
    await dashboard.expect_ids(1002)
    await keyboard.press("Enter")
    await expect(dashboard.rows).to_have_count(7)
    await dashboard.tab_to(dashboard.chart)
    await keyboard.press("ArrowLeft")
    await dashboard.expect_ids(1004, 1005, 1006)
    await keyboard.press("Shift+ArrowLeft")
    await dashboard.expect_ids(1002, 1003, 1004, 1005, 1006)
    await dashboard.expect_query("?from=2024-05-01&to=2024-05-02")
    await keyboard.press("Escape")
    await dashboard.tab_to(dashboard.page.get_by_text("Show as a table"))
    await keyboard.press("Enter")
    days = dashboard.page.get_by_role("table", name="Credits per day (UTC)")
    await dashboard.tab_to(days.get_by_role("button").last)
    await keyboard.press("Space")
    await dashboard.expect_ids(1004, 1005, 1006)


async def test_table_is_used_without_a_mouse(open_page: OpenPage) -> None:
    """Tab reaches export, sorting and rows in the order of the page."""
    dashboard = await open_page()
    keyboard = dashboard.page.keyboard
    await dashboard.tab_to(dashboard.page.get_by_role("button", name="Export CSV"))
    async with dashboard.page.expect_download():
        await keyboard.press("Enter")
    await dashboard.tab_to(dashboard.sorter("Credits Used"))
    await keyboard.press("Enter")
    await dashboard.expect_ids(1005, 1004, 1001, 1002, 1000, 1003, 1006)
    await dashboard.tab_to(dashboard.opener(1004))
    await keyboard.press("Enter")
    await expect(dashboard.table.locator("table")).to_contain_text("1.85")
    await keyboard.press("Space")
    await expect(dashboard.table.locator("table")).to_have_count(0)


async def test_focus_is_always_seen_and_never_trapped(open_page: OpenPage) -> None:
    """Each Tab moves to an element with a visible focus, until the page ends."""
    dashboard = await open_page()
    reached: list[str] = []
    while True:
        await dashboard.page.keyboard.press("Tab")
        here = await dashboard.page.evaluate(REACHED)
        if here.startswith("BODY"):
            break
        assert await dashboard.page.evaluate(OUTLINE), here
        reached.append(here)
        assert len(reached) < 80, reached
    openers = [
        each for each in reached if each.endswith(tuple(map(str, range(1000, 1007))))
    ]
    assert len(openers) == 7


async def test_focus_stays_where_it_was(open_page: OpenPage) -> None:
    """Sorting and opening a row keep the focus on the button."""
    dashboard = await open_page()
    sorter = dashboard.sorter("Credits Used")
    await sorter.focus()
    await dashboard.page.keyboard.press("Enter")
    await dashboard.expect_ids(1005, 1004, 1001, 1002, 1000, 1003, 1006)
    await expect(sorter).to_be_focused()
    opener = dashboard.opener(1001)
    await opener.focus()
    await dashboard.page.keyboard.press("Enter")
    await expect(dashboard.table.locator("table")).to_be_visible()
    await expect(opener).to_be_focused()
