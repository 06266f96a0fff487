"""`Link` headers behind a proxy that removes a prefix of the path."""

from collections.abc import Callable
from typing import Final

import pytest
from pytest_aiohttp.plugin import AiohttpClient

from service.app import create_app
from service.keys.store import add_key
from service.sandbox.server import RunningSandbox
from service.settings import Settings, SettingsError
from service.storage.database import open_database
from tests.conftest import MakeSettings, message
from tests.events.conftest import at, on_sqlite, send

PUBLIC_URL: Final = "https://api.example.com/copilot"
PATHS: Final = (
    "/usage?limit=1",
    "/events?limit=1",
    "/events?limit=1&order=arrival",
)


@on_sqlite
@pytest.mark.parametrize("end", ["", "/"])
async def test_links_begin_with_the_public_url(
    events_settings: Callable[..., Settings],
    sandbox: RunningSandbox,
    aiohttp_client: AiohttpClient,
    end: str,
) -> None:
    """Each list links to its next page where clients find it, with the same query."""
    sandbox.sandbox.set_messages([message(1), message(2)])
    settings = events_settings(
        server={"public_url": PUBLIC_URL + end}, upstream={"base_url": sandbox.url}
    )
    async with open_database(settings.storage) as database:
        key = await add_key(database, "shop", ("events:write", "events:read"))
    app = create_app(settings)
    client = await aiohttp_client(app, headers={"X-API-Key": key})
    await send(client, at("/1"), at("/2"))
    for path in PATHS:
        async with client.get(path) as answer:
            link = str(answer.links["next"]["url"])
            assert link.startswith(f"{PUBLIC_URL}{path}&cursor="), answer.headers
        async with client.get(link.removeprefix(PUBLIC_URL)) as answer:
            assert answer.status == 200


@pytest.mark.parametrize("url", ["copilot", "https://", "https://a.test/?b=c"])
def test_an_invalid_public_url_prevents_the_start(
    settings: MakeSettings, url: str
) -> None:
    """Only a URL to which paths can be appended is accepted."""
    with pytest.raises(SettingsError, match="public_url"):
        settings(server={"public_url": url})
