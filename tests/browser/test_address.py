"""The address has the whole view, restores it, and is validated."""

from typing import Final

from playwright.async_api import expect

from tests.browser.conftest import NewPage, OpenPage
from tests.browser.dashboard import IN_BROWSER

pytestmark = IN_BROWSER

ORIGINAL: Final = (1000, 1001, 1002, 1003, 1004, 1005, 1006)
BY_NAME: Final = (1000, 1003, 1002, 1006, 1001, 1004, 1005)
BY_CREDITS: Final = (1005, 1004, 1001, 1002, 1000, 1003, 1006)
DEAREST_FIRST: Final = (1000, 1003, 1006, 1002, 1001, 1004, 1005)

HOSTILE: Final = {
    "?sorting=credits_used": ("", ORIGINAL),
    "?sorting=text:desc;constructor:asc;__proto__:asc": ("", ORIGINAL),
    "?sorting=bogus:asc;credits_used:desc;also": (
        "?sorting=credits_used:desc",
        DEAREST_FIRST,
    ),
    "?sorting=credits_used:sideways": ("?sorting=credits_used:asc", BY_CREDITS),
    "?sorting=report_name:desc;report_name:asc&sorting=credits_used:asc": (
        "?sorting=report_name:desc",
        BY_NAME,
    ),
    "?day=2024-02-30": ("", ORIGINAL),
    "?plan=../../x&plan=token-estimate": ("", ORIGINAL),
    "?unknown=1&toString=2&%=%E0%A4%A&&&=": ("", ORIGINAL),
}
"""Query of the address, resulting query, and visible rows."""

TEXTS: Final = {
    "%00": "\0",
    "%ED%A0%80": "\ufffd\ufffd\ufffd",
    "%3Cscript%3EpwnedBy(1)%3C/script%3E": "<script>pwnedBy(1)</script>",
    "%22%3E%3Cimg+src=x+onerror=alert(1)%3E": '"><img src=x onerror=alert(1)>',
    "%E2%80%AEtcartnoC": "\u202etcartnoC",
}
"""Texts as encoded in an address, and decoded."""


async def test_view_survives_a_reload(open_page: OpenPage) -> None:
    """The address alone restores sorting, filters and plan."""
    dashboard = await open_page()
    await dashboard.sorter("Credits Used").click()
    await dashboard.sorter("Credits Used").click()
    await dashboard.sorter("Report Name").click(modifiers=["Shift"])
    await dashboard.day.select_option("2024-05-02")
    await dashboard.search.fill("alter & more")
    await dashboard.search.fill("ALTER")
    await dashboard.compare.click()
    await dashboard.plans.get_by_label("Token estimate").check()
    await dashboard.expect_query(
        "?sorting=credits_used:desc;report_name:asc"
        "&day=2024-05-02&search=ALTER&plan=token-estimate%2F1"
    )
    before = await dashboard.cells()
    await dashboard.page.reload()
    await dashboard.expect_ids(1006)
    assert await dashboard.cells() == before
    await expect(dashboard.day).to_have_value("2024-05-02")
    await expect(dashboard.search).to_have_value("ALTER")
    await expect(dashboard.plans.get_by_label("Token estimate")).to_be_checked()
    header = dashboard.header("Credits Used")
    await expect(header).to_have_attribute("aria-sort", "descending")


async def test_hostile_address_is_as_if_it_said_nothing(open_page: OpenPage) -> None:
    """Invalid parts are dropped from the view and from the address."""
    dashboard = await open_page("?sorting=report_name:desc")
    await dashboard.expect_ids(*BY_NAME)
    for query, (becomes, order) in HOSTILE.items():
        await dashboard.go("?search=short")
        await dashboard.expect_ids(1002)
        await dashboard.go(query)
        await dashboard.expect_ids(*order)
        await dashboard.expect_query(becomes)


async def test_ignored_parts_are_named(open_page: OpenPage) -> None:
    """A notice names what is not valid in the address, until the view is changed."""
    query = "?tz=Mars/Base&from=2024-13-01&to=2024-05-07&search=short&utm_source=mail"
    dashboard = await open_page(query)
    ignored = "from=2024-13-01, to=2024-05-07, tz=Mars/Base"
    notice = dashboard.page.get_by_text("parts of the address are not valid")
    await expect(notice).to_have_text(
        f"These parts of the address are not valid, and are ignored: {ignored}"
    )
    await dashboard.expect_ids(1002)
    await dashboard.expect_query("?search=short")
    await dashboard.search.fill("")
    await dashboard.expect_ids(*ORIGINAL)
    await expect(notice).to_have_count(0)
    await dashboard.go("?tz=Europe/London&by=day")
    await dashboard.expect_query("?tz=Europe/London")
    await expect(notice).to_have_count(0)


async def test_hostile_text_is_text(new_page: NewPage) -> None:
    """A text of the address is searched for literally, and runs nothing."""
    dashboard = await new_page()
    await dashboard.open("?search=%3Cscript%3E1%3C/script%3E&report=%3Cimg%20src=x%3E")
    await expect(dashboard.search).to_have_value("<script>1</script>")
    for given, reads in TEXTS.items():
        await dashboard.go(f"?search={given}&report={given}")
        await expect(dashboard.search).to_have_value(reads)
        await expect(dashboard.page.get_by_text("No message matches")).to_be_visible()
        await expect(dashboard.chosen_report).to_contain_text("not in this period")
        await expect(dashboard.page.locator("main :is(script, img)")).to_have_count(0)
    await dashboard.clear.click()
    await dashboard.expect_ids(*ORIGINAL)
