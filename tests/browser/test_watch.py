"""The watch over all browser tests: it sees what it is there to see."""

from playwright.async_api import expect

from tests.browser.conftest import NewPage, OpenPage
from tests.browser.dashboard import IN_BROWSER

pytestmark = IN_BROWSER

WRONGS = """
() => {
  const inline = document.createElement("script");
  inline.textContent = "document.title = 'run'";
  document.body.append(inline);
  console.error("an error");
  setTimeout(() => { throw new Error("thrown"); });
}
"""


async def test_offences_are_seen(open_page: OpenPage) -> None:
    """An error written, one thrown and a policy violated are all noted."""
    dashboard = await open_page()
    async with dashboard.page.expect_event("pageerror"):
        await dashboard.page.evaluate(WRONGS)
    offences = "\n".join(dashboard.watch.offences)
    dashboard.watch.offences.clear()
    for seen in ("an error", "thrown: ", "policy violated: script-src"):
        assert seen in offences
    assert await dashboard.page.title() == "Copilot usage"


async def test_other_origins_are_refused_and_seen(open_page: OpenPage) -> None:
    """The page's policy lets it ask no other origin; a try would be noted."""
    dashboard = await open_page()
    ask = "() => fetch('http://127.0.0.2:9/').then(() => 'asked', () => 'refused')"
    async with dashboard.page.expect_console_message(
        lambda message: "policy violated: connect-src" in message.text
    ):
        assert await dashboard.page.evaluate(ask) == "refused"
    dashboard.watch.offences.clear()
    await dashboard.page.route("http://a.test/", lambda route: route.fulfill(body=""))
    await dashboard.page.goto("http://a.test/")
    assert dashboard.watch.offences == ["another origin: http://a.test/"]
    dashboard.watch.offences.clear()


async def test_nothing_is_stored_and_no_worker_is_left(new_page: NewPage) -> None:
    """A page that was looked at leaves nothing in the browser but its cache."""
    dashboard = await new_page()
    await dashboard.open()
    await expect(dashboard.rows.first).to_be_visible()
    state = await dashboard.page.context.storage_state()
    assert state["cookies"] == []
    assert state["origins"] == []
    assert dashboard.page.context.service_workers == []
