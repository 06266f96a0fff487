"""The page on small screens, on paper, and with reduced motion."""

from typing import Final

import pytest
from playwright.async_api import expect

from service.sandbox.server import RunningSandbox
from tests.browser.axe import check
from tests.browser.conftest import NewPage, OpenPage
from tests.browser.dashboard import IN_BROWSER
from tests.conftest import always

pytestmark = IN_BROWSER

TOO_WIDE: Final = """
() => {
  const isClipped = (it) =>
    it !== null && (getComputedStyle(it).overflowX !== "visible"
      || isClipped(it.parentElement));
  return [...document.querySelectorAll("main *, header *")]
    .filter((it) => it.getBoundingClientRect().right > innerWidth + 1)
    .filter((it) => !isClipped(it.parentElement))
    .map((it) => it.outerHTML.slice(0, 80));
}
"""
SCROLLS_SIDEWAYS: Final = "document.documentElement.scrollWidth > innerWidth"
MOTIONS: Final = "document.getAnimations().length"
SMALL: Final = {"width": 320, "height": 640}
BIG: Final = 110


@pytest.fixture
def sandbox_period(upstream: RunningSandbox) -> None:
    """A generated period of 110 messages."""
    options = upstream.sandbox.options
    upstream.sandbox.options = type(options)(messages=BIG, reports=8)


async def test_smallest_screen_needs_no_sideways_scrolling(
    open_page: OpenPage, sandbox_period: None
) -> None:
    """At 320 px everything fits, or scrolls in its own box."""
    dashboard = await open_page(viewport=SMALL)

    async def expect_fit() -> None:
        assert await dashboard.page.evaluate(TOO_WIDE) == []
        assert not await dashboard.page.evaluate(SCROLLS_SIDEWAYS)

    await expect_fit()
    await dashboard.opener(1000).click()
    await expect(dashboard.table.locator("table")).to_be_visible()
    await dashboard.page.get_by_text("Show as a table").click()
    days = dashboard.page.get_by_role("table", name="Credits per day (UTC)")
    await expect(days).to_be_visible()
    await dashboard.sorter("Credits Used").click()
    await dashboard.sorter("Report Name").click(modifiers=["Shift"])
    await expect(dashboard.header("Report Name")).to_contain_text("2")
    await expect_fit()
    await dashboard.compare.click()
    await expect(dashboard.plans.get_by_role("radio")).to_have_count(2)
    await expect_fit()
    await dashboard.search.fill("no such report")
    await expect(dashboard.page.get_by_text("No message matches")).to_be_visible()
    await expect_fit()


@pytest.mark.parametrize("width", [320, 390, 1280])
async def test_the_title_of_the_times_shows_the_whole_zone(
    width: int, open_page: OpenPage
) -> None:
    """The longest names of zones are wider than the column, and are not cut off."""
    dashboard = await open_page(
        "?tz=America/Argentina/Buenos_Aires", viewport={"width": width, "height": 640}
    )

    title = dashboard.header("Timestamp")
    await expect(title).to_contain_text("Buenos_Aires")
    assert await title.evaluate("it => it.scrollWidth <= it.clientWidth")


async def test_error_fits_too(new_page: NewPage, upstream: RunningSandbox) -> None:
    """An error with a long id does not widen a small screen, and is accessible."""
    dashboard = await new_page(viewport=SMALL)
    dashboard.watch.expect("status of 400")
    await dashboard.open("?plan=nonsense")
    await expect(dashboard.problem).to_be_visible()
    await check(dashboard)
    assert await dashboard.page.evaluate(TOO_WIDE) == []
    assert not await dashboard.page.evaluate(SCROLLS_SIDEWAYS)


async def test_buttons_are_large_enough_to_touch(
    open_page: OpenPage, sandbox_period: None
) -> None:
    """Every control has at least 24 by 24 px, and the page is accessible."""
    dashboard = await open_page(viewport=SMALL)
    await check(dashboard)
    small = await dashboard.page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, summary")]
          .map((it) => it.closest("label") ?? it)
          .filter((it) => {
            const { width, height } = it.getBoundingClientRect();
            return width > 0 && (width < 24 || height < 24);
          })
          .map((it) => it.outerHTML.slice(0, 80))"""
    )
    assert small == []


async def test_nothing_moves_for_who_wants_no_motion(
    new_page: NewPage, upstream: RunningSandbox
) -> None:
    """With reduced motion nothing is animated."""
    for preference in ("no-preference", "reduce"):
        dashboard = await new_page(reduced_motion=preference)
        dashboard.watch.expect("status of 503")
        upstream.sandbox.faults = always("server_error", path="/messages")
        await dashboard.open()
        await expect(dashboard.page.get_by_text("Still trying…")).to_be_visible()
        moving = await dashboard.page.evaluate(MOTIONS) > 0
        assert moving == (preference == "no-preference")
    upstream.sandbox.faults = always("server_error", path="/nowhere")
    await dashboard.page.reload()
    await expect(dashboard.rows).to_have_count(7)
    assert await dashboard.page.evaluate(MOTIONS) == 0
    await dashboard.bars.last.click()
    await dashboard.sorter("Credits Used").click()
    await dashboard.expect_ids(1005, 1004, 1006)
    assert await dashboard.page.evaluate(MOTIONS) == 0


async def test_head_and_total_stay_in_sight(
    open_page: OpenPage, sandbox_period: None
) -> None:
    """Header and total of a scrolled table stay visible."""
    dashboard = await open_page()
    await dashboard.scroll.scroll_into_view_if_needed()
    for part in (0, 0.5, 1):
        await dashboard.scroll.evaluate(
            "(it, part) => { it.scrollTop = it.scrollHeight * part }", part
        )
        await expect(dashboard.header("Credits Used")).to_be_in_viewport(ratio=0.9)
        await expect(dashboard.total.locator("td").last).to_be_in_viewport(ratio=0.9)
