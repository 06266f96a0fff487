"""axe-core on every state of the page, in light and dark mode: no violation."""

import asyncio

import pytest
from playwright.async_api import Route, expect

from tests.browser.axe import check
from tests.browser.conftest import NewPage, OpenPage, Serve
from tests.browser.dashboard import IN_BROWSER, Dashboard

pytestmark = IN_BROWSER


async def with_open_rows(dashboard: Dashboard) -> None:
    """Explanations of both kinds of price are open."""
    await dashboard.opener(1000).click()
    await dashboard.opener(1005).click()
    await expect(dashboard.table.locator("table")).to_have_count(2)


async def with_a_failed_row(dashboard: Dashboard) -> None:
    """An explanation is unavailable."""
    dashboard.watch.expect("status of 404")
    await dashboard.page.route(
        "**/usage/1001*", lambda route: route.fulfill(status=404)
    )
    await dashboard.opener(1001).click()
    await expect(
        dashboard.table.get_by_role("button", name="Try again")
    ).to_be_visible()


async def sorted_by_two(dashboard: Dashboard) -> None:
    """Both columns sort."""
    await dashboard.sorter("Credits Used").click()
    await dashboard.sorter("Report Name").click(modifiers=["Shift"])
    await dashboard.expect_query("?sorting=credits_used:asc;report_name:asc")


async def with_another_plan(dashboard: Dashboard) -> None:
    """Another plan prices the period."""
    await dashboard.compare.click()
    await dashboard.plans.get_by_label("Token estimate").check()
    await expect(dashboard.page.locator("header")).to_contain_text("Token estimate")
    await expect(dashboard.page.locator("main [aria-busy=true]")).to_have_count(0)


async def with_a_chosen_day(dashboard: Dashboard) -> None:
    """A bar was clicked, and the chart's table is open."""
    await dashboard.bars.last.click()
    await dashboard.page.get_by_text("Show as a table").click()
    await dashboard.expect_ids(1004, 1005, 1006)


async def without_a_match(dashboard: Dashboard) -> None:
    """The filters match no message."""
    await dashboard.search.fill("no such report")
    await expect(dashboard.page.get_by_text("No message matches")).to_be_visible()


async def test_period_is_accessible(open_page: OpenPage) -> None:
    """A period with messages has no violation in any view."""
    dashboard = await open_page()
    await check(dashboard)
    for act in (
        with_open_rows,
        with_a_failed_row,
        sorted_by_two,
        with_another_plan,
        with_a_chosen_day,
        without_a_match,
    ):
        await act(dashboard)
        await check(dashboard)


async def test_loading_is_accessible(new_page: NewPage) -> None:
    """The page before its first answer, and while it tries again."""
    dashboard = await new_page()
    dashboard.watch.expect("status of 503|ERR_FAILED")
    ended = asyncio.Event()
    answers = iter([503])

    async def answer_late(route: Route) -> None:
        if status := next(answers, None):
            await route.fulfill(status=status, headers={"Retry-After": "0"})
            return
        await ended.wait()
        await route.abort()

    await dashboard.page.route("**/usage", answer_late)
    await dashboard.open()
    await expect(dashboard.page.get_by_text("Still trying…")).to_be_visible()
    await check(dashboard)
    ended.set()


async def test_page_that_is_not_built_is_accessible(
    serve: Serve, new_page: NewPage
) -> None:
    """The page that says how to build this one."""
    served = await serve(is_built=False)
    dashboard = await new_page(served=served)
    dashboard.watch.expect("status of 404")
    await dashboard.open()
    await expect(dashboard.page.locator("body")).to_contain_text("make dashboard")
    await check(dashboard)


async def test_axe_finds_what_is_wrong(open_page: OpenPage) -> None:
    """An image without a text is reported as a violation."""
    dashboard = await open_page()
    await dashboard.page.evaluate("document.querySelector('main').append(new Image())")
    with pytest.raises(AssertionError, match="image-alt"):
        await check(dashboard)
