"""An opened row: the explanation of the message's price."""

from typing import Final

from playwright.async_api import expect

from tests.browser.conftest import OpenPage
from tests.browser.dashboard import IN_BROWSER, MINUS

pytestmark = IN_BROWSER

CODE_NAMES: Final = ("third_vowels", "unique_words", "length_penalty", "text-rules")


async def test_text_is_explained_step_by_step(open_page: OpenPage) -> None:
    """The row shows its steps, each with its amount and the running total."""
    dashboard = await open_page()
    opener = dashboard.opener(1001)
    await expect(opener).to_have_attribute("aria-expanded", "false")
    await opener.click()
    await expect(opener).to_have_attribute("aria-expanded", "true")
    steps = dashboard.table.locator("table")
    await expect(steps).to_contain_text("5.20")
    for amount in ("+1.00", "+2.90", f"{MINUS}2.00"):
        await expect(steps.get_by_text(amount, exact=True)).to_be_visible()
    text = await dashboard.table.inner_text()
    assert not [name for name in CODE_NAMES if name in text]
