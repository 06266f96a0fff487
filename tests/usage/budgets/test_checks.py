"""Refreshes for budgets, while no request asks for the period."""

import pytest

from service.instants import now_us
from service.sandbox.server import RunningSandbox
from service.settings import StorageSettings
from service.storage.database import Database
from service.usage.budgets.tables import budgets
from tests.conftest import Client, MakeClient
from tests.usage.budgets.conftest import Until, messages, put, until_state

EVERY_S = 0.05


async def checking(client: MakeClient, storage: StorageSettings) -> Client:
    """Start a service that refreshes often."""
    periods = {"enabled": True, "refresh_s": EVERY_S}
    return await client(storage={"url": storage.url}, periods=periods)


async def test_a_threshold_fires_although_nobody_asks(
    client: MakeClient, storage: StorageSettings, sandbox: RunningSandbox
) -> None:
    """The service refreshes by itself."""
    service = await checking(client, storage)
    sandbox.sandbox.set_messages(messages(5))
    await put(service, thresholds=[50])
    await until_state(service, "logged")


async def test_without_budgets_nothing_is_fetched(
    client: MakeClient,
    storage: StorageSettings,
    sandbox: RunningSandbox,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only requests call the upstream then."""
    looks = []
    read = Database.reading

    def note(self: Database, *arguments: object) -> object:
        looks.append(arguments)
        return read(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Database, "reading", note)
    await checking(client, storage)
    await until(lambda: len(looks) > 20)
    assert sum(sandbox.sandbox.calls.values()) == 0


async def test_a_comparison_in_the_future_is_no_reason_to_wait(
    client: MakeClient,
    storage: StorageSettings,
    database: Database,
    sandbox: RunningSandbox,
) -> None:
    """The clock was wrong then."""
    service = await checking(client, storage)
    await put(service, thresholds=[50])
    async with database.writing() as connection:
        future = budgets.update().values(checked_at=2 * now_us())
        await connection.execute(future)
    sandbox.sandbox.set_messages(messages(5))
    await until_state(service, "logged")
