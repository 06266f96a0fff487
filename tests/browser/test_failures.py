"""Failures: loaded figures stay, missing ones are requested again."""

import asyncio
from typing import Final

import pytest
from playwright.async_api import Response, Route, expect

from service.sandbox.faults import MESSAGES_PATH
from service.sandbox.server import RunningSandbox
from tests.browser.axe import check
from tests.browser.conftest import MESSAGES, NewPage, OpenPage, Serve
from tests.browser.dashboard import IN_BROWSER, Dashboard
from tests.clock import Clock, drive_periods
from tests.conftest import always, message

pytestmark = IN_BROWSER

DOWN: Final = always("server_error", path=MESSAGES_PATH)
WELL: Final = always("server_error", path="/nowhere")
LOOK_AGAIN: Final = """
document.dispatchEvent(new Event("visibilitychange", { bubbles: true }))
"""
"""The event of a user's return to the page."""

STEP_MS: Final = 1_000
STEPS: Final = 120


async def let_time_pass(dashboard: Dashboard, until: str) -> None:
    """Advance the page's clock by seconds until a text is visible."""
    text = dashboard.page.get_by_text(until).filter(visible=True)
    for _ in range(STEPS):
        if await text.count():
            return
        await dashboard.page.clock.run_for(STEP_MS)
    raise AssertionError(f"{until!r} never comes")


async def come_back(dashboard: Dashboard, after_s: int) -> None:
    """Leave the page, and return to it after some time."""
    await dashboard.page.clock.fast_forward(after_s * 1_000)
    await dashboard.page.evaluate(LOOK_AGAIN)


async def test_outage_ends_in_an_error_that_support_can_find(
    new_page: NewPage, upstream: RunningSandbox
) -> None:
    """The error shows the id of the last request, and its retry works."""
    dashboard = await new_page()
    dashboard.watch.expect("status of 503")
    ids: list[str] = []

    def keep_id(response: Response) -> None:
        if response.status == 503:
            ids.append(response.headers["x-request-id"])

    dashboard.page.on("response", keep_id)
    upstream.sandbox.faults = DOWN
    await dashboard.page.clock.install()
    await dashboard.open()
    await expect(dashboard.page.get_by_text("Still trying…")).to_be_visible()
    await let_time_pass(dashboard, "Request id:")
    await expect(dashboard.problem).to_contain_text("cannot be fetched at the moment")
    assert await dashboard.problem.locator("code").inner_text() == ids[-1]
    timer = dashboard.problem.get_by_role("timer")
    await expect(timer).to_contain_text("tries again in")
    assert len(ids) >= 4
    upstream.sandbox.faults = WELL
    await dashboard.problem.get_by_role("button", name="Try again").click()
    await expect(dashboard.rows).to_have_count(7)
    await expect(dashboard.problem).to_have_count(0)


async def test_error_stays_while_the_page_tries_again(
    new_page: NewPage, upstream: RunningSandbox
) -> None:
    """A reader of a longer outage does not see the error come and go."""
    dashboard = await new_page()
    dashboard.watch.expect("status of 503")
    upstream.sandbox.faults = DOWN
    await dashboard.page.clock.install()
    await dashboard.open()
    await let_time_pass(dashboard, "tries again in")
    first = await dashboard.problem.locator("code").inner_text()

    await let_time_pass(dashboard, "Trying again…")

    assert await dashboard.problem.locator("code").inner_text() == first
    await let_time_pass(dashboard, "tries again in")
    assert await dashboard.problem.locator("code").inner_text() != first
    upstream.sandbox.faults = WELL
    await let_time_pass(dashboard, "Which message")
    await expect(dashboard.problem).to_have_count(0)


async def test_answer_of_another_kind_is_an_error(new_page: NewPage) -> None:
    """An answer of something else, such as a proxy, is shown as unreadable."""
    dashboard = await new_page()
    bodies = ["<h1>Maintenance</h1>", "{", "null", "{}", '{"usage": {"0": 1}}']
    answers = iter(bodies)

    async def answer_so(route: Route) -> None:
        body = next(answers, None)
        if body is None:
            await route.continue_()
            return
        headers = {"X-Request-ID": str(bodies.index(body))}
        await route.fulfill(content_type="application/json", body=body, headers=headers)

    await dashboard.page.route("**/usage", answer_so)
    await dashboard.open()
    for number in range(len(bodies)):
        await expect(dashboard.problem).to_contain_text("could not be read")
        await expect(dashboard.problem.locator("code")).to_have_text(str(number))
        await dashboard.problem.get_by_role("button", name="Try again").click()
    await expect(dashboard.rows).to_have_count(7)


