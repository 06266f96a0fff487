"""A service over a real socket, and keys in its database."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import pytest
from aiohttp import ClientSession, CookieJar

from service.app import create_app
from service.keys.store import add_key
from service.sandbox.fake_vpic import VPIC_PATH
from service.sandbox.server import RunningSandbox
from service.server.runner import listening
from service.settings import SCOPES, StorageSettings
from service.storage.database import Database
from tests.conftest import MakeSettings, message

Serve = Callable[..., AbstractAsyncContextManager[ClientSession]]
Until = Callable[[Callable[[], bool]], Awaitable[None]]
MakeKey = Callable[..., Awaitable[str]]

on_sqlite: Final = pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
"""For tests that do not depend on the database."""


@pytest.fixture
def make_key(database: Database) -> MakeKey:
    """A function that stores a key, by default with all scopes, and returns it."""

    async def make(
        scopes: Collection[str] = SCOPES, rate_per_s: float | None = None
    ) -> str:
        return await add_key(database, "shop", scopes, rate_per_s)

    return make


@pytest.fixture
def serve(
    settings: MakeSettings, sandbox: RunningSandbox, storage: StorageSettings
) -> Serve:
    """A factory of services with all domains; the arguments are settings."""
    sandbox.sandbox.set_messages([message(1)])

    @asynccontextmanager
    async def start(**sections: dict[str, Any]) -> AsyncIterator[ClientSession]:
        usual: dict[str, dict[str, Any]] = {
            "server": {"port": 0, "drain_s": 0.0},
            "upstream": {"base_url": sandbox.url},
            "events": {"enabled": True},
            "periods": {"enabled": True},
            "vehicles": {"enabled": True, "base_url": sandbox.url + VPIC_PATH},
            "storage": {"url": storage.url},
            "cache": {"ttl_s": 600.0},
        }
        made = settings(
            **{
                name: usual.get(name, {}) | sections.get(name, {})
                for name in usual | sections
            }
        )
        # Cookies of an IP address are not kept otherwise.
        jar = CookieJar(unsafe=True)
        async with (
            listening(create_app(made), made.server) as url,
            ClientSession(url, cookie_jar=jar) as session,
        ):
            yield session

    return start


def with_key(text: str) -> dict[str, str]:
    """Return the header that sends a key."""
    return {"X-API-Key": text}
