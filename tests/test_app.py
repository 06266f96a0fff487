"""The application as it is wired: what it opens, what it shares, how it ends."""

import asyncio
import gc
import io
import os
from pathlib import Path

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient
from structlog.typing import EventDict

from service.app import create_app, sandbox_options
from service.sandbox.options import SandboxOptions
from service.sandbox.server import RunningSandbox
from service.usage.handlers import SNAPSHOTS
from tests.conftest import MakeClient, MakeSettings, message


async def test_the_embedded_sandbox_is_an_upstream(
    settings: MakeSettings, aiohttp_client: AiohttpClient
) -> None:
    """With the sandbox enabled, nothing else is needed for an answer."""
    wanted = {"enabled": True, "messages": 30, "reports": 3, "seed": 1}
    # An address where nothing is: that it is not asked shows in the answer.
    upstream = {"base_url": "http://127.0.0.1:1"}
    app = create_app(settings(sandbox=wanted, upstream=upstream))

    response = await (await aiohttp_client(app)).get("/usage")

    assert response.status == 200
    assert len((await response.json())["usage"]) == 30


def test_the_sandbox_is_as_the_settings_want_it(settings: MakeSettings) -> None:
    """Sizes, seed, latency and errors are passed on."""
    wanted = {
        "messages": 5,
        "reports": 2,
        "seed": 3,
        "latency_ms": 1.5,
        "error_rate": 0.25,
    }

    assert sandbox_options(settings(sandbox=wanted)) == SandboxOptions(
        messages=5, reports=2, seed=3, latency_ms=1.5, error_rate=0.25
    )


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
    """Where the application cannot start, the sandbox does not stay behind."""
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


async def test_two_applications_share_nothing(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """Each has its own snapshots, as each has its own settings."""
    sandbox.sandbox.set_messages([message(1, "zz zz -")])
    first = await client()
    second = await client(usage={"plan": "token-estimate"})

    plans = [
        (await each.get("/usage")).headers["Usage-Plan"] for each in (first, second)
    ]

    assert plans == ["text-rules/1", "token-estimate/1"]
    assert first.app is not None
    assert second.app is not None
    assert first.app[SNAPSHOTS] is not second.app[SNAPSHOTS]


@pytest.mark.parametrize("access, lines", [(True, 1), (False, 0)])
async def test_the_access_log_is_a_setting(
    client: MakeClient, log_entries: list[EventDict], access: object, lines: int
) -> None:
    """`logging.access` says whether answered requests are logged."""
    await (await client(logging={"access": access})).get("/health/live")

    assert [e["event"] for e in log_entries] == ["http.request"] * lines


async def test_every_answer_has_a_request_id(client: MakeClient) -> None:
    """The context is around every endpoint, known path or not."""
    service = await client()
    paths = ["/", "/usage", "/usage/1", "/usage/daily", "/health/live", "/nowhere"]
    answers = [await service.get(path) for path in paths]

    ids = {answer.headers["X-Request-ID"] for answer in answers}
    assert len(ids) == len(paths)


async def test_a_request_body_is_refused_or_ignored(client: MakeClient) -> None:
    """No endpoint waits for a body, however large, and the service goes on."""
    service = await client(server={"max_body_bytes": 1_000})
    body = io.BytesIO(b"x" * 1_000_000)

    response = await service.post("/usage", data=body)

    assert response.status == 405
    assert (await service.get("/health/live")).status == 200


async def test_without_events_no_storage_is_opened(
    settings: MakeSettings, aiohttp_client: AiohttpClient, tmp_path: Path
) -> None:
    """Events that are off make no file, and there is nobody to send any to."""
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


async def test_a_storage_that_went_away_keeps_no_worker_from_starting(
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
