"""The export: the table on the screen."""

import csv
import io
from typing import Final

from playwright.async_api import expect

from tests.browser.conftest import OpenPage
from tests.browser.dashboard import IN_BROWSER, Dashboard

pytestmark = IN_BROWSER

TITLES: Final = ["Message ID", "Timestamp", "Report Name", "Credits Used"]


async def export(dashboard: Dashboard) -> list[list[str]]:
    """Download the file, and return its lines."""
    async with dashboard.page.expect_download() as started:
        await dashboard.page.get_by_role("button", name="Export CSV").click()
    download = await started.value
    assert download.suggested_filename == "copilot-usage.csv"
    raw = (await download.path()).read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")
    return list(csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline="")))


async def shown(dashboard: Dashboard) -> list[list[str]]:
    """Return the table's cells without digit grouping, as in the file."""
    total = await dashboard.total.locator("td, th").last.inner_text()
    lines = [*await dashboard.cells(), ["Total", "", "", total]]
    return [[*line[:3], line[3].replace(",", "")] for line in lines]


async def test_file_is_what_is_on_the_screen(open_page: OpenPage) -> None:
    """The file has the rows of the table in order, and their total."""
    dashboard = await open_page()
    for query, rows in {
        "": 7,
        "?sorting=report_name:desc&search=report&day=2024-05-01": 2,
        "?sorting=credits_used:desc;report_name:asc": 7,
        "?plan=token-estimate/1&report=": 3,
    }.items():
        await dashboard.go(query)
        await expect(dashboard.rows).to_have_count(rows)
        titles, *lines = await export(dashboard)
        assert titles == TITLES
        assert lines == await shown(dashboard)
