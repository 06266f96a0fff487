"""The watch over all browser tests: it detects each kind of offence."""

from playwright.async_api import expect

from tests.browser.conftest import NewPage, OpenPage
from tests.browser.dashboard import IN_BROWSER

pytestmark = IN_BROWSER

OFFENCES = """
() => {
  const inline = document.createElement("script");
  inline.textContent = "document.title = 'run'";
  document.body.append(inline);
  console.error("an error");
  setTimeout(() => { throw new Error("thrown"); });
}
"""


async def test_offences_are_seen(open_page: OpenPage) -> None:
    """A logged error, a thrown error and a policy violation are recorded."""
    dashboard = await open_page()
    async with dashboard.page.expect_event("pageerror"):
        await dashboard.page.evaluate(OFFENCES)
    offences = "\n".join(dashboard.watch.offences)
    dashboard.watch.offences.clear()
    for seen in ("an error", "thrown: ", "policy violated: script-src"):
        assert seen in offences
    assert await dashboard.page.title() == "Copilot usage"


async def test_other_origins_are_refused_and_seen(open_page: OpenPage) -> None:
    """The policy blocks other origins, and an attempt is recorded."""
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
    """The page stores its last visit in the browser, and nothing else."""
    dashboard = await new_page()
    await dashboard.open()
    await expect(dashboard.rows.first).to_be_visible()
    state = await dashboard.page.context.storage_state()
    assert state["cookies"] == []
    stored = [each["name"] for it in state["origins"] for each in it["localStorage"]]
    assert stored in ([], ["copilot-usage.last-visit"])
    assert dashboard.page.context.service_workers == []
