"""The export: the very table that is on the screen, and nothing that runs."""

import csv
import io
from typing import Final

from playwright.async_api import expect

from service.sandbox.server import RunningSandbox
from tests.browser.conftest import OpenPage
from tests.browser.dashboard import IN_BROWSER, Dashboard
from tests.conftest import message, report

pytestmark = IN_BROWSER

FORMULAS: Final = (
    '=HYPERLINK("http://a.test")',
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\tx",
    "=1,\n2",
)
TITLES: Final = ["Message ID", "Timestamp", "Report Name", "Credits Used"]


async def export(dashboard: Dashboard) -> list[list[str]]:
    """The lines of the file that the button gives."""
    async with dashboard.page.expect_download() as started:
        await dashboard.page.get_by_role("button", name="Export CSV").click()
    download = await started.value
    assert download.suggested_filename == "copilot-usage.csv"
    raw = (await download.path()).read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")
    return list(csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline="")))


async def shown(dashboard: Dashboard) -> list[list[str]]:
    """The table's cells, as a file has them: without what groups digits."""
    total = await dashboard.total.locator("td, th").last.inner_text()
    lines = [*await dashboard.cells(), ["Total", "", "", total]]
    return [[*line[:3], line[3].replace(",", "")] for line in lines]


async def test_file_is_what_is_on_the_screen(open_page: OpenPage) -> None:
    """The same rows in the same order, the same texts, and the total of them."""
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


async def test_file_follows_the_screen(open_page: OpenPage) -> None:
    """What is filtered and sorted after the page was opened is in the file too."""
    dashboard = await open_page()
    await dashboard.sorter("Credits Used").click()
    await dashboard.search.fill("tenant")
    await dashboard.expect_ids(1000, 1003)
    _, *lines = await export(dashboard)
    assert lines == await shown(dashboard)
    assert lines[-1] == ["Total", "", "", "158.00"]


async def test_file_of_a_sandbox_period(
    open_page: OpenPage, upstream: RunningSandbox
) -> None:
    """A period of a hundred messages is in it, row by row, as on the screen."""
    options = upstream.sandbox.options
    upstream.sandbox.options = type(options)(messages=110, reports=8)
    dashboard = await open_page("?sorting=report_name:desc;credits_used:asc")
    await expect(dashboard.rows).to_have_count(110)
    _, *lines = await export(dashboard)
    assert lines == await shown(dashboard)


async def test_name_is_never_a_formula(
    open_page: OpenPage, upstream: RunningSandbox
) -> None:
    """A name that a spreadsheet would run begins with an apostrophe, and is whole."""
    upstream.sandbox.set_messages(
        [message(at, report_id=at) for at in range(len(FORMULAS))]
    )
    for at, name in enumerate(FORMULAS):
        upstream.sandbox.set_report(at, report(at, name, 5))
    dashboard = await open_page()
    _, *lines, _ = await export(dashboard)
    assert [line[2] for line in lines] == [f"'{name}" for name in FORMULAS]
