"""The address: it says all of the view, brings it back, and is never believed."""

from typing import Final

import pytest
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
    "?sorting=:::;;;a:b:c;%3B": ("", ORIGINAL),
    "?sorting=text:desc;constructor:asc;__proto__:asc": ("", ORIGINAL),
    "?sorting=bogus:asc;credits_used:desc;also": (
        "?sorting=credits_used:desc",
        DEAREST_FIRST,
    ),
    "?sorting=credits_used:sideways": ("?sorting=credits_used:asc", BY_CREDITS),
    "?sorting=credits_used:DESC": ("?sorting=credits_used:asc", BY_CREDITS),
    "?sorting=report_name:desc;report_name:asc&sorting=credits_used:asc": (
        "?sorting=report_name:desc",
        BY_NAME,
    ),
    "?day=2024-02-30": ("", ORIGINAL),
    "?day=2024-05-01T00:00&day=2024-05-02": ("", ORIGINAL),
    "?plan=../../x&plan=token-estimate": ("", ORIGINAL),
    "?unknown=1&toString=2&%=%E0%A4%A&&&=": ("", ORIGINAL),
}
"""What an address says, what becomes of it, and the rows that are seen."""

TEXTS: Final = {
    "%00": "\0",
    "%ED%A0%80": "\ufffd\ufffd\ufffd",
    "%3Cscript%3EpwnedBy(1)%3C/script%3E": "<script>pwnedBy(1)</script>",
    "%22%3E%3Cimg+src=x+onerror=alert(1)%3E": '"><img src=x onerror=alert(1)>',
    "%E2%80%AEtcartnoC": "\u202etcartnoC",
    "%": "%",
}
"""Texts as an address has them, and as they read."""

LONGEST: Final = 300
"""Of a text in an address no more is read; a longer name cannot be chosen by it."""


async def test_view_survives_a_reload(open_page: OpenPage) -> None:
    """What was sorted, filtered and chosen is there again from the address alone."""
    dashboard = await open_page()
    await dashboard.sorter("Credits Used").click()
    await dashboard.sorter("Credits Used").click()
    await dashboard.sorter("Report Name").click(modifiers=["Shift"])
    await dashboard.day.select_option("2024-05-02")
    await dashboard.search.fill("alter & more")
    await dashboard.search.fill("ALTER")
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


async def test_history_does_not_grow(open_page: OpenPage) -> None:
    """Going back leaves the page, however much was changed on it."""
    dashboard = await open_page()
    length = "history.length"
    before = await dashboard.page.evaluate(length)
    await dashboard.sorter("Credits Used").click()
    await dashboard.search.press_sequentially("tenant")
    await dashboard.expect_ids(1000, 1003)
    await dashboard.clear.click()
    await dashboard.expect_ids(1005, 1004, 1001, 1002, 1000, 1003, 1006)
    assert await dashboard.page.evaluate(length) == before


async def test_default_view_has_a_bare_address(open_page: OpenPage) -> None:
    """With everything as at first, nothing is in the address."""
    dashboard = await open_page("?sorting=report_name:desc&search=short&day=2024-05-01")
    await dashboard.expect_ids(1002)
    await dashboard.clear.click()
    await dashboard.sorter("Report Name").click()
    await dashboard.expect_ids(*ORIGINAL)
    await dashboard.expect_query("")


async def test_hostile_address_is_as_if_it_said_nothing(open_page: OpenPage) -> None:
    """What makes no sense is dropped, from the view and from the address."""
    dashboard = await open_page("?sorting=report_name:desc")
    await dashboard.expect_ids(*BY_NAME)
    for query, (becomes, order) in HOSTILE.items():
        await dashboard.go("?search=short")
        await dashboard.expect_ids(1002)
        await dashboard.go(query)
        await dashboard.expect_ids(*order)
        await dashboard.expect_query(becomes)


