"""A service with two workers under load, and an outage of each part with its alerts."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from aiohttp import ClientError

from service.sandbox.fake_vpic import VPIC_PATH
from service.settings import StorageSettings
from tests.alerts.prometheus import Prometheus, running_prometheus
from tests.events.faults.cluster import Cluster
from tests.events.faults.conftest import cluster, cluster_storage, make_key
from tests.events.faults.senders import calling
from tests.isolation.piping import Serving
from tests.isolation.proxy import Proxy
from tests.isolation.soak_outages import (
    CACHE,
    DATABASE,
    UPSTREAM,
    VPIC,
    loading,
    proxies,
    settings_of,
    upstream,
)
from tests.running import SERVE, started

__all__ = ["cluster", "cluster_storage", "proxies", "upstream", "watch"]

FACTOR: Final = float(os.environ.get("SOAK_ALERTS_FACTOR", "30"))
"""All durations of the rules are divided by this."""
KILL_AGAIN_S: Final = 2.0
PAUSE_S: Final = 0.1
LONG: Final = "/" + "x" * 2_000
"""A path whose line fills the queue of the log sooner."""
PATHS: Final = ("/usage", "/usage?limit=1", "/events?limit=1", "/health/ready", LONG)
QUICK: Final[dict[str, Any]] = {
    "upstream__timeout_s": 1.0,
    "upstream__deadline_s": 3.0,
    "vehicles__timeout_s": 1.0,
    "vehicles__deadline_s": 3.0,
    "cache__ttl_s": 60 / FACTOR,
    "cache__stale_while_revalidate_s": 300 / FACTOR,
    "cache__pause_after_failure_s": 0.2,
    "storage__timeout_s": 2.0,
    "logging__max_queue_bytes": 262_144,
    "logging__steps_per_refresh": 0,
}
"""Settings whose times are scaled, too."""


class Watched:
    """The service, what it depends on, and the Prometheus that scrapes it."""

    def __init__(self, cluster: Cluster, proxies: dict[str, Proxy], log: Path) -> None:
        self._cluster = cluster
        self.proxies = proxies
        self.serving: Serving
        self.prometheus: Prometheus
        os.mkfifo(log)
        self._log = os.open(log, os.O_RDWR | os.O_NONBLOCK)

    def read_log(self) -> None:
        """Read the log from now on, and forget it."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._log, os.read, self._log, 1 << 20)

    async def begin(self, lost: str) -> None:
        """Begin an outage."""
        if lost in self.proxies:
            self.proxies[lost].drop()
        elif lost == REFUSING:
            self._cluster.stop()
        elif lost == READER:
            asyncio.get_running_loop().remove_reader(self._log)
        else:
            for _ in range(4):
                os.kill(min(self.serving.workers()), signal.SIGKILL)
                await asyncio.sleep(KILL_AGAIN_S)

    async def end(self, lost: str) -> None:
        """End an outage."""
        if lost in self.proxies:
            self.proxies[lost].forward()
        elif lost == REFUSING:
            await self._cluster.start()
        elif lost == READER:
            self.read_log()

    def close(self) -> None:
        """Close the log."""
        asyncio.get_running_loop().remove_reader(self._log)
        os.close(self._log)


class Expected(NamedTuple):
    """The alerts of an outage, and the domains whose objectives it breaks."""

    alerts: frozenset[str]
    domains: frozenset[str] = frozenset()


def expected(*alerts: str, domains: tuple[str, ...] = ()) -> Expected:
    """Return these alerts, whose names are given without the prefix."""
    return Expected(
        frozenset(f"CopilotUsage{each}" for each in alerts), frozenset(domains)
    )


REFUSING, WORKERS, READER = "PostgreSQL, refusing", "workers", "reader of the log"
WITHOUT_STORAGE: Final = expected(
    "StorageAway", "BudgetFast", domains=("events_writes", "events_reads")
)
OUTAGES: Final = {
    UPSTREAM: expected("RefreshFailing", "Stale"),
    VPIC: expected("VpicAway"),
    DATABASE: WITHOUT_STORAGE,
    REFUSING: WITHOUT_STORAGE,
    CACHE: expected("RedisAway"),
    WORKERS: expected("WorkersDying"),
    READER: expected("LogLinesDropped"),
}
Watch = Callable[[str], Any]


@pytest.fixture
def watch(
    cluster: Cluster,
    cluster_storage: StorageSettings,
    proxies: dict[str, Proxy],
    tmp_path: Path,
) -> Watch:
    """A factory of contexts with a loaded service, and a Prometheus of scaled rules."""

    @asynccontextmanager
    async def run(lost: str) -> AsyncIterator[Watched]:
        key, log = await make_key(cluster_storage), tmp_path / "log"
        vpic = f"http://127.0.0.1:{proxies[VPIC].port}{VPIC_PATH}"
        settings = settings_of(proxies, cluster_storage) | QUICK
        settings |= {"vehicles__base_url": vpic}
        # A proxy would accept the connections that a server refuses.
        if lost == REFUSING:
            settings["storage__url"] = cluster_storage.url
        watched = Watched(cluster, proxies, log)
        async with AsyncExitStack() as stack:
            stack.callback(watched.close)
            watched.read_log()
            # In a thread: the loop of the test runs the proxies that the start needs.
            starting = started(log, [*SERVE, "--workers", "2"], settings)
            service = await asyncio.to_thread(stack.enter_context, starting)
            watched.serving = Serving(service.process, service.port)
            session = await stack.enter_async_context(calling(service.port, key))
            # A killed worker cuts requests off.
            load = loading(session, PATHS, (ClientError,), PAUSE_S)
            await stack.enter_async_context(load)
            watching = running_prometheus(tmp_path, service.port, FACTOR)
            watched.prometheus = stack.enter_context(watching)
            await watched.prometheus.until_ready()
            yield watched

    return run
