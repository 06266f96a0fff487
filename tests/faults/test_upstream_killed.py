"""The upstream, a process of its own, is killed during a refresh and restarted.

Meanwhile clients get the cached bill or a problem; afterwards the service recovers.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from aiohttp import ClientSession
from structlog.typing import EventDict

from service.sandbox.options import SandboxOptions
from service.sandbox.periods import Period, generate_period
from service.usage.snapshots.messages import report_key
from tests.clock import Clock
from tests.conftest import MakeSettings
from tests.faults.matrix import serving, state_headers
from tests.launcher import Launcher
from tests.patience import GIVE_UP_S
from tests.ports import free_port
from tests.reference import text_rules
from tests.running import until

SIZE: Final = {"messages": 300, "reports": 20, "seed": 11}
TTL_S: Final = 60
STALE_IF_ERROR_S: Final = 600


class Upstream:
    """An upstream process with a fixed port."""

    def __init__(self, launcher: Launcher, log: Path) -> None:
        self.port = free_port()
        self._launcher = launcher
        self._log = log
        self._process_id: int | None = None

    async def start(self, *faults: str) -> None:
        """Start the process, and wait until it listens."""
        size = [f"--{name}={value}" for name, value in SIZE.items()]
        options = ["sandbox", f"--port={self.port}", *size, *faults]
        self._log.unlink(missing_ok=True)
        self._process_id = self._launcher.start(options, {}, self._log)
        await until(lambda: self._log.exists() and "http://" in self._log.read_text())

    def kill(self) -> None:
        """Kill the process."""
        if self._process_id is not None:
            os.kill(self._process_id, signal.SIGKILL)
            assert self._launcher.wait(self._process_id) == -signal.SIGKILL
            self._process_id = None

    @property
    def has_connections(self) -> bool:
        """True if a client is connected to the port."""
        rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
        connections = [(row.split()[2], row.split()[3]) for row in rows]
        port, established = f":{self.port:04X}", "01"
        return any(
            remote.endswith(port) and state == established
            for remote, state in connections
        )


@pytest.fixture
def upstream(launcher: Launcher, tmp_path: Path) -> Iterator[Upstream]:
    """An upstream that is not started yet."""
    upstream = Upstream(launcher, tmp_path / "log")
    yield upstream
    upstream.kill()


def bill_of(period: Period) -> bytes:
    """Return the answer of the reference implementation."""
    items = []
    for sent in msgspec.json.decode(period.messages_body)["messages"]:
        item = {"message_id": sent["id"], "timestamp": sent["timestamp"]}
        found = period.reports.get(report_key(sent.get("report_id")) or "")
        items.append(item | price_of(sent, found))
    return msgspec.json.encode({"usage": items})


def price_of(sent: dict[str, Any], found: bytes | None) -> dict[str, object]:
    if found is None:
        return {"credits_used": text_rules(sent["text"])[-1].total / 100}
    known = msgspec.json.decode(found)
    cost = float(known["credit_cost"])
    return {"report_name": known["name"], "credits_used": cost}


BILL: Final = bill_of(
    generate_period(msgspec.convert({**SIZE}, SandboxOptions)),
)
FETCHED: Final = {"Age": "0", "Cache-Status": "copilot-usage; fwd=miss; stored"}
STALE: Final = {
    "Age": "100",
    "Cache-Status": "copilot-usage; hit; ttl=-40; detail=stale",
}
REFETCHED: Final = {"Age": "0", "Cache-Status": "copilot-usage; fwd=stale; stored"}


LAST_EVENTS: Final = {
    "messages": "usage.refresh.started",
    "reports": "upstream.request",
}
"""The last log event before the upstream is killed: the hanging call has begun."""


async def get_usage(service: ClientSession) -> tuple[int, bytes, dict[str, str]]:
    """Return the status, the body of a bill, and the headers of its state."""
    response = await service.get("/usage")
    body = await response.read()
    return (
        response.status,
        body if response.status == 200 else b"",
        state_headers(response),
    )


@pytest.fixture
def clock() -> Clock:
    """The clock of the service's cache."""
    return Clock()


@pytest.fixture
async def service(
    settings: MakeSettings, upstream: Upstream, clock: Clock
) -> AsyncIterator[ClientSession]:
    """A session with the service that uses the upstream."""
    address = {"base_url": f"http://127.0.0.1:{upstream.port}", "timeout_s": GIVE_UP_S}
    made = settings(
        server={"port": 0, "drain_s": 0.0},
        upstream={**address, "attempts": 2},
        cache={"ttl_s": TTL_S, "stale_if_error_s": STALE_IF_ERROR_S},
        breaker={"minimum_calls": 1_000, "window_calls": 1_000},
    )
    await upstream.start()
    async with serving(made, clock) as session:
        assert await get_usage(session) == (200, BILL, FETCHED)
        yield session


@pytest.mark.parametrize("failing_call", ["messages", "reports"])
async def test_the_upstream_is_killed_during_a_refresh(
    service: ClientSession,
    upstream: Upstream,
    clock: Clock,
    log_entries: list[EventDict],
    failing_call: str,
) -> None:
    """Clients get the stale bill, then a 503, then the current bill."""
    upstream.kill()
    await upstream.start("--hang", "1", "--fault-path", f"/{failing_call}/")
    clock.pass_s(100)
    log_entries.clear()
    waiting = [asyncio.create_task(get_usage(service)) for _ in range(20)]
    async with asyncio.timeout(GIVE_UP_S):
        await begun(upstream, log_entries, LAST_EVENTS[failing_call])
    upstream.kill()
    assert await asyncio.gather(*waiting) == [(200, BILL, STALE)] * len(waiting)

    clock.pass_s(TTL_S + STALE_IF_ERROR_S)
    assert await get_usage(service) == (503, b"", {"Retry-After": "2"})

    await upstream.start()
    assert await get_usage(service) == (200, BILL, REFETCHED)


async def begun(upstream: Upstream, log: list[EventDict], event: str) -> None:
    """Wait until the upstream has a connection, and the log has the event."""
    while event not in [each["event"] for each in log]:  # noqa: ASYNC110 - no event
        await asyncio.sleep(0)
    while not upstream.has_connections:  # noqa: ASYNC110 - no event
        await asyncio.sleep(0)