@pytest.mark.parametrize(
    "query, becomes, order",
    [
        ("?%=%E0%A4%A&&sorting=:;%3B&day=2024-02-30&plan=../../x", "", ORIGINAL),
        ("?x&sorting=no:asc;report_name:desc;", "?sorting=report_name:desc", BY_NAME),
    ],
    ids=["nothing", "something"],
)
async def test_hostile_address_loads(
    open_page: OpenPage, query: str, becomes: str, order: tuple[int, ...]
) -> None:
    """The page comes up whatever its first address says."""
    dashboard = await open_page(query)
    await dashboard.expect_ids(*order)
    await dashboard.expect_query(becomes)


async def test_hostile_text_is_text(new_page: NewPage) -> None:
    """A text of the address is searched for as it stands, and runs nothing."""
    dashboard = await new_page()
    await dashboard.open("?search=%3Cscript%3E1%3C/script%3E&report=%3Cimg%20src=x%3E")
    for given, reads in TEXTS.items():
        await dashboard.go(f"?search={given}&report={given}")
        await expect(dashboard.search).to_have_value(reads)
        await expect(dashboard.page.get_by_text("No message matches")).to_be_visible()
        await expect(dashboard.chosen_report).to_contain_text("not in this period")
        await expect(dashboard.page.locator("main :is(script, img)")).to_have_count(0)
    await dashboard.clear.click()
    await dashboard.expect_ids(*ORIGINAL)


async def test_lone_surrogate_is_typed_safely(open_page: OpenPage) -> None:
    """Half a character can be searched for; the address holds its replacement."""
    dashboard = await open_page()
    await dashboard.search.evaluate(
        """(field) => {
          const { set } = Object.getOwnPropertyDescriptor(
            HTMLInputElement.prototype, "value");
          set.call(field, "\\ud800");
          field.dispatchEvent(new Event("input", { bubbles: true }));
        }"""
    )
    await expect(dashboard.page.get_by_text("No message matches")).to_be_visible()
    await dashboard.expect_query("?search=%EF%BF%BD")


async def test_long_address_is_cut(new_page: NewPage) -> None:
    """As much of a query as the service lets through is read, and is then cut short."""
    dashboard = await new_page()
    await dashboard.open("?search=" + "x" * 8_000)
    await expect(dashboard.page.get_by_text("No message matches")).to_be_visible()
    await expect(dashboard.search).to_have_value("x" * LONGEST)


async def test_ten_thousand_characters(open_page: OpenPage) -> None:
    """A query longer than any that loads the page does no harm to one that is open."""
    dashboard = await open_page()
    pairs = "credits_used:desc;" * 600
    long = "y" * 10_000
    query = f"?sorting={pairs}&report={long}&search={long}"
    await dashboard.go(query)
    await expect(dashboard.page.get_by_text("No message matches")).to_be_visible()
    await expect(dashboard.search).to_have_value("y" * LONGEST)
    await expect(dashboard.chosen_report).to_have_text("All reports")
    await dashboard.clear.click()
    await dashboard.expect_ids(1000, 1003, 1006, 1002, 1001, 1004, 1005)


async def test_unknown_plan_has_a_way_out(new_page: NewPage) -> None:
    """A plan that there is not is told, and the default one is a click away."""
    dashboard = await new_page()
    dashboard.watch.expect("status of 400")
    await dashboard.open("?plan=nonsense")
    await expect(dashboard.problem).to_contain_text("no such plan")
    assert dashboard.watch.asked("/usage") == 1
    await dashboard.page.get_by_role("button", name="Show the default plan").click()
    await dashboard.expect_ids(*ORIGINAL)
    await dashboard.expect_query("")


async def test_back_brings_the_view_of_the_address(open_page: OpenPage) -> None:
    """An entry of the history that others made is shown as it says."""
    dashboard = await open_page()
    await dashboard.go("?search=short")
    await dashboard.expect_ids(1002)
    await dashboard.page.go_back()
    await dashboard.expect_ids(*ORIGINAL)
