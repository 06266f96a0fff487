"""One browser for all tests, a context for each test, and the service of the page.

Every test fails if the page logs an error, throws, violates its content policy, or
sends a request to another origin.
"""

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final, Protocol

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect

from service.sandbox.options import Faults, SandboxOptions
from service.sandbox.server import RunningSandbox, running_sandbox
from tests.browser.dashboard import Dashboard
from tests.browser.serving import Served, build_page, serving
from tests.browser.watch import Watch
from tests.conftest import message, report
from tests.patience import GIVE_UP_S

WAIT_MS: Final = GIVE_UP_S * 1_000
"""Time-out of expectations and of each step of a page."""

DISABLED_FEATURES: Final = ",".join(
    [
        # A new window would load two pages for its address bar: a third of a test.
        "WebUIOmniboxAimPopup",
        "WebUIOmniboxPopup",
        # Not disabled by Playwright; they send requests, or delay painting.
        "HttpsUpgrades",
        "MediaRouter",
        "NetworkTimeServiceQuerying",
        "OptimizationHints",
        "PaintHolding",
    ]
)
MANY: Final = 100_000
REPORTS: Final = {
    7: report(7, "Tenant Obligations Report", 79),
    8: report(8, "Short Lease Report", 61),
    9: report(9, "Alteration Report", 79),
}
QUESTION: Final = "Are there any restrictions on alterations or improvements?"
MESSAGES: Final = [
    message(1000, timestamp="2024-04-29T02:08:29.375Z", report_id=7),
    message(1001, QUESTION, timestamp="2024-04-29T03:25:03.613Z"),
    message(1002, timestamp="2024-05-01T09:00:00.000Z", report_id=8),
    message(1003, timestamp="2024-05-01T23:59:59.999Z", report_id=7),
    message(1004, "rent rent", timestamp="2024-05-02T00:00:00.000Z"),
    message(1005, "Rent rent", timestamp="2024-05-02T08:00:00.000Z"),
    message(1006, timestamp="2024-05-02T09:30:00.000Z", report_id=9),
]


class OpenPage(Protocol):
    """Opens the page in a new context with these options."""

    async def __call__(
        self, query: str = "", *, served: Served | None = None, **options: Any
    ) -> Dashboard: ...


class NewPage(Protocol):
    """Like `OpenPage`, without loading the page."""

    async def __call__(
        self, *, served: Served | None = None, **options: Any
    ) -> Dashboard: ...


class Serve(Protocol):
    """Runs a service for the test's upstream, with the test's settings."""

    async def __call__(
        self, *, is_built: bool = True, **sections: dict[str, Any]
    ) -> Served: ...


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the browser."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("chromium is not installed")
    return found


@pytest.fixture(scope="session")
def built() -> None:
    """An up-to-date build of the page."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    build_page()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    """The browser of all tests."""
    expect.set_options(timeout=WAIT_MS)
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(
            executable_path=chromium,
            timeout=WAIT_MS,
            args=[f"--disable-features={DISABLED_FEATURES}"],
        )
        yield launched
        await launched.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def running() -> AsyncIterator[RunningSandbox]:
    """The upstream of all tests."""
    async with running_sandbox(SandboxOptions(messages=0, reports=0)) as sandbox:
        yield sandbox


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared(running: RunningSandbox, built: None) -> AsyncIterator[Served]:
    """The service of most tests; it caches nothing, so tests can change messages."""
    async with serving(running) as served:
        yield served


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def large(built: None) -> AsyncIterator[Served]:
    """A service with 100,000 messages."""
    options = SandboxOptions(messages=MANY, reports=40)
    async with (
        running_sandbox(options) as sandbox,
        serving(sandbox, cache={"ttl_s": 3_600, "report_ttl_s": 3_600.0}) as served,
    ):
        yield served


@pytest.fixture
def upstream(running: RunningSandbox) -> RunningSandbox:
    """The upstream of all tests, without faults, with seven messages."""
    sandbox = running.sandbox
    sandbox.options = SandboxOptions(messages=0, reports=0)
    sandbox.faults = Faults()
    sandbox.set_messages(MESSAGES)
    for report_id, each in REPORTS.items():
        sandbox.set_report(report_id, each)
    sandbox.calls.clear()
    return running


@pytest_asyncio.fixture(loop_scope="session")
async def serve(upstream: RunningSandbox) -> AsyncIterator[Serve]:
    """A factory of services with the test's settings."""
    async with AsyncExitStack() as stack:

        async def start(*, is_built: bool = True, **sections: dict[str, Any]) -> Served:
            opened = serving(upstream, is_built=is_built, **sections)
            return await stack.enter_async_context(opened)

        yield start


@pytest_asyncio.fixture(loop_scope="session")
async def new_page(
    browser: Browser, shared: Served, upstream: RunningSandbox
) -> AsyncIterator[NewPage]:
    """A factory of watched pages; their offences fail the test."""
    watches: list[Watch] = []
    async with AsyncExitStack() as stack:

        async def new(*, served: Served | None = None, **options: Any) -> Dashboard:
            url = (served or shared).url
            options = {
                "reduced_motion": "reduce",
                "timezone_id": "Asia/Tokyo",
            } | options
            context = await browser.new_context(**options)
            context.set_default_timeout(WAIT_MS)
            stack.push_async_callback(context.close)
            watches.append(watch := Watch(url))
            await watch.observe(context)
            return Dashboard(await context.new_page(), url, watch)

        yield new
    assert [offence for watch in watches for offence in watch.offences] == []


@pytest.fixture
def open_page(new_page: NewPage) -> OpenPage:
    """A factory of loaded pages."""

    async def open_new(
        query: str = "", *, served: Served | None = None, **options: Any
    ) -> Dashboard:
        dashboard = await new_page(served=served, **options)
        await dashboard.open(query)
        await expect(dashboard.rows.first).to_be_visible()
        return dashboard

    return open_new
