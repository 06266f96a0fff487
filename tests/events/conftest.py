"""Events as applications send them, and clients with a key of an application."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from aiohttp import ClientResponse
from pytest_aiohttp.plugin import AiohttpClient
from yarl import URL

from service.app import create_app
from service.events.parsing import EventParser
from service.events.schemas import EventTypes, load_types
from service.keys.store import add_key
from service.settings import Settings, StorageSettings, config_folder
from service.storage.database import open_database
from tests.conftest import Client, MakeSettings

SESSION: Final = "e2085be5-9137-4e4e-80b5-f1ffddc25423"
TIMESTAMP: Final = "2021-01-01 09:15:27.243860"
OWN_EVENTS: Final = ("events:write", "events:read", "events:manage")
"""Scopes of a key that may do everything with the events of its application."""
PAGE: Final = {"host": "www.example.com", "path": "/"}

Caller = Callable[..., Awaitable[Client]]
Json = dict[str, Any]

on_sqlite: Final = pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
"""For tests that do not depend on the database."""


def event(**more: Any) -> dict[str, Any]:
    """Return a valid event with the fields of `more`."""
    return {
        "session_id": SESSION,
        "category": "page interaction",
        "name": "pageview",
        "data": PAGE,
        "timestamp": TIMESTAMP,
        **more,
    }


@pytest.fixture
def types(settings: MakeSettings) -> EventTypes:
    """The event types of the distribution."""
    return load_types(settings().events, config_folder() / "event_types")


@pytest.fixture
def parser(types: EventTypes) -> EventParser:
    """A parser with the event types of the distribution."""
    return EventParser(types, future_skew_s=60)


@pytest.fixture
def events_settings(
    settings: MakeSettings, storage: StorageSettings
) -> Callable[..., Settings]:
    """A factory of settings with events on, in an empty database."""

    def make(
        *,
        server: Json | None = None,
        upstream: Json | None = None,
        auth: Json | None = None,
        **events: Any,
    ) -> Settings:
        return settings(
            events={"enabled": True, **events},
            storage={"url": storage.url},
            server=server or {},
            upstream=upstream or {},
            auth=auth or {},
        )

    return make


@pytest.fixture
def caller(
    events_settings: Callable[..., Settings], aiohttp_client: AiohttpClient
) -> Callable[..., Awaitable[Client]]:
    """A factory of clients, each of a service of its own, with an application's key.

    The other arguments are settings of events.
    """

    async def make(
        application: str = "shop", *, can_read_all: bool = False, **events: Any
    ) -> Client:
        settings = events_settings(**events)
        async with open_database(settings.storage) as database:
            scopes = (*OWN_EVENTS, *(("events:read-all",) if can_read_all else ()))
            key = await add_key(database, application, scopes)
        headers = {"Authorization": f"Bearer {key}"}
        return await aiohttp_client(create_app(settings), headers=headers)

    return make


async def send(client: Client, *events: Json) -> Json:
    """Send events in one request; return the receipt."""
    async with client.post("/events", json=list(events)) as answer:
        assert answer.status == 202, await answer.text()
        receipt: Json = await answer.json()
        return receipt


async def ask(client: Client, path: str, **parameters: str | int) -> Json:
    """Return the answer to a query."""
    async with client.get(path, params=parameters) as answer:
        assert answer.status == 200, await answer.text()
        body: Json = await answer.json()
        return body


async def all_pages(client: Client, path: str, member: str) -> list[list[Json]]:
    """Return all pages from this one on, by `Link`."""
    pages: list[list[Json]] = []
    following = URL(path, encoded=True)
    while True:
        async with client.get(following) as answer:
            assert answer.status == 200, await answer.text()
            pages.append((await answer.json())[member])
        if (link := next_page(answer)) is None:
            return pages
        following = link


def next_page(answer: ClientResponse) -> URL | None:
    """Return the URL of the next page in `Link`."""
    link = answer.links.get("next")
    return URL(str(link["url"])).relative() if link else None


def paths_of(events: list[Json]) -> list[str]:
    """Return the paths, by which the tests tell events apart."""
    return [each["data"]["path"] for each in events]


def at(path: str, **more: Any) -> Json:
    """Return an event with this path."""
    return event(data={**PAGE, "path": path}, **more)
