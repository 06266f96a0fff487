"""Collecting events: the service in one process, who sends them in another.

Both share the machine's cores. A commit waits for the disk, so the rate of durable
appends of 4 KiB is measured between the rounds. It is the upper bound of commits, each
with as many events as were grouped.
"""

import asyncio
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.load.processes import CORES, Missing, Server, get, service
from benchmarks.load.senders import Outcome, Plan
from benchmarks.report import Result, maximum, minimum, unmeasured
from benchmarks.tools import POSTGRESQL
from service.keys.store import add_key
from service.settings import SCOPES, load
from service.storage.database import migrate, open_database

QUICK: Final = "BENCH_QUICK" in os.environ
"""One short round: whether it runs at all, and about how fast."""
ROUNDS: Final = 1 if QUICK else 5
SECONDS: Final = 1.0 if QUICK else 5.0
"""What a round takes about, at its target."""
CONNECTIONS: Final = 64
BATCH: Final = 500
BATCH_CONNECTIONS: Final = 8
STEADY_PER_S: Final = 1_000
STEADY_P99_MS: Final = 25.0
SEND_S: Final = 180.0
"""So long a round may take before it is given up."""
PAGE: Final = bytes(4096)
DISK_S: Final = 0.2 if QUICK else 1.0
NO_UPSTREAM: Final = "http://127.0.0.1:9"
COMMITS: Final = "copilot_usage_events_commit_duration_seconds_count"
UNMEASURED: Final = (
    Missing,
    OSError,
    subprocess.SubprocessError,
    asyncpg.PostgresError,
)


Database = AbstractContextManager[str]
"""A database while it exists, by its URL."""


class Target(NamedTuple):
    """Target rates of a database, in events per second."""

    single_per_s: float
    batch_per_s: float


TARGETS: Final = {
    "SQLite": Target(5_000, 45_000),
    "PostgreSQL": Target(5_000, 45_000),
}


class Round(NamedTuple):
    """One round's events a second, events in a commit, and cost."""

    per_s: float
    group: float
    cpu_us: float
    p99_ms: float


class Service:
    """A service that collects, and the rounds it was put through."""

    def __init__(self, server: Server, key: str) -> None:
        self._server = server
        self._key = key
        self._sent = 0
        self.single: list[Round] = []
        self.batch: list[Round] = []
        self.steady: list[Round] = []

    def measure(self, target: Target) -> None:
        """One round of each kind."""
        requests = int(target.single_per_s * SECONDS)
        self.single.append(self._round(requests, 1, CONNECTIONS))
        requests = int(target.batch_per_s * SECONDS / BATCH)
        self.batch.append(self._round(requests, BATCH, BATCH_CONNECTIONS))
        requests = int(STEADY_PER_S * SECONDS)
        self.steady.append(self._round(requests, 1, CONNECTIONS, STEADY_PER_S))

    def _round(
        self, requests: int, events: int, connections: int, per_s: float = 0
    ) -> Round:
        self._sent += 1
        port = int(self._server.url.rpartition(":")[2])
        plan = Plan(port, self._key, requests, events, connections, per_s, self._sent)
        commits, started_s = self._commits(), cpu_s(self._server.pid)
        outcome = send(plan)
        taken_s = cpu_s(self._server.pid) - started_s
        commits = self._commits() - commits
        sent = requests * events
        if outcome.refused or outcome.accepted != sent:
            raise Missing(f"{outcome.accepted:,} of {sent:,} accepted")
        taken_ms = sorted(outcome.taken_ms)
        return Round(
            per_s=sent / outcome.seconds,
            group=sent / commits,
            cpu_us=taken_s / sent * 1e6,
            p99_ms=taken_ms[int(len(taken_ms) * 0.99)],
        )

    def _commits(self) -> float:
        page, _ = get(f"{self._server.url}/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(page.decode())
            for sample in family.samples
            if sample.name == COMMITS
        )


