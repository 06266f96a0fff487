"""A run of each cell of the fault matrix: `python -m tests.faults.matrix`.

It prints docs/fault-matrix.md from the observed outcomes.
"""

import asyncio
import functools
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any
from unittest.mock import patch

import msgspec
from aiohttp import ClientResponse, ClientSession
from structlog.testing import capture_logs
from structlog.typing import EventDict

from service.app import create_app
from service.sandbox.options import SandboxOptions
from service.sandbox.server import RunningSandbox, running_sandbox
from service.server.runner import listening
from service.settings import Settings, load
from service.usage.cache import SnapshotCache
from tests.clock import Clock, passing_loop_time
from tests.conftest import always
from tests.faults.cells import (
    AGES_S,
    DEADLINE_S,
    ENDLESS,
    FAILURES,
    LEASE,
    MAX_WAIT_S,
    OLD,
    RETRY_AFTER,
    STALE_IF_ERROR_S,
    STATE_HEADERS,
    TARGETS,
    TENANTS,
    TRY_S,
    TTL_S,
    Cell,
    Outcome,
    Target,
    bills,
    messages_now,
    read_table,
)
from tests.faults.page import render


async def run(cell: Cell) -> Outcome:
    """Bring a service into a cell's state, switch the fault on, send a request."""
    target, clock = TARGETS[cell.target], Clock()
    async with running_sandbox(SandboxOptions(messages=0, reports=0)) as upstream:
        restore(upstream, OLD)
        async with serving(settings_for(cell, upstream.url), clock) as service:
            age_s = AGES_S[cell.state]
            if age_s is not None:
                await (await service.get("/usage")).read()
                clock.pass_s(age_s)
            restore(upstream, messages_now(target))
            switch_on(upstream, cell)
            async with ending_tries(upstream, cell):
                return await get_usage(service, upstream, target)


@asynccontextmanager
async def ending_tries(upstream: RunningSandbox, cell: Cell) -> AsyncIterator[None]:
    """Let the time of an endless try pass when the upstream has received it."""
    if cell.fault not in ENDLESS:
        yield
        return
    calls, path = upstream.sandbox.calls, TARGETS[cell.target].path
    with passing_loop_time() as time:
        async with time.passing(TRY_S, at_each=lambda: calls[path]):
            yield


def settings_for(cell: Cell, url: str) -> Settings:
    """Return settings without waits; cells of new reports cache the other report."""
    target = TARGETS[cell.target]
    options: dict[str, dict[str, Any]] = {
        "server": {"port": 0, "drain_s": 0.0},
        "upstream": {
            "base_url": url,
            "attempts": 2,
            "concurrency": 1,
            "backoff_base_s": 0.0,
            "retry_after_max_s": 0.0,
            "timeout_s": TRY_S,
            "deadline_s": DEADLINE_S,
            "max_body_bytes": 100_000,
        },
        "usage": {"on_report_error": target.on_report_error},
        # A busy machine takes long for any request.
        "logging": {"slow_request_s": 0.0},
        "events": {"enabled": False},
        "cache": {
            "ttl_s": TTL_S,
            "stale_while_revalidate_s": 0,
            "stale_if_error_s": STALE_IF_ERROR_S,
            "stale_wait_s": MAX_WAIT_S,
            "report_ttl_s": 86_400.0 if target.is_new else 0.0,
        },
    }
    return load(options=options).settings


@asynccontextmanager
async def serving(settings: Settings, clock: Clock) -> AsyncIterator[ClientSession]:
    """Open a session with the service, which runs as deployed, with another clock."""
    with_clock = functools.partial(SnapshotCache, clock=clock)
    with patch("service.app.SnapshotCache", with_clock):
        async with (
            listening(create_app(settings), settings.server) as url,
            ClientSession(url) as session,
        ):
            yield session


def restore(upstream: RunningSandbox, messages: list[dict[str, object]]) -> None:
    """Serve these messages without faults."""
    upstream.sandbox.set_messages(messages)
    upstream.sandbox.set_report(7, LEASE)
    upstream.sandbox.set_report(8, TENANTS)


def switch_on(upstream: RunningSandbox, cell: Cell) -> None:
    """Switch the fault on for the cell's target, and reset the counts."""
    upstream.sandbox.faults = always(
        cell.fault.replace("-", "_"),
        path=TARGETS[cell.target].path,
        retry_after=RETRY_AFTER.get(cell.fault, ""),
    )
    upstream.sandbox.calls.clear()


async def get_usage(
    service: ClientSession, upstream: RunningSandbox, target: Target
) -> Outcome:
    """Send one request, and return its outcome."""
    with capture_logs() as entries:
        response = await service.get("/usage")
        body = await response.read()
    tries = [each for each in entries if each.get("url.path") == target.path]
    status = response.status
    return Outcome(
        status=status,
        code=None if status == 200 else msgspec.json.decode(body)["code"],
        bill=bills(target).get(body, "wrong") if status == 200 else None,
        headers=state_headers(response),
        tries=upstream.sandbox.calls[target.path],
        failure=failure_in(entries, tries[0]) if tries else None,
        events=tuple(
            each["event"]
            for each in entries
            if not each["event"].startswith("credits.")
        ),
    )


def state_headers(response: ClientResponse) -> dict[str, str]:
    """Return the headers that describe the state of an answer."""
    return {
        name: response.headers[name]
        for name in STATE_HEADERS
        if name in response.headers
    }


def failure_in(entries: list[EventDict], first_try: EventDict) -> str:
    """Return the logged failure of a try, or of decoding its body."""
    status = first_try.get("http.response.status_code")
    if status != HTTPStatus.OK:
        return str(first_try.get("error.type", status))
    failed = [each for each in entries if each["event"] in FAILURES]
    return str(failed[0]["error.type"])


async def _run_all() -> dict[Cell, Outcome]:
    with capture_logs():
        return {cell: await run(cell) for cell, _ in read_table()}


if __name__ == "__main__":
    sys.stdout.write(render(asyncio.run(_run_all())))
