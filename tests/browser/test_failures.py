"""When something fails: what was held stays, what was not is asked for again."""

import asyncio
import json
from typing import Final

import pytest
from playwright.async_api import Response, Route, expect

from service.sandbox.faults import MESSAGES_PATH, REPORTS_PREFIX
from service.sandbox.server import RunningSandbox
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
"""What a browser does when a reader comes back to the page."""

STEP_MS: Final = 1_000
STEPS: Final = 120


async def let_time_pass(dashboard: Dashboard, until: str) -> None:
    """Let the page's clock run, a second at a time, until a text is to be seen."""
    wanted = dashboard.page.get_by_text(until).filter(visible=True)
    for _ in range(STEPS):
        if await wanted.count():
            return
        await dashboard.page.clock.run_for(STEP_MS)
    raise AssertionError(f"{until!r} never comes")


async def come_back(dashboard: Dashboard, after_s: int) -> None:
    """Leave the page, and come back to it after a while."""
    await dashboard.page.clock.fast_forward(after_s * 1_000)
    await dashboard.page.evaluate(LOOK_AGAIN)


# --- nothing is held ----------------------------------------------------------------


async def test_outage_ends_in_an_error_that_support_can_find(
    new_page: NewPage, upstream: RunningSandbox
) -> None:
    """The problem is told with the id of the last request, and a try after it works."""
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
    await expect(dashboard.problem).to_contain_text("messages cannot be had")
    await expect(dashboard.problem.locator("code")).to_have_text(ids[-1])
    assert len(ids) == 4
    upstream.sandbox.faults = WELL
    await dashboard.problem.get_by_role("button", name="Try again").click()
    await expect(dashboard.rows).to_have_count(7)
    await expect(dashboard.problem).to_have_count(0)


async def test_recovery_between_the_tries_needs_nobody(
    new_page: NewPage, upstream: RunningSandbox
) -> None:
    """Where the service comes back while the page is trying, nobody has to act."""
    dashboard = await new_page()
    dashboard.watch.expect("status of 503")
    upstream.sandbox.faults = DOWN
    await dashboard.page.clock.install()
    await dashboard.open()
    await expect(dashboard.page.get_by_text("Still trying…")).to_be_visible()
    upstream.sandbox.faults = WELL
    await let_time_pass(dashboard, "Tenant Obligations Report")
    await expect(dashboard.rows).to_have_count(7)


async def test_page_says_that_it_is_loading(new_page: NewPage) -> None:
    """Until the answer is there the page is busy, and says so."""
    dashboard = await new_page()
    answered = asyncio.Event()

    async def wait(route: Route) -> None:
        await answered.wait()
        await route.continue_()

    await dashboard.page.route("**/usage", wait)
    await dashboard.open()
    status = dashboard.page.get_by_role("status").filter(has_text="Loading usage…")
    await expect(status).to_have_count(1)
    await expect(dashboard.page.locator("main [aria-busy=true]")).to_be_visible()
    answered.set()
    await expect(dashboard.rows).to_have_count(7)
    await expect(status).to_have_count(0)


async def test_answer_of_another_kind_is_an_error(new_page: NewPage) -> None:
    """What stands in for the service, a proxy's page say, is told as unreadable."""
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


async def test_service_that_is_gone_is_told(new_page: NewPage) -> None:
    """Where no answer comes at all, the page says that it cannot reach the service."""
    dashboard = await new_page()
    dashboard.watch.expect("ERR_CONNECTION_REFUSED")
    await dashboard.page.clock.install()
    await dashboard.page.route(
        "**/usage", lambda route: route.abort("connectionrefused")
    )
    await dashboard.open()
    await let_time_pass(dashboard, "cannot be reached")
    await expect(dashboard.problem).not_to_contain_text("Request id")


async def test_plans_that_cannot_be_had_leave_the_rest(new_page: NewPage) -> None:
    """The period is shown, whatever becomes of the list of plans."""
    dashboard = await new_page()
    dashboard.watch.expect("status of 500")
    answer = {"title": "Something went wrong", "detail": "It did.", "code": "x"}
    await dashboard.page.route(
        "**/usage/plans",
        lambda route: route.fulfill(
            status=500,
            content_type="application/problem+json",
            body=json.dumps(answer),
        ),
    )
    await dashboard.open()
    await expect(dashboard.rows).to_have_count(7)
    await expect(dashboard.problem).to_have_count(0)


