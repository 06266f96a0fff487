"""The shell: the pages, their addresses, and the embed mode."""

from typing import Final

import pytest
from playwright.async_api import expect

from tests.browser.axe import check
from tests.browser.conftest import NewPage, OpenPage
from tests.browser.dashboard import IN_BROWSER

pytestmark = IN_BROWSER

OTHER_PAGES: Final = {"events": "Events", "vehicles": "Vehicles"}


async def test_navigation_leads_to_each_page_and_back(open_page: OpenPage) -> None:
    """A link changes address, title and content; the browser's back returns."""
    dashboard = await open_page()
    dashboard.watch.expect("status of 40[14]")
    page = dashboard.page
    for path, title in OTHER_PAGES.items():
        await page.get_by_role("link", name=title).click()
        await expect(page.get_by_role("heading", level=1)).to_have_text(title)
        await expect(page).to_have_title(f"{title} – Copilot usage")
        await dashboard.expect_query(path)
        current = page.get_by_label("Pages").locator("[aria-current=page]")
        await expect(current).to_have_text(title)
        await page.go_back()
        await expect(dashboard.rows).to_have_count(7)


@pytest.mark.parametrize("path", OTHER_PAGES)
async def test_page_is_loaded_from_its_address(new_page: NewPage, path: str) -> None:
    """The address of a page loads it, and the page is accessible."""
    dashboard = await new_page()
    # Who is not signed in sees how to sign in.
    dashboard.watch.expect("status of 40[14]")
    await dashboard.open(path)
    heading = dashboard.page.get_by_role("heading", level=1)
    await expect(heading).to_have_text(OTHER_PAGES[path])
    await check(dashboard)


async def test_embedded_page_has_no_navigation(open_page: OpenPage) -> None:
    """`?embed=1` hides the navigation, also after a change of the view."""
    dashboard = await open_page("?embed=1")
    await expect(dashboard.page.get_by_role("navigation")).to_have_count(0)
    await dashboard.sorter("Credits Used").click()
    await dashboard.expect_query("?sorting=credits_used:asc&embed=1")
    await dashboard.page.reload()
    await expect(dashboard.rows).to_have_count(7)
    await expect(dashboard.page.get_by_role("navigation")).to_have_count(0)
