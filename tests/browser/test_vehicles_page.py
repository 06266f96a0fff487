"""The Vehicles page: look-ups of many VINs, and the cached vehicles."""

from pathlib import Path
from typing import Final

import pytest_asyncio
from aiohttp import ClientSession
from playwright.async_api import FilePayload, expect

from service.sandbox.fake_vpic import BATCH_PATH
from service.sandbox.server import RunningSandbox
from tests.browser.axe import check
from tests.browser.conftest import NewPage, Serve
from tests.browser.dashboard import IN_BROWSER
from tests.browser.signed_in import Site, open_site, sign_in
from tests.browser.test_layout import SCROLLS_SIDEWAYS
from tests.conftest import always

pytestmark = IN_BROWSER

NARROW: Final = {"width": 375, "height": 800}
VIN: Final = "1XPWD40X1ED215307"
DOUBTFUL: Final = "1XPWD40X2ED215307"
"""The same with a wrong check digit."""
BLANK_BELOW: Final = """
document.documentElement.scrollHeight
  - Math.max(innerHeight, document.querySelector("main").getBoundingClientRect().bottom)
"""
WRONG: Final = "1XPWD40X1ED21530O"


@pytest_asyncio.fixture(loop_scope="session")
async def site(
    serve: Serve, new_page: NewPage, upstream: RunningSandbox, tmp_path: Path
) -> Site:
    """A service that has no vehicle cached."""
    return await open_site(serve, new_page, upstream, tmp_path)


async def test_vins_are_looked_up(site: Site) -> None:
    """Doubtful and wrong characters are marked, and the results are saved as CSV."""
    dashboard = await site.open("vehicles", viewport=NARROW)
    page = dashboard.page
    box = page.get_by_role("textbox")

    await box.fill("\n".join([VIN, DOUBTFUL, WRONG, VIN.lower()]))
    await expect(
        page.get_by_text("2 VINs, 1 line without a VIN, 1 repetition left out")
    ).to_be_visible()
    await expect(page.locator(".vin-errors mark")).to_have_text("O")
    await page.get_by_role("button", name="Look up", exact=True).click()
    rows = page.locator(".vehicle-table tbody tr")
    await expect(rows).to_have_count(2)
    await expect(rows.last.locator("mark")).to_have_text("2")
    await expect(rows.last).to_contain_text("The check digit at position 9 is wrong")
    await check(dashboard)
    assert not await page.evaluate(SCROLLS_SIDEWAYS)
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Export CSV").click()
    saved = await (await download.value).path()
    assert f"\r\n{VIN},PETERBILT,388,2014," in saved.read_bytes().decode("utf-8-sig")


async def test_many_results_fit_the_page_and_paper(site: Site) -> None:
    """The page ends with its content; on paper, the results are a whole table."""
    dashboard = await site.open("vehicles", viewport=NARROW)
    page = dashboard.page
    vins = [f"1XPWD40X2ED{each:06}" for each in range(60)]
    await page.get_by_role("textbox").fill("\n".join(vins))
    await page.get_by_role("button", name="Look up", exact=True).click()
    rows = page.locator(".vehicle-table tbody tr")
    await expect(rows).to_have_count(60)

    assert await page.evaluate(BLANK_BELOW) < 100
    await page.emulate_media(media="print")
    await expect(page.get_by_role("textbox")).to_be_hidden()
    await expect(page.locator(".vehicle-table thead")).to_be_visible()
    assert await rows.first.evaluate("(row) => getComputedStyle(row).display") == (
        "table-row"
    )


async def test_a_cached_vehicle_is_found_and_forgotten(site: Site) -> None:
    """Anybody sees the list; a key with the scope forgets a vehicle."""
    async with ClientSession(site.served.url) as client:
        body = {"vins": [VIN, DOUBTFUL]}
        async with client.post("/vehicles/lookup", json=body) as answer:
            assert answer.status == 200
    dashboard = await site.open("vehicles?view=cached", viewport=NARROW)
    page = dashboard.page
    rows = page.locator(".vehicle-table tbody tr")

    await expect(rows).to_have_count(2)
    await page.get_by_role("button", name="Sign in").click()
    await sign_in(page, await site.add_key("vehicles:manage"))
    await page.get_by_label("VIN begins with").fill(VIN[:9].lower())
    await page.keyboard.press("Enter")
    await expect(rows).to_have_count(1)
    await check(dashboard)
    await page.get_by_role("button", name=f"Forget {VIN}").click()
    await expect(page.get_by_text(f"{VIN} is forgotten.")).to_be_visible()
    await expect(page.get_by_text("No cached vehicle matches.")).to_be_visible()


async def test_too_many_vins_are_refused_before_they_are_sent(site: Site) -> None:
    """501 VINs of a file get a sentence with the excess, and no request."""
    dashboard = await site.open("vehicles")
    page = dashboard.page
    lines = ["vin;colour", *(f"1XPWD40X1ED{each:06};red" for each in range(501))]
    buffer = "\n".join(lines).encode()
    file = FilePayload(name="vins.csv", mimeType="text/csv", buffer=buffer)

    await page.get_by_label("Choose a file").set_input_files(file)

    await expect(page.get_by_text("These are 501 VINs")).to_contain_text("Remove 1")
    button = page.get_by_role("button", name="Look up", exact=True)
    await expect(button).to_be_disabled()
    assert dashboard.watch.count_requests("/vehicles/lookup") == 0


async def test_vins_that_vpic_did_not_answer_are_looked_up_again(
    site: Site, upstream: RunningSandbox
) -> None:
    """During an outage each VIN says so; afterwards a button asks for these only."""
    upstream.sandbox.faults = always("server_error", path=BATCH_PATH)
    dashboard = await site.open("vehicles")
    page = dashboard.page
    await page.get_by_role("textbox").fill(f"{VIN}\n{DOUBTFUL}")
    await page.get_by_role("button", name="Look up", exact=True).click()
    again = page.get_by_role("button", name="Look these up again")
    await expect(again).to_be_visible()
    rows = page.locator(".vehicle-table tbody tr")
    await expect(rows.first).to_contain_text("vPIC does not answer at the moment")

    upstream.sandbox.faults = always("server_error", path="/nowhere")
    await again.click()

    await expect(rows.first).to_contain_text("PETERBILT")
    await expect(again).to_have_count(0)
