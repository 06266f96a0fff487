"""The export: the table on the screen."""

import csv
import io
from datetime import datetime
from typing import Final

from playwright.async_api import expect

from tests.browser.conftest import OpenPage
from tests.browser.dashboard import IN_BROWSER, Dashboard

pytestmark = IN_BROWSER

TITLES: Final = ["Message ID", "Timestamp (UTC)", "Report Name", "Credits Used"]
WHAT_IF: Final = "Would Cost under token-estimate/1 (not your plan)"
CONTAINS: Final = "report name contains report"
PERIOD: Final = "copilot-usage 2024-04-29 to 2024-05-02"
FILES: Final = {
    "": (7, f"{PERIOD}, text-rules-1.csv"),
    "?sorting=report_name:desc&search=report&day=2024-05-01": (
        2,
        f"{PERIOD}, text-rules-1, Wednesday 1 May 2024, {CONTAINS}.csv",
    ),
    "?from=2024-05-01&to=2024-05-02": (
        5,
        f"{PERIOD}, text-rules-1, 2024-05-01 to 2024-05-02.csv",
    ),
    "?sorting=credits_used:desc;report_name:asc&tz=Asia/Tokyo": (
        7,
        f"{PERIOD}, text-rules-1.csv",
    ),
    "?plan=token-estimate/1&report=": (
        3,
        f"{PERIOD}, token-estimate-1, not your plan, messages without a report.csv",
    ),
}
"""Query of the address; number of rows, and the name of the file."""


async def export(dashboard: Dashboard, name: str) -> list[list[str]]:
    """Download the file of this name, and return its lines."""
    async with dashboard.page.expect_download() as started:
        await dashboard.page.get_by_role("button", name="Export CSV").click()
    download = await started.value
    assert download.suggested_filename == name
    raw = (await download.path()).read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")
    return list(csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline="")))


async def shown(dashboard: Dashboard) -> list[list[str]]:
    """Return the table's cells in the formats of the file."""
    return [
        [message_id, iso(timestamp), report, credits_used.replace(",", "")]
        for message_id, timestamp, report, credits_used in await dashboard.cells()
    ]


def iso(timestamp: str) -> str:
    """Return `29-04-2024 02:08` in the order that all spreadsheets read."""
    return datetime.strptime(timestamp, "%d-%m-%Y %H:%M").strftime("%Y-%m-%d %H:%M")  # noqa: DTZ007 - the wall clock of the view


async def test_file_is_what_is_on_the_screen(open_page: OpenPage) -> None:
    """The file has the rows of the table in order, and no total."""
    dashboard = await open_page()
    for query, (rows, name) in FILES.items():
        await dashboard.go(query)
        await expect(dashboard.rows).to_have_count(rows)
        titles, *lines = await export(dashboard, name)
        assert titles[:3:2] == TITLES[:3:2]
        assert titles[3] == (WHAT_IF if "plan=" in query else TITLES[3])
        assert lines == await shown(dashboard)
