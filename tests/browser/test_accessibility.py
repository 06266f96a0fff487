"""axe-core over every state of the page, in light and in dark: no violation."""

import asyncio

import pytest
from playwright.async_api import Route, expect

from service.sandbox.faults import MESSAGES_PATH
from service.sandbox.server import RunningSandbox
from tests.browser.axe import check
from tests.browser.conftest import NewPage, OpenPage, Serve
from tests.browser.dashboard import IN_BROWSER, Dashboard
from tests.clock import Clock, drive_periods
from tests.conftest import always

pytestmark = IN_BROWSER


async def with_open_rows(dashboard: Dashboard) -> None:
    """Both kinds of price are explained."""
    await dashboard.opener(1000).click()
    await dashboard.opener(1005).click()
    await expect(dashboard.table.locator("table")).to_have_count(2)


async def with_a_failed_row(dashboard: Dashboard) -> None:
    """An explanation could not be had."""
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
    await dashboard.plans.get_by_label("Token estimate").check()
    await expect(dashboard.page.locator("header")).to_contain_text("Token estimate")
    await expect(dashboard.page.locator("main [aria-busy=true]")).to_have_count(0)


async def with_a_chosen_day(dashboard: Dashboard) -> None:
    """A bar was clicked, and the chart's table is open."""
    await dashboard.bars.last.click()
    await dashboard.page.get_by_text("Show as a table").click()
    await dashboard.expect_ids(1004, 1005, 1006)


async def without_a_match(dashboard: Dashboard) -> None:
    """The filters leave nothing."""
    await dashboard.search.fill("no such report")
    await expect(dashboard.page.get_by_text("No message matches")).to_be_visible()


async def test_period_is_accessible(open_page: OpenPage) -> None:
    """A period with messages, as it is opened and whatever is done to its view."""
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


async def test_small_screen_is_accessible(
    open_page: OpenPage, upstream: RunningSandbox
) -> None:
    """A generated period at 320 px."""
    options = upstream.sandbox.options
    upstream.sandbox.options = type(options)(messages=30, reports=8)
    dashboard = await open_page(viewport={"width": 320, "height": 640})
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


async def test_error_is_accessible(new_page: NewPage) -> None:
    """A problem, with its id and its ways out."""
    dashboard = await new_page()
    dashboard.watch.expect("status of 400")
    await dashboard.open("?plan=nonsense")
    await expect(dashboard.problem).to_be_visible()
    await check(dashboard)


async def test_empty_period_is_accessible(
    new_page: NewPage, upstream: RunningSandbox
) -> None:
    """A period without a message."""
    upstream.sandbox.set_messages([])
    dashboard = await new_page()
    await dashboard.open()
    await expect(dashboard.page.get_by_text("No messages yet")).to_be_visible()
    await check(dashboard)


async def test_stale_notice_is_accessible(
    serve: Serve,
    open_page: OpenPage,
    upstream: RunningSandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Old figures under their notice."""
    clock = Clock()
    drive_periods(monkeypatch, clock)
    served = await serve(cache={"ttl_s": 60, "stale_if_error_s": 3_600})
    dashboard = await open_page(served=served)
    upstream.sandbox.faults = always("server_error", path=MESSAGES_PATH)
    clock.pass_s(300)
    await dashboard.page.reload()
    await expect(dashboard.page.locator(".notice")).to_be_visible()
    await check(dashboard)


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
    """A violation would be told: an image without a text is one."""
    dashboard = await open_page()
    await dashboard.page.evaluate("document.querySelector('main').append(new Image())")
    with pytest.raises(AssertionError, match="image-alt"):
        await check(dashboard)
