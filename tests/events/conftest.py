"""What the tests of events share: events as applications send them, and callers."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from pytest_aiohttp.plugin import AiohttpClient

from service.app import create_app
from service.events.keys import add_key
from service.events.reading import EventReader
from service.events.schemas import EventTypes, load_types
from service.settings import Settings, Storage, config_folder
from service.storage.database import open_database
from tests.conftest import Client, MakeSettings

SESSION: Final = "e2085be5-9137-4e4e-80b5-f1ffddc25423"
TIMESTAMP: Final = "2021-01-01 09:15:27.243860"

on_sqlite: Final = pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
"""For tests that the database has no part in."""


def event(**more: Any) -> dict[str, Any]:
    """An event that keeps its contract, but for what `more` says."""
    return {
        "session_id": SESSION,
        "category": "page interaction",
        "name": "pageview",
        "data": {"host": "www.example.com", "path": "/"},
        "timestamp": TIMESTAMP,
        **more,
    }


@pytest.fixture
def types(settings: MakeSettings) -> EventTypes:
    """The types that are shipped."""
    return load_types(settings().events, config_folder() / "event_types")


@pytest.fixture
def reader(types: EventTypes) -> EventReader:
    """Reads events by the shipped contract."""
    return EventReader(types, future_skew_s=60)


@pytest.fixture
def events_settings(
    settings: MakeSettings, storage: Storage
) -> Callable[..., Settings]:
    """A factory of settings with events on, in an empty database."""

    def make(**events: Any) -> Settings:
        url = {"url": storage.url}
        return settings(events={"enabled": True, **events}, storage=url)

    return make


@pytest.fixture
def caller(
    events_settings: Callable[..., Settings], aiohttp_client: AiohttpClient
) -> Callable[..., Awaitable[Client]]:
    """A factory of clients with a key of an application, of one service each.

    `caller("shop")` has a key of the application shop; what else is given are settings
    of events.
    """

    async def make(
        application: str = "shop", *, can_read_all: bool = False, **events: Any
    ) -> Client:
        settings = events_settings(**events)
        async with open_database(settings.storage) as database:
            key = await add_key(database, application, can_read_all=can_read_all)
        headers = {"Authorization": f"Bearer {key}"}
        return await aiohttp_client(create_app(settings), headers=headers)

    return make
