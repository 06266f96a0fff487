"""The log events of budgets, each caused once."""

import asyncio
from pathlib import Path
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from service.keys.store import add_key
from service.sandbox.server import RunningSandbox
from service.settings import SCOPES
from service.storage.database import open_database
from service.storage.errors import StorageUnavailable
from service.usage.budgets.outbox import Outbox
from service.usage.budgets.store import BudgetStore
from service.usage.budgets.webhooks import WebhookClient
from tests.conftest import Client, MakeClient, storage_at
from tests.usage.budgets.conftest import (
    NAME,
    Receiver,
    deliveries,
    messages,
    status,
    until_state,
)


async def cause_budgets(
    client: MakeClient,
    sandbox: RunningSandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A receiver accepts one firing, fails once, and is gone; then all else fails."""
    storage = storage_at(f"sqlite+aiosqlite:///{tmp_path}/budgets.db")
    async with open_database(storage) as database:
        headers = {"X-API-Key": await add_key(database, "office", SCOPES)}
    service = await client(
        storage={"url": storage.url},
        periods={"enabled": True},
        webhooks={"allow_private": True},
        auth={"require": ("usage:manage",)},
    )
    service.session.headers.update(headers)
    receiver = Receiver()
    receiver.answers = [status(204), status(500), status(410)]
    app = web.Application()
    app.router.add_post("/hook", receiver.handle)
    async with TestServer(app) as server:
        webhook = {"url": str(server.make_url("/hook"))}
        await service.put(NAME, json={"credits": 5, "webhook": webhook})
        sandbox.sandbox.set_messages(messages(3))
        await service.get("/usage")
        await cause_attempts(service, webhook, monkeypatch)
    await service.delete(NAME)
    await cause_an_outage(client, storage.url, monkeypatch)


async def cause_attempts(
    service: Client, webhook: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firing is delivered, fails, and disables its webhook; then comes a defect."""
    (fired,) = await until_state(service, "delivered")
    path = f"{NAME}/deliveries/{fired['id']}/retry"
    await service.post(path)
    await until_attempts(service, 2)
    await service.post(path)
    await until_state(service, "failed")
    await service.put(NAME, json={"credits": 5, "webhook": webhook})
    with monkeypatch.context() as patched:
        broken = Mock(side_effect=ZeroDivisionError)
        patched.setattr(WebhookClient, "deliver", broken)
        await service.post(path)
        await until_attempts(service, 4)


async def until_attempts(service: Client, number: int) -> None:
    """Wait until the one delivery has been attempted so often."""
    while (await deliveries(service))[0]["attempts"] < number:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def cause_an_outage(
    client: MakeClient, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outbox cannot be read, first by an outage and then by a defect."""
    for error in (StorageUnavailable("away"), ZeroDivisionError("defect")):
        called = asyncio.Event()

        async def fail(
            *_: object, error: Exception = error, called: asyncio.Event = called
        ) -> None:
            called.set()
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(Outbox, "find_due", fail)
            patched.setattr(BudgetStore, "list", fail)
            patched.setattr("service.usage.budgets.delivery.POLL_S", 0.0)
            patched.setattr("service.usage.budgets.delivery.JITTER_S", 0.0)
            periods = {"enabled": True, "refresh_s": 1e-3}
            await client(storage={"url": url}, periods=periods)
            await called.wait()
            await asyncio.sleep(0.01)
