"""The application: its resources, and its end."""

import asyncio
import gc
import os
from pathlib import Path

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient
from structlog.typing import EventDict

from service.app import create_app
from tests.conftest import MakeClient, MakeSettings


async def test_the_embedded_sandbox_is_an_upstream(
    settings: MakeSettings, aiohttp_client: AiohttpClient
) -> None:
    """With the sandbox enabled, nothing else is needed for an answer."""
    options = {"enabled": True, "messages": 30, "reports": 3, "seed": 1}
    # Nothing listens at this address.
    upstream = {"base_url": "http://127.0.0.1:1"}
    app = create_app(settings(sandbox=options, upstream=upstream))

    response = await (await aiohttp_client(app)).get("/usage")

    assert response.status == 200
    assert len((await response.json())["usage"]) == 30


async def test_closing_leaves_nothing_open(
    settings: MakeSettings, aiohttp_client: AiohttpClient
) -> None:
    """After the end no task runs and no socket is left to the garbage collector."""
    before = asyncio.all_tasks()
    app = create_app(settings(sandbox={"enabled": True, "messages": 3, "reports": 1}))
    client = await aiohttp_client(app)
    assert (await client.get("/usage")).status == 200

    await client.close()

    assert asyncio.all_tasks() == before
    gc.collect()  # an unclosed socket would warn here, and warnings are errors


async def test_a_failed_start_closes_what_was_opened(settings: MakeSettings) -> None:
    """After a failed start the sandbox is closed."""
    before = asyncio.all_tasks()
    app = create_app(settings(sandbox={"enabled": True, "messages": 3, "reports": 1}))

    async def fail(_: web.Application) -> None:
        raise RuntimeError("cannot start")

    app.on_startup.append(fail)
    runner = web.AppRunner(app)
    with pytest.raises(RuntimeError, match="cannot start"):
        await runner.setup()
    await runner.cleanup()

    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("access, lines", [(True, 1), (False, 0)])
async def test_the_access_log_is_a_setting(
    client: MakeClient, log_entries: list[EventDict], access: object, lines: int
) -> None:
    """`logging.access` says whether answered requests are logged."""
    await (await client(logging={"access": access})).get("/health/live")

    assert [e["event"] for e in log_entries] == ["http.request"] * lines


async def test_without_events_no_storage_is_opened(
    settings: MakeSettings, aiohttp_client: AiohttpClient, tmp_path: Path
) -> None:
    """Without events there is no database file, and no endpoint of events."""
    file = tmp_path / "var" / "events.db"
    app = create_app(
        settings(
            events={"enabled": False},
            sandbox={"enabled": True},
            storage={"url": f"sqlite+aiosqlite:///{file}"},
        )
    )
    client = await aiohttp_client(app)

    assert (await client.get("/usage")).status == 200
    assert (await client.post("/events", json={})).status == 404
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - Path's own may block the loop


async def test_a_worker_starts_while_the_storage_is_unavailable(
    settings: MakeSettings, aiohttp_client: AiohttpClient
) -> None:
    """Usage is served on; events get 503 until the storage is back."""
    away = settings(
        sandbox={"enabled": True, "messages": 3, "reports": 1},
        events={"enabled": True},
        storage={"url": "postgresql+asyncpg://nobody@127.0.0.1:1/none"},
    )
    client = await aiohttp_client(create_app(away, is_storage_checked=True))

    usage = await client.get("/usage")
    events = await client.get("/events", headers={"X-API-Key": "cu_someone"})
    problem = await events.json(content_type="application/problem+json")

    assert usage.status == 200
    assert (events.status, problem["code"]) == (503, "storage_unavailable")
    assert "Retry-After" in events.headers
