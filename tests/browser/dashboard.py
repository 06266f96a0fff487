"""The page object: elements by role, label and text, as users find them."""

from typing import Final

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.watch import Watch

IN_BROWSER: Final = [
    pytest.mark.services,
    # The browser belongs to one event loop, in which all its tests run.
    pytest.mark.asyncio(loop_scope="session"),
]
MINUS: Final = "\N{MINUS SIGN}"
"""The sign of negative amounts."""

TABBABLE: Final = 400
"""Maximum presses of Tab to reach an element."""

GO: Final = """
(query) => {
  history.pushState(null, "", query);
  dispatchEvent(new PopStateEvent("popstate"));
}
"""
CELLS: Final = """
(rows) => rows.map((row) => [...row.cells].map((cell) => cell.innerText.trim()))
"""


class Dashboard:
    """One page of the dashboard."""

    def __init__(self, page: Page, url: str, watch: Watch) -> None:
        self.page = page
        self.url = url
        self.watch = watch
        self.scroll = page.locator(".table-scroll[role=region]")
        self.table = self.scroll.locator("table").first
        self.rows = self.table.locator("tbody tr:has(button[aria-expanded])")
        self.total = self.table.locator("tfoot")
        self.filters = page.get_by_role("search", name="Filters")
        self.shown = self.filters.get_by_role("status")
        self.plans = page.get_by_role("group", name="under another plan")
        self.compare = page.get_by_text("Compare plans")
        self.problem = page.get_by_role("alert")
        self.day = page.get_by_label("Day", exact=True)
        self.report = page.get_by_label("Report", exact=True)
        self.chosen_report = self.report.locator("option:checked")
        self.search = page.get_by_role("searchbox", name="Report name contains")
        self.clear = page.get_by_role("button", name="Clear filters")
        self.bars = page.locator(".chart-column")
        self.chart = page.get_by_role("slider")
        self.how_much = page.get_by_role("region", name="How much")
        self.reports = page.get_by_role("region", name="Which report")

    async def open(self, query: str = "") -> None:
        """Load the page; a query begins with a question mark."""
        await self.page.goto(f"{self.url}/dashboard/{query}")

    async def go(self, query: str) -> None:
        """Change the address of the open page, as an entry of the history does."""
        await self.page.evaluate(GO, query or "?")

    def header(self, title: str) -> Locator:
        """Locate a column's header."""
        return self.table.locator("thead th").filter(has_text=title)

    def sorter(self, title: str) -> Locator:
        """Locate the button that sorts by a column."""
        return self.header(title).get_by_role("button")

    def opener(self, message_id: int | str) -> Locator:
        """Locate the button that opens a message's row."""
        name = f"Message {message_id}, show how its price was made"
        return self.table.get_by_role("button", name=name, exact=True)

    async def ids(self) -> list[str]:
        """Return the message ids of the rendered rows, from the top."""
        return [row[0] for row in await self.cells()]

    async def cells(self) -> list[list[str]]:
        """Return the cells of the rendered rows, from the top."""
        rows: list[list[str]] = await self.rows.evaluate_all(CELLS)
        return rows

    async def expect_ids(self, *ids: int) -> None:
        """Wait for exactly these rows, in this order."""
        openers = self.rows.locator("button[aria-expanded]")
        await expect(openers).to_have_text([str(each) for each in ids])

    async def expect_query(self, query: str) -> None:
        """Wait for the address to have this query."""
        await expect(self.page).to_have_url(f"{self.url}/dashboard/{query}")

    async def tab_to(self, target: Locator) -> None:
        """Move the focus to an element with the Tab key."""
        for _ in range(TABBABLE):
            if await target.evaluate("(it) => it === document.activeElement"):
                return
            await self.page.keyboard.press("Tab")
        raise AssertionError(f"the keyboard does not reach {target}")
