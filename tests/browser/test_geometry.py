"""Every state at three widths: nothing is cut off, and nothing moves while it loads.

Screenshots of all states are written to the folder `.cache/screens`, to be looked at.
"""

import shutil
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from playwright.async_api import expect

from service.sandbox.options import SandboxOptions
from service.sandbox.server import RunningSandbox
from tests.browser.conftest import NewPage, OpenPage
from tests.browser.dashboard import IN_BROWSER, Dashboard
from tests.browser.serving import ROOT

pytestmark = IN_BROWSER

SCREENS: Final = ROOT / ".cache" / "screens"
WIDTHS: Final = (360, 375, 768, 1440)
FONTS: Final = ("DejaVu Sans", "Inter", "Roboto", "Liberation Sans")
"""Wide and narrow ones; Liberation Sans has the widths of Arial."""

USE_FONT: Final = """
(font) => document.documentElement.style.setProperty("--font", `"${font}"`)
"""
MAX_SHIFT: Final = 0.05
OBSERVE_SHIFTS: Final = """
window.shift = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (!entry.hadRecentInput) window.shift += entry.value;
  }
}).observe({ type: "layout-shift", buffered: true });
"""
CUT_OFF: Final = """
() => [...document.querySelectorAll(
    "h1, h2, p, button, label, legend, th, td.column-timestamp, "
    + "td.column-credits_used, td.column-timestamp *, .figure strong, "
    + ".report-bar-credits, .report-bar-facts")]
  .filter((it) => it.getClientRects().length && !it.closest(".visually-hidden"))
  .filter((it) => !it.matches(".visually-hidden"))
  .filter((it) => it.scrollWidth > it.clientWidth + 1 && it.clientWidth > 0)
  .map((it) => `${it.className || it.tagName}: ${it.textContent.slice(0, 40)}`)
"""
BROKEN_NUMBERS: Final = """
() => [...document.querySelectorAll(
    ".figure strong, td.column-credits_used, .report-bar-credits")]
  .filter((it) => it.textContent.trim() !== "")
  .filter((it) => {
    const range = document.createRange();
    range.selectNodeContents(it);
    const tops = new Set([...range.getClientRects()].map(({ top }) => Math.round(top)));
    return tops.size > 1;
  })
  .map((it) => it.textContent)
"""
CHART: Final = """
() => {
  const box = (it) => it.getBoundingClientRect();
  const svg = box(document.querySelector(".chart-svg"));
  const zero = Math.max(...[...document.querySelectorAll(".chart-line line")]
    .map((it) => box(it).bottom));
  const feet = [...document.querySelectorAll(".chart-svg g:has(.chart-bar)")]
    .map((it) => Math.max(...[...it.querySelectorAll(".chart-bar")]
      .map((bar) => box(bar).bottom)));
  const dates = [...document.querySelectorAll(".chart-date")].map(box)
    .sort((a, b) => a.left - b.left);
  return {
    floating: feet.filter((foot) => Math.abs(foot - zero) > 1.5).length,
    bars: feet.length,
    outside: [...document.querySelectorAll(".chart-svg *")].map(box)
      .filter(({ left, right }) => left < svg.left - 1 || right > svg.right + 1).length,
    overlapping: dates.filter((date, at) => at && date.left < dates[at - 1].right)
      .length,
    dates: [...document.querySelectorAll(".chart-date")].map((it) => it.textContent),
  };
}
"""


async def as_it_comes(dashboard: Dashboard) -> None:
    """Nothing is chosen."""


async def with_a_range(dashboard: Dashboard) -> None:
    """Two days are chosen with the keyboard."""
    await dashboard.chart.focus()
    await dashboard.page.keyboard.press("ArrowLeft")
    await dashboard.page.keyboard.press("Shift+ArrowLeft")
    await expect(dashboard.clear).to_be_enabled()


async def with_a_report(dashboard: Dashboard) -> None:
    """One report is chosen by its bar."""
    await dashboard.reports.get_by_role("button").first.click()
    await expect(dashboard.clear).to_be_enabled()


async def with_an_open_row(dashboard: Dashboard) -> None:
    """A message is explained."""
    await dashboard.rows.first.get_by_role("button").click()
    await expect(dashboard.table.locator("table")).to_contain_text("×")


async def with_another_plan(dashboard: Dashboard) -> None:
    """Plans are compared."""
    await dashboard.compare.click()
    await dashboard.plans.get_by_label("Token estimate").check()
    await expect(dashboard.page.locator(".what-if")).to_be_visible()


async def by_week(dashboard: Dashboard) -> None:
    """Bars are weeks."""
    await dashboard.page.get_by_role("button", name="By week").click()
    await dashboard.expect_query("?by=week")


