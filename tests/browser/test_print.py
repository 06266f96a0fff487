"""The printed page, as a reader of PDF sees it."""

from collections import defaultdict
from pathlib import Path
from typing import Final, NamedTuple

import pypdfium2
import pypdfium2.raw as pdfium
import pytest

from service.sandbox.options import SandboxOptions
from service.sandbox.server import RunningSandbox
from tests.browser.conftest import OpenPage
from tests.browser.dashboard import IN_BROWSER, Dashboard

pytestmark = IN_BROWSER

MANY: Final = 110
TITLES: Final = ("Message ID", "Timestamp", "Report Name", "Credits Used")
MIN_BAR: Final = 0.5
MAX_BAR: Final = 8
"""Widths of the bars of 118 days, in points."""

MIN_BARS: Final = 40
TOLERANCE: Final = 1.5
"""Points."""


class Box(NamedTuple):
    """The place of a filled shape on a page, in points from the lower left corner."""

    left: float
    bottom: float
    right: float
    top: float


class Print(NamedTuple):
    """The texts of all pages, and the width and the shapes of the first one."""

    texts: list[str]
    width: float
    shapes: list[Box]


@pytest.fixture
def many_messages(upstream: RunningSandbox) -> None:
    """A generated period of 110 messages, which takes several pages."""
    upstream.sandbox.options = SandboxOptions(messages=MANY, reports=8)


async def print_page(dashboard: Dashboard, tmp_path: Path) -> Print:
    """Print the page to a PDF, and read it with a renderer."""
    path = tmp_path / "page.pdf"
    await dashboard.page.pdf(path=path, format="A4")
    document = pypdfium2.PdfDocument(path)
    try:
        pages = [each.get_textpage().get_text_range() for each in document]
        texts = [" ".join(each.split()) for each in pages]
        first = document[0]
        shapes = [
            Box(*shape.get_bounds())
            for shape in first.get_objects(filter=[pdfium.FPDF_PAGEOBJ_PATH])
        ]
        return Print(texts, first.get_width(), shapes)
    finally:
        document.close()


async def test_table_has_its_head_on_each_page_and_one_total(
    open_page: OpenPage, many_messages: None, tmp_path: Path
) -> None:
    """All titles are on each page; the total is on the last page only."""
    texts = (await print_page(await open_page(), tmp_path)).texts
    assert len(texts) > 2
    for text in texts:
        assert [title for title in TITLES if title not in text] == []
    assert ["Total" in text for text in texts] == [*[False] * (len(texts) - 1), True]
    everything = "".join(texts)
    assert [at for at in range(1000, 1000 + MANY) if str(at) not in everything] == []
    assert "Clear filters" not in everything


async def test_bars_begin_at_zero_and_end_on_the_paper(
    open_page: OpenPage, many_messages: None, tmp_path: Path
) -> None:
    """Each bar stands on the zero line, and the newest day is on the paper."""
    printed = await print_page(await open_page(), tmp_path)
    assert all(
        -TOLERANCE < box.left and box.right < printed.width + TOLERANCE
        for box in printed.shapes
    )
    # The parts of a bar have the same place from left to right.
    bars: dict[int, list[Box]] = defaultdict(list)
    for box in printed.shapes:
        if MIN_BAR < box.right - box.left < MAX_BAR:
            bars[round(box.left + box.right)].append(box)
    feet = [min(box.bottom for box in parts) for parts in bars.values()]
    assert len(feet) > MIN_BARS
    assert max(feet) - min(feet) < TOLERANCE
    assert "30-08-2024" in printed.texts[0]


async def test_print_names_filters_plan_and_zone(
    open_page: OpenPage, tmp_path: Path
) -> None:
    """The paper says what it leaves out, and that a plan is not the customer's."""
    query = "?report=Short+Lease+Report&plan=token-estimate&tz=Europe/London"
    (text,) = (await print_page(await open_page(query), tmp_path)).texts
    assert "Only report “Short Lease Report”" in text
    assert "Not your plan: what it would cost" in text
    assert "time zone Europe/London" in text
    dark = await open_page(color_scheme="dark")
    await dark.page.emulate_media(media="print", color_scheme="dark")
    colour = "getComputedStyle(document.documentElement).backgroundColor"
    assert await dark.page.evaluate(colour) == "rgb(255, 255, 255)"
