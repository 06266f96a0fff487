"""Services that keep the periods of the sandbox in a database."""

import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.typing import EventDict

from service.sandbox.server import RunningSandbox
from service.settings import StorageSettings
from tests.conftest import Client, MakeClient, storage_at

KEPT = frozenset({"usage.period_opened", "usage.period_kept", "usage.period_doubtful"})

Keep = Callable[..., Awaitable[None]]
Messages = Sequence[dict[str, object]]


@pytest.fixture
async def keeping(client: MakeClient, storage: StorageSettings) -> Client:
    """Return a service that keeps periods; each request refreshes."""
    return await keeping_client(client, storage)


@pytest.fixture
async def in_file(client: MakeClient, tmp_path: Path, empty_file: Path) -> Client:
    """Return a service that keeps periods in SQLite."""
    file = shutil.copy(empty_file, tmp_path / "kept.db")
    return await keeping_client(client, storage_at(f"sqlite+aiosqlite:///{file}"))


async def keeping_client(client: MakeClient, storage: StorageSettings) -> Client:
    """Start a service on a database."""
    return await client(
        storage={"url": storage.url},
        periods={"enabled": True},
        cache={"confirm_shrink_s": 0.0},
    )


@pytest.fixture
def keep(
    sandbox: RunningSandbox,
    log_entries: list[EventDict],
    until: Callable[[Callable[[], bool]], Awaitable[None]],
) -> Keep:
    """Have a service fetch these messages, and wait until it has kept them."""

    async def fetch_and_keep(service: Client, messages: Messages) -> None:
        sandbox.sandbox.set_messages(messages)
        before = len(kept(log_entries))
        answer = await service.get("/usage")
        assert answer.status == 200
        await until(lambda: len(kept(log_entries)) > before)

    return fetch_and_keep


def kept(entries: list[EventDict]) -> list[EventDict]:
    """Return the log entries that tell what was done with a snapshot."""
    return [each for each in entries if each["event"] in KEPT]


async def periods_of(service: Client) -> list[dict[str, Any]]:
    """Return the listed periods, the newest first."""
    answer = await service.get("/usage/periods")
    listed: list[dict[str, Any]] = (await answer.json())["periods"]
    return listed


async def changes_of(service: Client, query: str = "") -> dict[str, Any]:
    """Return the changes of a period."""
    answer = await service.get(f"/usage/changes?{query}")
    assert answer.status == 200
    changes: dict[str, Any] = await answer.json()
    return changes