STATES: Final[dict[str, Callable[[Dashboard], Awaitable[None]]]] = {
    each.__name__: each
    for each in (
        as_it_comes,
        with_a_range,
        with_a_report,
        with_an_open_row,
        with_another_plan,
        by_week,
    )
}


@pytest.fixture
def sandbox_period(upstream: RunningSandbox) -> None:
    """A generated period of 110 messages."""
    upstream.sandbox.options = SandboxOptions(messages=110, reports=14)


def viewport(width: int) -> dict[str, Any]:
    """Return a viewport of this width."""
    return {"viewport": {"width": width, "height": 900}}


@pytest.mark.parametrize("state", STATES)
async def test_nothing_is_cut_off(
    open_page: OpenPage, sandbox_period: None, state: str
) -> None:
    """Texts fit their boxes, numbers their lines, bars the chart; at each width."""
    SCREENS.mkdir(parents=True, exist_ok=True)
    dashboard = await open_page(**viewport(max(WIDTHS)))
    await STATES[state](dashboard)
    for width in WIDTHS:
        await dashboard.page.set_viewport_size({"width": width, "height": 900})
        svg = dashboard.page.locator(".chart-svg")
        await expect(svg).not_to_have_attribute("viewBox", "0 0 0 240")
        for scheme in ("light", "dark"):
            await dashboard.page.emulate_media(color_scheme=scheme)
            name = f"{state}-{width}-{scheme}.png"
            await dashboard.page.screenshot(path=SCREENS / name, full_page=True)
        assert await dashboard.page.evaluate(CUT_OFF) == [], width
        assert await dashboard.page.evaluate(BROKEN_NUMBERS) == [], width
        chart = await dashboard.page.evaluate(CHART)
        assert chart["bars"] > 5
        assert (chart["floating"], chart["outside"], chart["overlapping"]) == (0, 0, 0)
        assert chart["dates"][0] == "26-08-2024"


@pytest.mark.parametrize("font", FONTS)
async def test_page_fits_with_each_font(
    open_page: OpenPage, sandbox_period: None, font: str
) -> None:
    """With each font, all that fits with the usual one fits; from 320 px on."""
    found = subprocess.run(  # noqa: S603, ASYNC221 - short, and fixed
        [shutil.which("fc-list") or "true", font], capture_output=True, check=True
    )
    if not found.stdout:
        pytest.skip(f"the font {font} is not installed")
    dashboard = await open_page(**viewport(1440))
    await with_an_open_row(dashboard)
    await dashboard.page.evaluate(USE_FONT, font)
    for width in (320, *WIDTHS):
        await dashboard.page.set_viewport_size({"width": width, "height": 900})
        path = SCREENS / f"font-{font}-{width}.png"
        await dashboard.page.screenshot(path=path, full_page=True)
        assert await dashboard.page.evaluate(CUT_OFF) == [], width
        assert await dashboard.page.evaluate(BROKEN_NUMBERS) == [], width
        assert (await dashboard.page.evaluate(CHART))["overlapping"] == 0, width


@pytest.mark.parametrize("width", WIDTHS)
async def test_nothing_moves_while_the_page_loads(
    new_page: NewPage, sandbox_period: None, width: int
) -> None:
    """Layout shift is at most 0.05."""
    dashboard = await new_page(**viewport(width))
    await dashboard.page.add_init_script(OBSERVE_SHIFTS)
    await dashboard.open()
    await expect(dashboard.rows.first).to_be_visible()
    await dashboard.page.wait_for_load_state("networkidle")
    assert await dashboard.page.evaluate("window.shift") <= MAX_SHIFT


async def test_narrow_screen_shows_the_newest_days(
    open_page: OpenPage, sandbox_period: None
) -> None:
    """The last day is in sight, earlier ones a press away, chosen ones always."""
    dashboard = await open_page(**viewport(375))
    dates = dashboard.page.locator(".chart-date")
    await expect(dates.first).to_have_text("26-08-2024")
    await dashboard.page.get_by_role("button", name="Earlier days").click()
    await expect(dates.first).not_to_have_text("26-08-2024")
    await dashboard.go("?day=2024-05-06")
    chosen = dashboard.page.locator(".is-chosen .chart-column")
    await expect(chosen).to_be_in_viewport()


async def test_page_is_used_at_twice_its_size(
    open_page: OpenPage, sandbox_period: None
) -> None:
    """At 200 % of 1280 px nothing scrolls sideways, and the table can be used."""
    dashboard = await open_page(
        viewport={"width": 640, "height": 400}, device_scale_factor=2
    )
    sideways = "document.documentElement.scrollWidth > innerWidth"
    assert not await dashboard.page.evaluate(sideways)
    assert await dashboard.page.evaluate(CUT_OFF) == []
    await dashboard.opener(1000).click()
    await expect(dashboard.table.locator("table")).to_be_visible()