def run() -> list[Result]:
    """Both databases in turns, and the disk between them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        services: dict[str, Service] = {}
        missing: dict[str, Exception] = {}
        databases = {"SQLite": sqlite(folder), "PostgreSQL": postgresql()}
        for name, database in databases.items():
            try:
                services[name] = stack.enter_context(_collecting(database))
            except UNMEASURED as error:
                missing[name] = error
        disk_per_s = []
        for _ in range(ROUNDS):
            for name in list(services):
                disk_per_s.append(_appends_per_s(folder))
                try:
                    services[name].measure(TARGETS[name])
                except UNMEASURED as error:
                    missing[name] = error
                    del services[name]
    results = [
        result
        for name, measured in services.items()
        for result in _judge(name, measured, statistics.median(disk_per_s))
    ]
    return results + [unmeasured(name, error) for name, error in missing.items()]


def _judge(name: str, measured: Service, disk_per_s: float) -> Iterator[Result]:
    target = TARGETS[name]
    for kind, rounds, wanted in (
        (f"single events, {CONNECTIONS} at once", measured.single, target.single_per_s),
        (f"batches of {BATCH}", measured.batch, target.batch_per_s),
    ):
        middle = _median(rounds)
        bound = disk_per_s * middle.group
        note = (
            f"{middle.per_s:,.0f} a second on {len(CORES)} cores with the load, "
            f"{middle.cpu_us:.0f} µs of CPU each; {middle.group:.0f} in a commit, "
            f"{disk_per_s:,.0f} appends a second of the disk alone: "
            f"{middle.per_s / bound:.2f} of its bound"
        )
        title = f"{name}: {kind}, to {wanted:,.0f} a second"
        yield minimum(title, middle.per_s / wanted, 1, note)
    middle = _median(measured.steady)
    yield maximum(
        f"{name}: p99 at {STEADY_PER_S:,} a second, to {STEADY_P99_MS:g} ms",
        middle.p99_ms / STEADY_P99_MS,
        1,
        f"{middle.p99_ms:.1f} ms; {middle.cpu_us:.0f} µs of CPU each",
    )


def _median(rounds: Sequence[Round]) -> Round:
    return Round(*map(statistics.median, zip(*rounds, strict=True)))


@contextmanager
def _collecting(database: Database) -> Iterator[Service]:
    with serving(database) as (server, key):
        yield Service(server, key)


@contextmanager
def serving(database: Database) -> Iterator[tuple[Server, str]]:
    """Serve on an empty database, with a key that may send as fast as it can."""
    with database as url:
        key = asyncio.run(_prepare(url))
        with service(
            NO_UPSTREAM, cores=CORES, storage__url=url, events__enabled="true"
        ) as server:
            yield server, key


async def _prepare(url: str) -> str:
    storage = load(options={"storage": {"url": url}}).settings.storage
    await migrate(storage)
    async with open_database(storage) as database:
        return await add_key(database, "bench", SCOPES, 1_000_000)


@contextmanager
def sqlite(folder: Path) -> Iterator[str]:
    """Yield the URL of a file that is created."""
    yield f"sqlite+aiosqlite:///{folder}/events.db"


@contextmanager
def postgresql() -> Iterator[str]:
    """A schema of its own, dropped at the end."""
    schema = f"bench_{secrets.token_hex(8)}"
    asyncio.run(_execute(f"CREATE SCHEMA {schema}"))
    try:
        yield f"{POSTGRESQL.replace('://', '+asyncpg://', 1)}?schema={schema}"
    finally:
        asyncio.run(_execute(f"DROP SCHEMA {schema} CASCADE"))


async def _execute(statement: str) -> None:
    connection = await asyncpg.connect(POSTGRESQL)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def send(plan: Plan) -> Outcome:
    """Send events from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.load.senders"]
    sent = subprocess.run(  # noqa: S603 - our own command
        [*command, msgspec.json.encode(plan).decode()],
        check=True,
        stdout=subprocess.PIPE,
        timeout=SEND_S,
    )
    return msgspec.json.decode(sent.stdout, type=Outcome)


def _appends_per_s(folder: Path) -> float:
    """Return the rate of durable appends of 4 KiB, per second."""
    with (folder / "appends").open("wb", buffering=0) as file:
        started, appends = time.perf_counter(), 0
        while (taken_s := time.perf_counter() - started) < DISK_S:
            file.write(PAGE)
            os.fdatasync(file.fileno())
            appends += 1
    return appends / taken_s


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process, user and system, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
