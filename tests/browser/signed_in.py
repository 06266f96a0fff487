"""Pages that need a key: a service with a database, and a browser that signs in."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiohttp import ClientSession
from playwright.async_api import Page, expect

from service.keys.handlers import DATABASE
from service.keys.store import add_key
from service.sandbox.fake_vpic import VPIC_PATH
from service.sandbox.server import RunningSandbox
from service.settings import SCOPES
from tests.browser.conftest import NewPage, Serve
from tests.browser.dashboard import Dashboard
from tests.browser.serving import Served
from tests.keys.conftest import with_key

UNAUTHORIZED: Final = "status of 401"
"""What the browser logs when the page asks who is signed in, and nobody is."""


class Site(NamedTuple):
    """A service with events and vehicles, and a way to open its pages."""

    served: Served
    new_page: NewPage

    async def add_key(self, *scopes: str) -> str:
        """Return a new key of an application; with every scope by default."""
        return await add_key(self.served.app[DATABASE], "shop", scopes or SCOPES)

    async def send(self, key: str, events: Sequence[dict[str, Any]]) -> None:
        """Send events with a key."""
        url = f"{self.served.url}/events"
        async with (
            ClientSession(headers=with_key(key)) as client,
            client.post(url, json=list(events)) as answer,
        ):
            assert answer.status == 202, await answer.text()

    async def open(self, path: str, **options: Any) -> Dashboard:
        """Open a page, where nobody is signed in."""
        dashboard = await self.new_page(served=self.served, **options)
        dashboard.watch.expect(UNAUTHORIZED)
        await dashboard.open(path)
        return dashboard


async def open_site(
    serve: Serve, new_page: NewPage, upstream: RunningSandbox, folder: Path
) -> Site:
    """Start a service with an empty database in a folder."""
    vehicles = {
        "enabled": True,
        "base_url": upstream.url + VPIC_PATH,
        "attempts": 1,
        "requests_per_s": 0.0,
    }
    served = await serve(
        events={"enabled": True, "key_rate_per_s": 1_000.0},
        storage={"url": f"sqlite+aiosqlite:///{folder / 'pages.db'}"},
        vehicles=vehicles,
    )
    return Site(served, new_page)


async def sign_in(page: Page, key: str) -> None:
    """Sign in with a key, and wait for it."""
    await page.get_by_label("Key", exact=True).fill(key)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_text("Signed in as shop")).to_be_visible()
