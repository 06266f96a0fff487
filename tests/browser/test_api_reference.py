"""The API reference in a browser: all operations, one key, and requests that work."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Protocol

import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from service.keys.handlers import DATABASE
from service.keys.store import add_key
from tests.browser.conftest import WAIT_MS, Serve
from tests.browser.dashboard import IN_BROWSER
from tests.browser.serving import Served
from tests.browser.watch import Watch

pytestmark = IN_BROWSER

PHONE: Final = {"width": 375, "height": 800}
USAGE: Final = "#operations-usage-read_usage"
OVERFLOW: Final = "document.documentElement.scrollWidth - innerWidth"
TEXT_COLOR: Final = (
    'getComputedStyle(document.querySelector(".opblock-summary-path")).color'
)
TEXT_IS_LIGHT: Final = f"Number({TEXT_COLOR}.match(/[0-9]+/)[0]) > 127"


class OpenReference(Protocol):
    """Opens the reference of a service in a new context with these options."""

    async def __call__(self, served: Served, **options: Any) -> Page: ...


@pytest_asyncio.fixture(loop_scope="session")
async def open_reference(browser: Browser) -> AsyncIterator[OpenReference]:
    """A factory of watched pages; their offences fail the test."""
    watches: list[Watch] = []
    async with AsyncExitStack() as stack:

        async def open_new(served: Served, **options: Any) -> Page:
            context = await browser.new_context(reduced_motion="reduce", **options)
            context.set_default_timeout(WAIT_MS)
            stack.push_async_callback(context.close)
            watches.append(watch := Watch(served.url))
            await watch.observe(context)
            page = await context.new_page()
            await page.goto(f"{served.url}/docs")
            await expect(page.locator(USAGE)).to_be_visible()
            return page

        yield open_new
    assert [offence for watch in watches for offence in watch.offences] == []


@pytest_asyncio.fixture(loop_scope="session")
async def with_keys(serve: Serve, tmp_path: Path) -> Served:
    """A service that needs a key for usage."""
    return await serve(
        storage={"url": f"sqlite+aiosqlite:///{tmp_path}/keys.db"},
        events={"enabled": True},
        vehicles={"enabled": True},
        auth={"require": ["usage:read"]},
    )


async def test_every_operation_is_listed(
    open_reference: OpenReference, with_keys: Served
) -> None:
    """Each path and method of the document is on the page, in both colour schemes."""
    page = await open_reference(with_keys, viewport=PHONE)
    document = await (await page.request.get(f"{with_keys.url}/openapi.json")).json()
    expected = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
    }
    listed = await page.locator(".opblock-summary").evaluate_all(
        """all => all.map(each => [
          each.querySelector(".opblock-summary-method").textContent,
          each.querySelector(".opblock-summary-path").dataset.path])"""
    )
    assert {(method, path) for method, path in listed} == expected
    assert await page.evaluate(OVERFLOW) <= 0
    assert not await page.evaluate(TEXT_IS_LIGHT)
    before = await page.evaluate(TEXT_COLOR)
    await page.emulate_media(color_scheme="dark")
    # The policy of the page forbids the strings that `wait_for_function` evaluates.
    text = page.locator(".opblock-summary-path").first
    await expect(text).not_to_have_css("color", before)
    assert await page.evaluate(TEXT_IS_LIGHT)


async def test_a_key_is_entered_once(
    open_reference: OpenReference, with_keys: Served
) -> None:
    """It is sent with each request, also after a reload; only this tab stores it."""
    database = with_keys.app[DATABASE]
    key = await add_key(database, "office", ("usage:read",))
    page = await open_reference(with_keys, viewport=PHONE)
    await page.get_by_role("button", name="Authorize").first.click()
    dialog = page.locator(".modal-ux")
    await dialog.locator("#auth-bearer-value").fill(key)
    await dialog.get_by_role("button", name="Apply").first.click()
    await expect(dialog.get_by_role("button", name="Remove")).to_be_visible()
    assert await page.evaluate("localStorage.length") == 0
    await page.reload()
    usage = page.locator(USAGE)
    await usage.locator(".opblock-summary-control").click()
    await usage.get_by_role("button", name="Execute").click()
    answer = usage.locator(".live-responses-table tbody")
    await expect(answer).to_contain_text("credits_used")
    await expect(answer.locator(".response-col_status")).to_contain_text("200")
    assert await page.evaluate(OVERFLOW) <= 0
