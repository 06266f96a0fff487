"""Slow requests are logged with the time of each stage, over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from msgspec.structs import replace
from structlog.typing import EventDict

from service.app import create_app
from service.keys.store import add_key
from service.observability.stages import Stages, stage
from service.sandbox.fake_vpic import VPIC_PATH
from service.sandbox.server import RunningSandbox
from service.server.runner import listening
from service.storage.database import open_database
from service.web import slow_requests
from service.web.slow_requests import MAX_LINES, SlowRequests
from tests.conftest import MakeSettings, message, storage_at
from tests.events.conftest import event

LATENCY_S: Final = 0.1
VIN: Final = "1XPWD40X1ED215307"

Serve = Callable[..., AbstractAsyncContextManager[aiohttp.ClientSession]]


@pytest.fixture
def serve(settings: MakeSettings, sandbox: RunningSandbox, tmp_path: Path) -> Serve:
    """A factory of services that listen, with a slow upstream, and of their clients."""
    sandbox.sandbox.set_messages([message(1)])
    slow = replace(sandbox.sandbox.options, latency_ms=LATENCY_S * 1_000)
    sandbox.sandbox.options = slow

    @asynccontextmanager
    async def run(**logging: Any) -> AsyncIterator[aiohttp.ClientSession]:
        storage = storage_at(f"sqlite+aiosqlite:///{tmp_path}/events.db")
        async with open_database(storage) as database:
            key = await add_key(database, "shop", ["events:write", "events:read"])
        made = settings(
            server={"port": 0, "drain_s": 0.0},
            storage={"url": storage.url},
            events={"enabled": True},
            cache={"ttl_s": 3_600.0},
            upstream={"base_url": sandbox.url},
            vehicles={"enabled": True, "base_url": sandbox.url + VPIC_PATH},
            logging=logging,
        )
        headers = {"X-API-Key": key}
        async with (
            listening(create_app(made), made.server) as url,
            aiohttp.ClientSession(url, headers=headers) as client,
        ):
            yield client

    return run


def logged(entries: list[EventDict]) -> dict[str, EventDict]:
    """The lines of slow requests by route; each has consistent values."""
    lines = [each for each in entries if each["event"] == "http.slow_request"]
    for line in lines:
        assert line["log_level"] == "warning"
        assert line["request_id"]
        assert sum(line["stages"].values()) == pytest.approx(
            line["duration_s"], abs=1e-4
        )
    return {line["http.route"]: line for line in lines}


async def test_a_line_says_where_the_time_went(
    serve: Serve, log_entries: list[EventDict]
) -> None:
    """Most of it is in the stage that was slow: a fetch, a body, vPIC, the database."""

    async def drip() -> AsyncIterator[bytes]:
        yield b"["
        await asyncio.sleep(LATENCY_S)
        yield b"]"

    json = {"Content-Type": "application/json"}
    async with serve(slow_request_s=1e-6) as client:
        await client.get("/usage")
        await client.get("/usage/1")
        await client.get("/usage?limit=1")
        await client.get("/vehicles/lookup", params={"vin": VIN})
        await client.post("/events", data=drip(), headers=json)
        await client.get("/events")

    lines = logged(log_entries)
    assert lines["/usage/{message_id}"]["stages"].keys() == {"query", "other"}
    assert "storage" in lines["/events"]["stages"]
    first, *_ = [e for e in log_entries if e["event"] == "http.slow_request"]
    assert first["http.response.status_code"] == 200
    assert first["stages"]["refresh"] >= LATENCY_S / 2
    assert lines["/vehicles/lookup"]["stages"]["upstream"] >= LATENCY_S / 2
    (sent,) = [
        each
        for each in log_entries
        if each["event"] == "http.slow_request"
        and each["http.request.method"] == "POST"
    ]
    assert sent["stages"]["read_body"] >= LATENCY_S / 2


@pytest.mark.parametrize("slow_request_s", [0.0, 600.0])
async def test_other_requests_have_no_line(
    slow_request_s: float, serve: Serve, log_entries: list[EventDict]
) -> None:
    """Neither those within the limit, nor any if there is none."""
    async with serve(slow_request_s=slow_request_s) as client:
        assert (await client.get("/usage")).status == 200
        answer = await client.post("/events", json=[event()])
        assert answer.status == 202

    assert logged(log_entries) == {}


def test_an_inner_stage_interrupts_the_outer_one() -> None:
    """No time counts twice, and code outside of requests collects nothing."""
    stages = Stages()
    stages.enter("query")
    stages.enter("waited_in_lane")
    stages.enter("query")
    with stage("storage"):
        divided = stages.divide(5.0)

    assert divided.keys() == {"query", "waited_in_lane", "other"}
    assert sum(divided.values()) == pytest.approx(5.0, abs=1e-5)


def test_lines_are_bounded_in_an_overload(
    log_entries: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many slow requests some are logged, and the next line counts the others."""
    slow = SlowRequests(1.0)
    for _ in range(10 * MAX_LINES):
        slow.log(2.0, Stages())
    monkeypatch.setattr(slow_requests, "WINDOW_S", 0.0)
    slow.log(2.0, Stages())
    slow.log(1.0, Stages())

    assert [each["omitted"] for each in log_entries] == [0] * MAX_LINES + [
        9 * MAX_LINES
    ]
