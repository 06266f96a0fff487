"""The dashboard: the size of its script, its first paint, and its response to input.

A browser on a computer four times slower than this one looks at an ordinary period; at
full speed it sorts and filters a large one. A press is measured until the next paint,
as browsers tell it; sorting and filtering until the paint of the rows. What cannot be
measured says why.
"""

import gzip
import re
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from playwright.sync_api import Browser, Error, Locator, Page, sync_playwright

from benchmarks.load.processes import (
    CORES,
    ROOT,
    Missing,
    get,
    sandbox,
    service,
    tool,
)
from benchmarks.report import ROUNDS, Result, maximum, unmeasured

BUILT: Final = ROOT / "service/web/static/dashboard"
ORDINARY: Final = 110
LARGE: Final = 100_000
SLOWDOWN: Final = 4
SCRIPT_KB: Final = 120.0
PAINT_MS: Final = 800.0
PRESS_MS: Final = 150.0
CHANGE_MS: Final = 200.0
WAIT_MS: Final = 60_000.0
SHORTEST_TOLD_MS: Final = 16.0
"""Browsers say nothing of presses that were answered faster."""

STATIC_IMPORT: Final = re.compile(r'(?:from|import)"\./([^"]+\.js)"')
UNMEASURED: Final = (Missing, Error, OSError)

OBSERVE: Final = """
window.presses = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (entry.interactionId) window.presses.push(entry.duration);
  }
}).observe({ type: "event", durationThreshold: 16, buffered: true });
"""
AFTER_PAINT: Final = """
() => new Promise((done) => {
  requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done)));
})
"""
SLOWEST: Final = "Math.max(0, ...window.presses.splice(0))"
PAINTED: Final = """
() => performance.getEntriesByName("first-contentful-paint")[0].startTime
"""

ROWS: Final = "tr.message-row"
TIME_A_CHANGE: Final = """
(button) => void (window.changed = new Promise((done) => {
  const firstRow = () => document.querySelector("tr.message-row").textContent;
  const before = firstRow();
  button.addEventListener("click", ({ timeStamp }) => {
    const look = () => requestAnimationFrame(() => {
      if (firstRow() === before) return look();
      const { port1, port2 } = new MessageChannel();
      // A message sent from a frame arrives when that frame has been painted.
      port1.onmessage = () => done(performance.now() - timeStamp);
      port2.postMessage(null);
    });
    look();
  }, { once: true, capture: true });
}))
"""
CHANGE_TOOK: Final = "() => window.changed"


class Press(NamedTuple):
    """Something that readers do, and what they do before it is measured again."""

    name: str
    act: Callable[[Page], object]
    undo: Callable[[Page], object]


PRESSES: Final = (
    Press(
        "sorting",
        lambda page: page.get_by_role("button", name="Credits Used").click(),
        lambda page: None,
    ),
    Press(
        "typing a filter",
        lambda page: page.get_by_role("searchbox").press_sequentially("lease"),
        lambda page: page.get_by_role("searchbox").fill(""),
    ),
    Press(
        "opening a row",
        lambda page: page.locator(f"{ROWS} button").first.click(),
        lambda page: page.locator(f"{ROWS} button").first.click(),
    ),
    Press(
        "clicking a bar",
        lambda page: page.locator(".chart-column").last.click(),
        lambda page: page.locator(".chart-column").last.click(),
    ),
    Press(
        "choosing a report",
        lambda page: page.locator(".report-bar").first.click(),
        lambda page: page.locator(".report-bar").first.click(),
    ),
)


def run() -> list[Result]:
    """All parts."""
    parts = {
        "script": script,
        "first paint and presses": ordinary,
        f"changing {LARGE:,} messages": large,
    }
    results: list[Result] = []
    for name, measure in parts.items():
        try:
            results += measure()
        except UNMEASURED as error:
            results.append(unmeasured(name, error))
    return results


def script() -> list[Result]:
    """JavaScript of the first page, in the coding that every browser reads."""
    files = sorted(_needed(BUILT / "assets", "index-*.js", "usage-page-*.js"))
    if not files:
        raise Missing("the page is not built: make dashboard")
    kilobytes = sum(map(_gzipped_bytes, files)) / 1_000
    note = f"{kilobytes:.1f} kB in {len(files)} files"
    ratio = kilobytes / SCRIPT_KB
    return [maximum(f"script, gzipped, to {SCRIPT_KB:g} kB", ratio, 1, note)]


