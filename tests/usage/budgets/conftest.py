"""Services with budgets, and receivers of their webhooks on real sockets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NamedTuple

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from multidict import CIMultiDict
from standardwebhooks import Webhook

from service.settings import StorageSettings
from service.storage.database import Database
from service.usage.budgets.firing import BudgetObserver
from service.usage.budgets.model import NewBudget, NewWebhook
from service.usage.budgets.store import BudgetStore
from service.usage.periods.model import KeptPeriod
from tests.conftest import GIVE_UP_S, Client, MakeClient, message
from tests.usage.periods.conftest import keep

__all__ = ["keep"]

LOOK_AGAIN_S: Final = 0.02
NAME: Final = "/usage/budgets/office"

PERIOD: Final = KeptPeriod(
    number=1,
    period="2024-04-29",
    status="open",
    revision=1,
    plan="text-rules/1",
    first_at=0,
    last_at=0,
    messages=10,
    hundredths=1_000,
    degraded=0,
    fetched_at=0,
    chunks=b"",
)
"""A period of 10 credits."""

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
Until = Callable[[Callable[[], bool]], Awaitable[None]]


class Received(NamedTuple):
    """A request that a receiver has got."""

    headers: CIMultiDict[str]
    body: str

    @property
    def id(self) -> str:
        """The `webhook-id`."""
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> dict[str, Any]:
        """The payload, if the library accepts the signature; raises otherwise."""
        data: dict[str, Any] = Webhook(secret).verify(self.body, dict(self.headers))
        return data


class Receiver:
    """A receiver of webhooks; `answers` are given in turn, and the last one repeats."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: list[Answer] = [status(204)]
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Note a request, and give the next answer."""
        body = (await request.read()).decode()
        self.received.append(Received(CIMultiDict(request.headers), body))
        turn = min(len(self.received), len(self.answers)) - 1
        return await self.answers[turn](request)


def status(code: int, **headers: str) -> Answer:
    """An answer with a status."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=code, headers=headers)

    return answer


async def hang(request: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError(request)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver on a free port of loopback."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.handle)
    async with TestServer(app) as server:
        receiver.url = str(server.make_url("/hook"))
        yield receiver


@pytest.fixture
async def budgeting(client: MakeClient, storage: StorageSettings) -> Client:
    """A service that keeps periods and delivers to loopback."""
    return await budgeting_client(client, storage)


async def budgeting_client(
    client: MakeClient, storage: StorageSettings, **webhooks: object
) -> Client:
    """Start a service on a database."""
    return await client(
        storage={"url": storage.url},
        periods={"enabled": True},
        webhooks={"allow_private": True, **webhooks},
        cache={"confirm_shrink_s": 0.0},
    )


def messages(number: int, day: str = "2024-04-29") -> list[dict[str, object]]:
    """Messages of one credit each, in one period that begins on a day."""
    first = 1_000 * int(day[-2:])
    return [
        message(first + each, "Rent", timestamp=f"{day}T00:00:{each % 60:02}Z")
        for each in range(number)
    ]


async def put(service: Client, path: str = NAME, **content: object) -> dict[str, Any]:
    """Create or change a budget, and return the answer."""
    answer = await service.put(path, json={"credits": 10.0, **content})
    assert answer.status in {200, 201}, await answer.text()
    item: dict[str, Any] = await answer.json()
    return item


async def read(service: Client, path: str = NAME) -> dict[str, Any]:
    """Read a budget."""
    answer = await service.get(path)
    assert answer.status == 200, await answer.text()
    item: dict[str, Any] = await answer.json()
    return item


async def deliveries(service: Client, path: str = NAME) -> list[dict[str, Any]]:
    """Return the deliveries of a budget, the newest first."""
    answer = await service.get(f"{path}/deliveries")
    assert answer.status == 200, await answer.text()
    listed: list[dict[str, Any]] = (await answer.json())["deliveries"]
    return listed


async def until_state(
    service: Client, state: str, number: int = 1, path: str = NAME
) -> list[dict[str, Any]]:
    """Wait until as many deliveries have a state, and return all."""
    async with asyncio.timeout(GIVE_UP_S):
        while True:
            listed = await deliveries(service, path)
            if sum(each["state"] == state for each in listed) >= number:
                return listed
            await asyncio.sleep(LOOK_AGAIN_S)


async def until_attempted(service: Client, path: str = NAME) -> dict[str, Any]:
    """Wait until the newest delivery has the result of an attempt, and return it."""
    async with asyncio.timeout(GIVE_UP_S):
        while True:
            newest = (await deliveries(service, path))[0]
            if {"last_status", "last_error"} & newest.keys():
                return newest
            await asyncio.sleep(LOOK_AGAIN_S)


async def fire_in(
    database: Database, *, url: str | None = None, thresholds: tuple[int, ...] = (50,)
) -> None:
    """Create a budget in a database, and publish figures that reach its thresholds."""
    webhook = None if url is None else NewWebhook(url)
    content = NewBudget(credits=10.0, thresholds=thresholds, webhook=webhook)
    await BudgetStore(database, allow_private=True).put("office", content)
    async with database.writing() as connection:
        await BudgetObserver(database, None, lambda: None).published(connection, PERIOD)
