"""The page in a frame of another site."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, FrameLocator, expect

from service.sandbox.server import RunningSandbox
from tests.browser.conftest import Serve
from tests.browser.dashboard import IN_BROWSER
from tests.browser.serving import SERVER

pytestmark = IN_BROWSER

SITE: Final = "<title>Intranet</title><iframe width=900 height=700 src='{}'></iframe>"
EMBEDDED: Final = "/dashboard/?embed=1"


@asynccontextmanager
async def frame_of(
    serve: Serve, browser: Browser, *, is_permitted: bool
) -> AsyncIterator[FrameLocator]:
    """Show the page in a frame of a site of its own, which may be permitted."""
    addresses: list[str] = []

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text=SITE.format(addresses[0]), content_type="text/html")

    site = web.Application()
    site.router.add_get("/", page)
    async with TestServer(site) as server:
        origin = str(server.make_url("/"))[:-1]
        ancestors = (origin,) if is_permitted else ()
        served = await serve(server={**SERVER, "frame_ancestors": ancestors})
        addresses.append(served.url + EMBEDDED)
        context = await browser.new_context()
        opened = await context.new_page()
        await opened.goto(origin)
        yield opened.frame_locator("iframe")
        await context.close()


async def test_a_named_site_shows_the_page_without_its_navigation(
    serve: Serve, browser: Browser, upstream: RunningSandbox
) -> None:
    """The site has a navigation of its own, so the frame has none."""
    async with frame_of(serve, browser, is_permitted=True) as frame:
        await expect(frame.get_by_role("heading", level=1)).to_be_visible()
        navigation = frame.get_by_role("navigation", name="Pages")
        await expect(navigation).to_have_count(0)


async def test_no_other_site_can_show_the_page(
    serve: Serve, browser: Browser, upstream: RunningSandbox
) -> None:
    """By default the browser shows an error in place of the page."""
    async with frame_of(serve, browser, is_permitted=False) as frame:
        refusal = frame.get_by_text("refused to connect")
        await expect(refusal.first).to_be_attached()
        await expect(frame.locator("#root")).to_have_count(0)
