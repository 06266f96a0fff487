"""axe-core, run on a page as it is now."""

from typing import Final

from tests.browser.dashboard import Dashboard
from tests.browser.serving import SOURCES

AXE: Final = SOURCES / "node_modules/axe-core/axe.min.js"
TAGS: Final = (
    *("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"),
    "best-practice",
)
RUN: Final = """
async (tags) => {
  const { violations, passes } = await axe.run({ runOnly: tags });
  const texts = violations.flatMap(({ id, nodes }) =>
    nodes.map(({ target, failureSummary }) => `${id}: ${target} ${failureSummary}`));
  return [texts, passes.length];
}
"""


async def check(dashboard: Dashboard) -> None:
    """Run axe in both colour schemes."""
    if await dashboard.page.evaluate("typeof axe") == "undefined":
        await dashboard.page.evaluate(AXE.read_text())
    for scheme in ("light", "dark"):
        await dashboard.page.emulate_media(color_scheme=scheme)
        violations, passes = await dashboard.page.evaluate(RUN, list(TAGS))
        assert violations == [], f"{scheme}: {violations}"
        assert passes > 0
