"""The Events page: signing in, failed events, sessions, counts and keys."""

from pathlib import Path
from typing import Any, Final

import pytest_asyncio
from playwright.async_api import expect

from service.keys.handlers import API_KEYS, DATABASE
from service.keys.store import list_keys, revoke_key
from service.sandbox.server import RunningSandbox
from service.storage.uses import Use
from tests.browser.axe import check
from tests.browser.conftest import NewPage, Serve
from tests.browser.dashboard import IN_BROWSER, Dashboard
from tests.browser.signed_in import Site, open_site, sign_in
from tests.browser.test_layout import SCROLLS_SIDEWAYS

pytestmark = IN_BROWSER

NARROW: Final = {"width": 375, "height": 800}
GROUP: Final = "The data does not match the schema of its type: pageview"
STAMP_IS_ONE_LINE: Final = """
(opener) => {
  const [stamp, message] = [...opener.children].slice(1).map(
    (each) => each.getBoundingClientRect());
  const isApart = stamp.bottom <= message.top || stamp.right <= message.left;
  return stamp.height < 30 && isApart;
}
"""
BARS: Final = """
(bars) => bars.map((bar) => getComputedStyle(bar)).map((each) =>
  [each.fill !== "rgb(0, 0, 0)", each.stroke])
"""
BIG: Final = 9_007_199_254_740_993
"""A number that JavaScript rounds."""


@pytest_asyncio.fixture(loop_scope="session")
async def site(
    serve: Serve, new_page: NewPage, upstream: RunningSandbox, tmp_path: Path
) -> Site:
    """A service with events, without any."""
    return await open_site(serve, new_page, upstream, tmp_path)


def event(number: int, **more: Any) -> dict[str, Any]:
    """Return an event of a session; without a host, its data is invalid."""
    return {
        "id": f"e{number}",
        "session_id": "s1",
        "category": "page interaction",
        "name": "pageview",
        "data": {"host": "www.example.com", "path": "/"},
        "timestamp": f"2024-05-01T09:00:{number:02}Z",
        **more,
    }


async def test_a_key_signs_in_and_is_kept_nowhere(site: Site) -> None:
    """Wrong keys are refused with a sentence; the address and storage have no key."""
    key = await site.add_key("events:read")
    dashboard = await site.open("events", viewport=NARROW)
    page = dashboard.page

    await page.get_by_label("Key", exact=True).fill("wrong")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("This key is not valid.")).to_be_visible()
    await check(dashboard)
    await sign_in(page, key)

    await expect(page.get_by_role("heading", name="No failed events")).to_be_visible()
    kept = "JSON.stringify([location.href, localStorage, sessionStorage])"
    assert key not in await page.evaluate(kept)
    await page.get_by_role("link", name="Keys").click()
    await expect(page.get_by_text("lacks the scope")).to_contain_text("admin")
    await check(dashboard)
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_text("You are signed out.")).to_be_visible()


async def open_group(site: Site) -> Dashboard:
    """Open a group of 30 failed events; another group has one more."""
    key = await site.add_key()
    wrong = {"host": 1, "path": "/", "order": BIG}
    await site.send(key, [event(each, data=wrong) for each in range(30)])
    await site.send(key, [event(50, timestamp="soon")])
    dashboard = await site.open("events", viewport=NARROW)
    await sign_in(dashboard.page, key)
    await check(dashboard)
    await dashboard.page.get_by_role("link", name=GROUP).click()
    return dashboard


async def test_a_failed_event_shows_its_failing_place(site: Site) -> None:
    """The payload is as it was sent, with the error at the place that is wrong."""
    dashboard = await open_group(site)
    items = dashboard.page.locator(".failed-item")

    await expect(items).to_have_count(25)
    opener = items.first.get_by_role("button").first
    assert await opener.evaluate(STAMP_IS_ONE_LINE)
    await dashboard.page.emulate_media(media="print")
    assert await opener.evaluate(STAMP_IS_ONE_LINE)
    await expect(dashboard.page.get_by_role("button", name="Discard")).to_be_hidden()
    await dashboard.page.emulate_media(media="screen")
    await items.first.get_by_role("button").first.click()

    await expect(items.first.locator("mark")).to_contain_text('"host": 1')
    await expect(items.first.locator("pre")).to_contain_text(str(BIG))
    await check(dashboard)
    assert not await dashboard.page.evaluate(SCROLLS_SIDEWAYS)