# --- something is held --------------------------------------------------------------


async def test_stale_figures_are_marked(
    serve: Serve,
    open_page: OpenPage,
    upstream: RunningSandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the service holds on to an earlier answer, the page says how old it is."""
    clock = Clock()
    drive_periods(monkeypatch, clock)
    served = await serve(cache={"ttl_s": 60, "stale_if_error_s": 3_600})
    dashboard = await open_page(served=served)
    await expect(dashboard.page.locator(".notice")).to_have_count(0)
    upstream.sandbox.faults = DOWN
    clock.pass_s(300)
    await dashboard.page.reload()
    await expect(dashboard.rows).to_have_count(7)
    notice = dashboard.page.locator(".notice")
    await expect(notice).to_contain_text("5 minutes ago")
    upstream.sandbox.faults = WELL
    await notice.get_by_role("button").click()
    await expect(notice).to_have_count(0)


async def test_failed_refresh_leaves_what_is_shown(
    new_page: NewPage, upstream: RunningSandbox
) -> None:
    """What is on the screen stays there, under a notice with a way to try again."""
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


async def test_degraded_prices_are_counted(
    serve: Serve, open_page: OpenPage, upstream: RunningSandbox
) -> None:
    """Messages priced by text for want of their report are told as that."""
    served = await serve(usage={"on_report_error": "text"})
    upstream.sandbox.faults = always("server_error", path=f"{REPORTS_PREFIX}7")
    dashboard = await open_page(served=served)
    notice = dashboard.page.locator(".notice")
    await expect(notice).to_contain_text("2 messages priced by text")
    await dashboard.report.select_option("No report")
    await dashboard.expect_ids(1000, 1001, 1003, 1004, 1005)


# --- looking again ------------------------------------------------------------------


async def open_page_with_clock(new_page: NewPage) -> Dashboard:
    """The page, with a clock that the test can put forward."""
    dashboard = await new_page()
    await dashboard.page.clock.install()
    await dashboard.open()
    await expect(dashboard.rows).to_have_count(7)
    return dashboard


async def test_who_comes_back_sees_the_newest(
    new_page: NewPage, upstream: RunningSandbox
) -> None:
    """A page that is looked at again is refreshed, and keeps its view and open rows."""
    dashboard = await open_page_with_clock(new_page)
    await dashboard.sorter("Credits Used").click()
    await dashboard.opener(1004).click()
    upstream.sandbox.set_messages([*MESSAGES, message(1007, "zz zz -")])
    await come_back(dashboard, after_s=60)
    await dashboard.expect_ids(1005, 1004, 1007, 1001, 1002, 1000, 1003, 1006)
    await expect(dashboard.opener(1004)).to_have_attribute("aria-expanded", "true")


async def test_fresh_figures_are_not_asked_for_again(new_page: NewPage) -> None:
    """Coming back at once asks the service nothing."""
    dashboard = await open_page_with_clock(new_page)
    await dashboard.page.wait_for_load_state("networkidle")
    before = dashboard.watch.asked("/usage")
    await come_back(dashboard, after_s=1)
    await dashboard.sorter("Credits Used").click()
    await dashboard.expect_ids(1005, 1004, 1001, 1002, 1000, 1003, 1006)
    assert dashboard.watch.asked("/usage") == before


async def test_age_is_told_and_grows(new_page: NewPage) -> None:
    """The page says when its figures are from, and goes on saying so."""
    dashboard = await open_page_with_clock(new_page)
    header = dashboard.page.locator("header")
    await expect(header).to_contain_text("Updated just now")
    await dashboard.page.clock.fast_forward(180_000)
    await expect(header).to_contain_text("Updated 3 minutes ago")


async def test_period_that_fills_up_is_shown(
    new_page: NewPage, upstream: RunningSandbox
) -> None:
    """An empty period says so, without an empty table, and is filled when it fills."""
    upstream.sandbox.set_messages([])
    dashboard = await new_page()
    await dashboard.page.clock.install()
    await dashboard.open()
    empty = dashboard.page.get_by_text("No messages yet in this period.")
    await expect(empty).to_be_visible()
    await expect(dashboard.scroll).to_have_count(0)
    upstream.sandbox.set_messages(MESSAGES)
    await come_back(dashboard, after_s=60)
    await expect(dashboard.rows).to_have_count(7)
    await expect(empty).to_have_count(0)
