"""Unexpected data: shown literally, never run, without breaking the page."""

import json
from typing import Any, Final

from playwright.async_api import Route, expect

from service.sandbox.server import RunningSandbox
from tests.browser.conftest import NewPage, OpenPage
from tests.browser.dashboard import IN_BROWSER, MINUS
from tests.conftest import message, report

pytestmark = IN_BROWSER

MARKUP: Final = '<img src=x onerror="alert(1)"><script>alert(2)</script><b>Lease</b>'
RIGHT_TO_LEFT: Final = "دعوى إيجار \u202eevil"
LONG: Final = "A very long report " * 520 + "with an end"
WIDTH: Final = "document.documentElement.scrollWidth - innerWidth"
NO_WIDER: Final = 0

NAMES: Final = (
    MARKUP,
    RIGHT_TO_LEFT,
    LONG,
    "x" * 10_000,
    "a\u0001\u0007\u001bb",
    "${alert(1)} {{alert(2)}} %s",
    "__proto__",
    "All reports",
    "   ",
)


async def test_report_names_are_text(
    open_page: OpenPage, upstream: RunningSandbox
) -> None:
    """Any name is shown, can be selected, and does not widen the page."""
    upstream.sandbox.set_messages(
        [message(at, report_id=at) for at in range(len(NAMES))]
    )
    for at, name in enumerate(NAMES):
        upstream.sandbox.set_report(at, report(at, name, 5))
    dashboard = await open_page(viewport={"width": 375, "height": 800})
    texts = await dashboard.rows.locator("td:nth-child(3)").all_text_contents()
    assert texts == list(NAMES)
    for at in range(len(NAMES)):
        await dashboard.opener(at).click()
    await expect(dashboard.table.locator("table")).to_have_count(len(NAMES))
    assert await dashboard.page.evaluate(WIDTH) == NO_WIDER
    await expect(dashboard.page.locator("main :is(script, img, b)")).to_have_count(0)
    await dashboard.sorter("Report Name").click()
    await expect(dashboard.header("Report Name")).to_have_attribute(
        "aria-sort", "ascending"
    )
    chosen = set()
    for option in range(2, 2 + len(NAMES)):
        await dashboard.report.select_option(index=option)
        value = await dashboard.report.input_value()
        at = next(at for at, name in enumerate(NAMES) if value.endswith(name))
        await dashboard.expect_ids(at)
        chosen.add(at)
    assert len(chosen) == len(NAMES)
    assert await dashboard.page.evaluate(WIDTH) == NO_WIDER


UNUSUAL: Final[list[Any]] = [
    {"message_id": 1, "timestamp": "2024-04-29T02:08:29.375Z", "credits_used": 2},
    None,
    [],
    5,
    "row",
    {},
    {"message_id": None, "timestamp": None, "report_name": None, "credits_used": None},
    {"message_id": {"a": 1}, "timestamp": 5, "report_name": [1], "credits_used": "7"},
    {"message_id": "<b>9</b>", "timestamp": "yesterday", "credits_used": 1e308},
    {"message_id": 1, "timestamp": "2024-04-30", "credits_used": -3.5},
    {"message_id": 2**53 + 1, "timestamp": "0001-01-01T00:00:00Z", "credits_used": 0},
    {"message_id": -1, "timestamp": "9999-12-31T23:59:59Z", "credits_used": 0.1},
    {
        "message_id": 12,
        "timestamp": "2024-04-29T23:30:00-05:00",
        "credits_used": 0.2,
        "report_name": "",
        "toString": "x",
    },
]


async def test_id_above_2_to_the_53_is_exact(
    open_page: OpenPage, upstream: RunningSandbox
) -> None:
    """An id that JavaScript would round is shown, and its message opens."""
    upstream.sandbox.set_messages([message(2**53 + 1, "rent rent")])
    dashboard = await open_page()
    await dashboard.opener(2**53 + 1).click()
    await expect(dashboard.table.locator("table")).to_contain_text("1.85")


async def test_unusual_rows_are_shown_as_they_came(new_page: NewPage) -> None:
    """Invalid rows are shown and counted, and excluded from the total."""
    dashboard = await new_page()
    body = json.dumps({"usage": UNUSUAL, "more": True})

    async def answer_so(route: Route) -> None:
        await route.fulfill(status=200, content_type="application/json", body=body)

    await dashboard.page.route("**/usage", answer_so)
    await dashboard.open()
    await expect(dashboard.rows).to_have_count(len(UNUSUAL))
    await expect(dashboard.page.locator(".notice")).to_contain_text("8 messages")
    await expect(dashboard.total).to_contain_text(f"{MINUS}1.20")
    cells = await dashboard.cells()
    assert cells[0] == ["1", "29-04-2024 02:08", "", "2.00"]
    assert [row[3] for row in cells[1:9]] == ["–"] * 8
    assert cells[8][:2] == ["<b>9</b>", "yesterday"]
    assert cells[10][0] == str(2**53 + 1)
    assert cells[12][1] == "30-04-2024 04:30"
    for _ in range(2):
        await dashboard.sorter("Credits Used").click()
    await expect(dashboard.rows.first.locator("td").last).to_have_text("2.00")
    await dashboard.opener("<b>9</b>").click()
    await expect(dashboard.table.locator("tr.details-row, tr + tr")).to_contain_text(
        "cannot be"
    )