async def test_a_group_is_replayed_and_discarded(site: Site) -> None:
    """A replay says what is still invalid; a discard asks before, and leaves others."""
    page = (await open_group(site)).page
    discard = page.get_by_role("button", name="Discard all")

    await page.get_by_role("button", name="Replay all").click()
    await expect(page.get_by_text("30 still invalid")).to_be_visible()
    await discard.click()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await discard.click()
    await page.get_by_role("button", name="Discard for ever").click()

    await expect(page.get_by_text("Done: 30 events discarded.")).to_be_visible()
    await expect(page.get_by_text("No failed events are left here.")).to_be_visible()
    await page.get_by_role("link", name="All groups").click()
    await expect(page.locator(".group-item")).to_have_count(1)


async def test_a_key_revoked_meanwhile_ends_the_session(site: Site) -> None:
    """The next replay is refused, and the page asks for a key."""
    page = (await open_group(site)).page
    await expect(page.locator(".failed-item")).to_have_count(25)
    database = site.served.app[DATABASE]
    for key in await list_keys(database, Use.OTHER):
        await revoke_key(database, key.id)
        site.served.app[API_KEYS].forget(key.id)
    await page.get_by_role("button", name="Replay all").click()
    await expect(page.get_by_text("Your session has ended")).to_be_visible()


async def test_a_session_is_a_timeline_and_counts_add_up(site: Site) -> None:
    """The address reproduces the session; its failures are named beside it."""
    key = await site.add_key()
    await site.send(key, [event(each) for each in (0, 5, 9)])
    await site.send(key, [event(20, data=1)])
    dashboard = await site.open("events?view=session&session=s1", viewport=NARROW)
    page = dashboard.page
    await sign_in(page, key)

    await expect(page.locator(".timeline-item")).to_have_count(3)
    await expect(page.locator(".timeline-item").last).to_contain_text("+0:09")
    await expect(page.get_by_text("1 event of this session failed")).to_be_visible()
    await check(dashboard)

    await dashboard.go("?view=counts&range=dates&from=2024-05-01&to=2024-05-01")
    await expect(page.get_by_role("heading", name="3 events by hour")).to_be_visible()
    bars = await page.locator(".hour-chart-bars rect").evaluate_all(BARS)
    assert bars == [[True, "none"]] * 24
    await page.get_by_text("Show as a table").click()
    row = page.get_by_role("row", name="01-05-2024 09:00")
    await expect(row.get_by_role("cell")).to_have_text("3")
    await check(dashboard)
    assert not await page.evaluate(SCROLLS_SIDEWAYS)


async def test_a_new_key_is_shown_once_and_can_be_revoked(site: Site) -> None:
    """The secret leaves the page with its notice; a revoked key is out of the list."""
    dashboard = await site.open("events?view=keys", viewport=NARROW)
    page = dashboard.page
    await sign_in(page, await site.add_key())

    await page.get_by_label("Application", exact=True).fill("board")
    await page.get_by_role("checkbox", name="Read the usage").check()
    await page.get_by_role("button", name="Add the key").click()
    secret = await page.locator(".secret-text").inner_text()
    assert secret.startswith("cu_")
    await check(dashboard)
    await page.get_by_role("button", name="I have stored it").click()
    await expect(page.locator(".key-item")).to_have_count(2)
    await expect(page.locator(".secret-text")).to_have_count(0)
    assert secret not in await page.content()

    revoke = page.get_by_role("button", name="of board")
    await revoke.click()
    await page.get_by_role("button", name="Revoke for ever").click()
    await expect(revoke).to_have_count(0)
    await expect(page.get_by_text("1 valid key")).to_be_visible()
