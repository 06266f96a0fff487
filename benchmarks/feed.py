"""The feed of events: how fast it is read, and what consumers that wait cost.

The service runs in one process, on SQLite. Its CPU time decides: that of other work on
the machine does not count.
"""

import asyncio
import http.client
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import events
from benchmarks.load.processes import Missing, Server
from benchmarks.load.senders import Plan
from benchmarks.report import Result, maximum, minimum, unmeasured

ROUNDS: Final = 1 if events.QUICK else 5
EVENTS: Final = 20_000 if events.QUICK else 200_000
READ_PER_S: Final = 200_000
BATCHES: Final = 20 if events.QUICK else 100
"""Requests of a round that measures what ingestion costs."""
WAITERS: Final = 1_000
WAITERS_MB: Final = 50.0
MAX_INGESTION: Final = 1.03
"""Ratio of the CPU time of ingestion, beside 1,000 consumers and without."""
FEED: Final = "/events?order=arrival"
READ_BYTES: Final = 1 << 20
WAIT_S: Final = 30
SETTLE_S: Final = 2.0


class Reading(NamedTuple):
    """One pass over the feed."""

    events: int
    cpu_s: float
    wall_s: float


class Consumers:
    """Requests that wait for events of a session that none has."""

    def __init__(self, server: Server, key: str, link: str) -> None:
        self._port = int(server.url.rpartition(":")[2])
        self._key = key
        self._path = f"{link}&wait_s={WAIT_S}&session_id=none"
        self._loop = asyncio.new_event_loop()
        self._writers: list[asyncio.StreamWriter] = []
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def connect(self) -> None:
        """Send all requests."""
        asyncio.run_coroutine_threadsafe(self._connect(), self._loop).result()

    def close(self) -> None:
        """End all connections."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()

    async def _connect(self) -> None:
        head = f"GET {self._path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {self._key}\r\n\r\n"
        for _ in range(WAITERS):
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(head.encode())
            self._writers.append(writer)

    async def _close(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers.clear()


class Collected:
    """A service with events."""

    def __init__(self, server: Server, key: str) -> None:
        self._server = server
        self._key = key
        self._plans = 0
        self._end = FEED

    def send(self, batches: int) -> float:
        """Send batches of events; return the CPU time of the service, in seconds."""
        self._plans += 1
        port = int(self._server.url.rpartition(":")[2])
        before = events.cpu_s(self._server.pid)
        plan = Plan(port, self._key, batches, events.BATCH, 4, 0, self._plans)
        outcome = events.send(plan)
        if outcome.accepted != batches * events.BATCH:
            raise Missing(f"{outcome.accepted:,} events accepted")
        return events.cpu_s(self._server.pid) - before

    def read(self) -> Reading:
        """Read the whole feed as NDJSON."""
        found, link = 0, FEED
        before, started = events.cpu_s(self._server.pid), time.perf_counter()
        while True:
            lines, link = self._read_page(link)
            if not lines:
                self._end = link
                break
            found += lines
        wall_s = time.perf_counter() - started
        return Reading(found, events.cpu_s(self._server.pid) - before, wall_s)

    def _read_page(self, link: str) -> tuple[int, str]:
        port = int(self._server.url.rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port)
        headers = {"X-API-Key": self._key, "Accept": "application/x-ndjson"}
        connection.request("GET", link, headers=headers)
        with connection.getresponse() as answer:
            lines = 0
            while part := answer.read(READ_BYTES):
                lines += part.count(b"\n")
            following = answer.headers["Link"].partition(">")[0].lstrip("<")
        connection.close()
        return lines, following

    def consumers(self) -> Consumers:
        """Return consumers that have read all, and are not connected yet."""
        return Consumers(self._server, self._key, self._end)

    def memory_mb(self) -> float:
        """Return the resident memory of the service."""
        status = Path(f"/proc/{self._server.pid}/status").read_text()
        (line,) = [each for each in status.splitlines() if each.startswith("VmRSS:")]
        return int(line.split()[1]) / 1_000

    def idle_cpu_s(self) -> float:
        """Return the CPU time of the service in which nothing is sent."""
        before = events.cpu_s(self._server.pid)
        time.sleep(SETTLE_S)
        return events.cpu_s(self._server.pid) - before


def run() -> list[Result]:
    """Measure on SQLite."""
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            database = events.sqlite(folder)
            collected = stack.enter_context(_collecting(database))
            collected.send(EVENTS // events.BATCH)
            return [*_read(collected), *_wait(collected)]
    except events.UNMEASURED as error:
        return [unmeasured("feed", error)]


@contextmanager
def _collecting(database: events.Database) -> Iterator[Collected]:
    with events.serving(database) as (server, key):
        yield Collected(server, key)


def _read(collected: Collected) -> Iterator[Result]:
    collected.read()  # warms the caches of the database
    readings = [collected.read() for _ in range(ROUNDS)]
    per_s = statistics.median(each.events / each.cpu_s for each in readings)
    wall_per_s = statistics.median(each.events / each.wall_s for each in readings)
    yield minimum(
        f"NDJSON of {EVENTS:,} events, to {READ_PER_S:,} a second of CPU time",
        per_s / READ_PER_S,
        1,
        f"{per_s:,.0f} a second of CPU time, {wall_per_s:,.0f} a second in all",
    )


def _wait(collected: Collected) -> Iterator[Result]:
    consumers = collected.consumers()
    alone, beside, memory_mb, idle_s = [], [], [], []
    for _ in range(ROUNDS):
        alone.append(collected.send(BATCHES))
        before = collected.memory_mb()
        consumers.connect()
        time.sleep(SETTLE_S)
        memory_mb.append(collected.memory_mb() - before)
        idle_s.append(collected.idle_cpu_s())
        beside.append(collected.send(BATCHES))
        consumers.close()
        time.sleep(SETTLE_S)
    yield maximum(
        f"{WAITERS:,} consumers that wait, to {WAITERS_MB:g} MB",
        memory_mb[0] / WAITERS_MB,
        1,
        f"{memory_mb[0]:.0f} MB; {_ms(idle_s) / SETTLE_S:.0f} ms of CPU a second",
    )
    yield maximum(
        f"CPU time of ingestion beside {WAITERS:,} consumers, to that alone",
        statistics.median(beside) / statistics.median(alone),
        MAX_INGESTION,
        f"{_us(beside):.1f} µs for an event instead of {_us(alone):.1f} µs",
    )


def _ms(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1_000


def _us(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) / (BATCHES * events.BATCH) * 1e6
