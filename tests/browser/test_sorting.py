"""Sorting: three states of a column, several columns at once, by mouse and by keys."""

from typing import Final

import pytest
from playwright.async_api import expect

from tests.browser.conftest import OpenPage
from tests.browser.dashboard import IN_BROWSER, Dashboard

pytestmark = IN_BROWSER

NAME: Final = "Report Name"
CREDITS: Final = "Credits Used"
ORIGINAL: Final = (1000, 1001, 1002, 1003, 1004, 1005, 1006)
ORDERS: Final = {
    NAME: {
        "ascending": (1006, 1002, 1000, 1003, 1001, 1004, 1005),
        "descending": (1000, 1003, 1002, 1006, 1001, 1004, 1005),
    },
    CREDITS: {
        "ascending": (1005, 1004, 1001, 1002, 1000, 1003, 1006),
        "descending": (1000, 1003, 1006, 1002, 1001, 1004, 1005),
    },
}
"""Equal rows keep the order of the messages; rows without a report are last."""

WAYS: Final = ("click", "Enter", "Space")


async def use(
    dashboard: Dashboard, title: str, way: str, *, more: bool = False
) -> None:
    """Press a column's button by mouse or key, with Shift for `more`."""
    button = dashboard.sorter(title)
    if way == "click":
        await button.click(modifiers=["Shift"] if more else [])
        return
    await button.focus()
    await dashboard.page.keyboard.press(f"Shift+{way}" if more else way)


async def expect_said(dashboard: Dashboard, sentence: str) -> None:
    """Wait for a sentence in a live region."""
    live = dashboard.page.locator("[aria-live=polite], [role=status]")
    await expect(live.filter(has_text=sentence).last).to_have_count(1)


async def expect_sorted(dashboard: Dashboard, title: str, direction: str) -> None:
    """Wait until only this column has `aria-sort`."""
    sorted_headers = dashboard.table.locator("th[aria-sort]:not([aria-sort=none])")
    await expect(sorted_headers).to_have_count(1)
    await expect(dashboard.header(title)).to_have_attribute("aria-sort", direction)


@pytest.mark.parametrize("way", WAYS)
async def test_column_goes_through_three_states(open_page: OpenPage, way: str) -> None:
    """Ascending, then descending, then the order of the messages, by mouse and keys."""
    dashboard = await open_page()
    for title, orders in ORDERS.items():
        for direction, order in orders.items():
            await use(dashboard, title, way)
            await dashboard.expect_ids(*order)
            await expect_sorted(dashboard, title, direction)
            await expect_said(dashboard, f"Sorted by {title} {direction}.")
        await use(dashboard, title, way)
        await dashboard.expect_ids(*ORIGINAL)
    await expect(
        dashboard.table.locator("th[aria-sort]:not([aria-sort=none])")
    ).to_have_count(0)
    await expect_said(dashboard, "In the original order.")


@pytest.mark.parametrize("way", WAYS)
async def test_shift_adds_a_column(open_page: OpenPage, way: str) -> None:
    """Shift adds a column to the order, by mouse and keys."""
    dashboard = await open_page()
    await use(dashboard, CREDITS, "click")
    await use(dashboard, CREDITS, "click")
    await dashboard.expect_ids(*ORDERS[CREDITS]["descending"])
    await use(dashboard, NAME, way, more=True)
    await dashboard.expect_ids(1006, 1000, 1003, 1002, 1001, 1004, 1005)
    await dashboard.expect_query("?sorting=credits_used:desc;report_name:asc")
    await expect_sorted(dashboard, CREDITS, "descending")
    await expect_said(
        dashboard, f"Sorted by {CREDITS} descending, then {NAME} ascending."
    )