async def test_stale_figures_are_marked(
    serve: Serve,
    open_page: OpenPage,
    upstream: RunningSandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The notice shows the age of a stale answer, and is accessible."""
    clock = Clock()
    drive_periods(monkeypatch, clock)
    served = await serve(cache={"ttl_s": 60, "stale_if_error_s": 3_600})
    dashboard = await open_page(served=served)
    await expect(dashboard.page.locator(".notice")).to_have_count(0)
    upstream.sandbox.faults = DOWN
    clock.pass_s(300)
    await dashboard.page.clock.install()
    await dashboard.page.reload()
    await expect(dashboard.rows).to_have_count(7)
    notice = dashboard.page.locator(".notice")
    await expect(notice).to_have_count(0)
    await let_time_pass(dashboard, "may be out of date")
    await expect(notice).to_contain_text("5 minutes ago")
    await check(dashboard)
    upstream.sandbox.faults = WELL
    await notice.get_by_role("button").click()
    await expect(notice).to_have_count(0)


async def test_stale_answer_of_a_healthy_upstream_is_no_failure(
    serve: Serve,
    open_page: OpenPage,
    upstream: RunningSandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stale answer is replaced soon, without a notice."""
    clock = Clock()
    drive_periods(monkeypatch, clock)
    cache = {"ttl_s": 60, "stale_if_error_s": 3_600, "stale_wait_s": 0.0}
    served = await serve(cache=cache)
    dashboard = await open_page(served=served)
    clock.pass_s(75)
    upstream.sandbox.set_messages([*MESSAGES, message(1007)])
    await dashboard.page.reload()
    await expect(dashboard.page.locator(".updated")).to_contain_text("1 minute ago")
    await expect(dashboard.rows).to_have_count(8)
    await expect(dashboard.page.locator(".updated")).to_contain_text("just now")
    await expect(dashboard.page.locator(".notice")).to_have_count(0)


async def test_page_that_is_left_open_is_refreshed(
    new_page: NewPage, upstream: RunningSandbox
) -> None:
    """The figures are requested again on an interval, and the page says so."""
    dashboard = await open_page_with_clock(new_page)
    upstream.sandbox.set_messages([*MESSAGES, message(1007)])
    ended = asyncio.Event()

    async def hold(route: Route) -> None:
        await ended.wait()
        await route.continue_()

    await dashboard.page.route("**/usage", hold)
    await let_time_pass(dashboard, "Refreshing…")
    ended.set()
    await expect(dashboard.rows).to_have_count(8)
    await expect(dashboard.page.get_by_text("Refreshing…")).to_have_count(0)


async def test_failed_refresh_keeps_the_figures(
    new_page: NewPage, upstream: RunningSandbox
) -> None:
    """The figures stay on the screen, with a notice and a retry."""
    dashboard = await open_page_with_clock(new_page)
    dashboard.watch.expect("status of 503")
    upstream.sandbox.faults = DOWN
    await come_back(dashboard, after_s=60)
    await let_time_pass(dashboard, "could not be refreshed")
    await expect(dashboard.rows).to_have_count(7)
    upstream.sandbox.faults = WELL
    upstream.sandbox.set_messages([*MESSAGES, message(1007)])
    await dashboard.page.get_by_role("button", name="Try again").click()
    await expect(dashboard.rows).to_have_count(8)
    await expect(dashboard.page.get_by_text("could not be refreshed")).to_have_count(0)


async def open_page_with_clock(new_page: NewPage) -> Dashboard:
    """Return a loaded page with a clock that the test can advance."""
    dashboard = await new_page()
    await dashboard.page.clock.install()
    await dashboard.open()
    await expect(dashboard.rows).to_have_count(7)
    return dashboard


async def test_return_to_the_page_refreshes_it(
    new_page: NewPage, upstream: RunningSandbox
) -> None:
    """A return refreshes the figures, and keeps the view and open rows."""
    dashboard = await open_page_with_clock(new_page)
    await dashboard.sorter("Credits Used").click()
    await dashboard.opener(1004).click()
    upstream.sandbox.set_messages([*MESSAGES, message(1007, "zz zz -")])
    await come_back(dashboard, after_s=60)
    await dashboard.expect_ids(1005, 1004, 1007, 1001, 1002, 1000, 1003, 1006)
    await expect(dashboard.opener(1004)).to_have_attribute("aria-expanded", "true")


async def test_fresh_figures_are_not_requested_again(new_page: NewPage) -> None:
    """An immediate return sends no request."""
    dashboard = await open_page_with_clock(new_page)
    await dashboard.page.wait_for_load_state("networkidle")
    before = dashboard.watch.count_requests("/usage")
    await come_back(dashboard, after_s=1)
    await dashboard.sorter("Credits Used").click()
    await dashboard.expect_ids(1005, 1004, 1001, 1002, 1000, 1003, 1006)
    assert dashboard.watch.count_requests("/usage") == before


async def test_period_that_fills_up_is_shown(
    new_page: NewPage, upstream: RunningSandbox
) -> None:
    """An empty period shows a text instead of a table, until messages arrive."""
    upstream.sandbox.set_messages([])
    dashboard = await new_page()
    await dashboard.page.clock.install()
    await dashboard.open()
    empty = dashboard.page.get_by_text("No messages yet in this period.")
    await expect(empty).to_be_visible()
    await check(dashboard)
    await expect(dashboard.scroll).to_have_count(0)
    upstream.sandbox.set_messages(MESSAGES)
    await come_back(dashboard, after_s=60)
    await expect(dashboard.rows).to_have_count(7)
    await expect(empty).to_have_count(0)