def ordinary() -> list[Result]:
    """First paint and presses on a slow computer."""
    with _page(ORDINARY) as (page, url):
        session = page.context.new_cdp_session(page)
        session.send("Emulation.setCPUThrottlingRate", {"rate": SLOWDOWN})
        paints = [_first_paint(page, url) for _ in range(ROUNDS)]
        page.locator(ROWS).first.wait_for()
        return [
            _judge("first contentful paint", paints, PAINT_MS),
            *(_judge(each.name, _presses(page, each), PRESS_MS) for each in PRESSES),
        ]


def large() -> list[Result]:
    """Sorting and filtering a large period, from the click to the paint of the rows."""
    with _page(LARGE) as (page, url):
        page.goto(url)
        page.locator(ROWS).first.wait_for()
        results = []
        for name, button in {
            "sorting by credits": page.get_by_role("button", name="Credits Used"),
            "sorting by report": page.get_by_role("button", name="Report Name"),
            # Not the report of the first row, which has to change.
            "filtering by report": page.locator(".report-bar").nth(1),
        }.items():
            took = [_change(page, button) for _ in range(ROUNDS)]
            part = f"{name}, {LARGE:,} messages"
            results.append(_judge(part, took, CHANGE_MS, slowdown=1))
        return results


def _judge(
    name: str, measured_ms: list[float], target_ms: float, slowdown: int = SLOWDOWN
) -> Result:
    median = statistics.median(measured_ms)
    speed = f", {slowdown}× slower" if slowdown > 1 else ""
    note = f"{median:.0f} ms, at worst {max(measured_ms):.0f} ms{speed}"
    return maximum(f"{name}, to {target_ms:g} ms", median / target_ms, 1, note)


def _first_paint(page: Page, url: str) -> float:
    page.goto(url)
    page.locator(ROWS).first.wait_for()
    painted: float = page.evaluate(PAINTED)
    return painted


def _presses(page: Page, press: Press) -> list[float]:
    """The slowest answer to a key or a click, each time that it is all done."""
    taken: list[float] = []
    for _ in range(ROUNDS):
        page.evaluate(AFTER_PAINT)
        page.evaluate(SLOWEST)
        press.act(page)
        page.evaluate(AFTER_PAINT)
        slowest: float = page.evaluate(SLOWEST)
        taken.append(max(slowest, SHORTEST_TOLD_MS))
        press.undo(page)
    return taken


def _change(page: Page, button: Locator) -> float:
    button.evaluate(TIME_A_CHANGE)
    button.click()
    took: float = page.evaluate(CHANGE_TOOK)
    return took


def _needed(folder: Path, *patterns: str) -> set[Path]:
    """Return the scripts that match, and all that they import."""
    found: set[Path] = set()
    waiting = [each for pattern in patterns for each in folder.glob(pattern)]
    while waiting:
        script = waiting.pop()
        if script not in found:
            found.add(script)
            names = STATIC_IMPORT.findall(script.read_text("utf-8"))
            waiting += [folder / name for name in names]
    return found


def _gzipped_bytes(file: Path) -> int:
    beside = file.with_name(file.name + ".gz")
    return (
        beside.stat().st_size
        if beside.exists()
        else len(gzip.compress(file.read_bytes()))
    )


@contextmanager
def _page(messages: int) -> Iterator[tuple[Page, str]]:
    """A browser before the service, whose period has so many messages."""
    with (
        sandbox("--messages", str(messages), "--reports", "40") as upstream,
        service(upstream.url, cores=CORES, cache__ttl_s="3600") as server,
        _browser() as browser,
    ):
        get(f"{server.url}/usage")
        page = browser.new_page()
        page.set_default_timeout(WAIT_MS)
        page.add_init_script(OBSERVE)
        yield page, f"{server.url}/dashboard/"


@contextmanager
def _browser() -> Iterator[Browser]:
    program = tool("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()
