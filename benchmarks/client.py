"""The client of applications: how fast it takes events, its memory, and its spool.

The application and its client share one core; the service has the other. `track` is
measured while the service accepts events, and while it is away, so that all events go
to the spool.
"""

import asyncio
import secrets
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import uvloop

from benchmarks.load.processes import LOAD_CORE, Missing, pin_to, service
from benchmarks.report import Result, maximum, minimum
from benchmarks.stalls import delays_of
from benchmarks.upstreams import free_port
from service.keys.store import add_key
from service.settings import SCOPES, load
from service.storage.database import open_database

# .venv does not have the client, which is a distribution of its own.
sys.path.insert(0, str(Path(__file__).parents[1] / "clients" / "python" / "src"))

from copilot_usage_client import AsyncClient, Client
from copilot_usage_client.outbox import Outbox

MIB: Final = 1024 * 1024
TRACKED_PER_S: Final = 100_000
SPOOLED_MB_PER_S: Final = 50
STANDSTILL_MS: Final = 20
ROUNDS: Final = 5
EVENTS: Final = 100_000
"""Handed over in one go, in each round."""
STEADY_S: Final = 5
STEADY_PER_S: Final = 10_000
TICK_EVENTS: Final = 100
DELIVERED_S: Final = 120.0
BOUND_BYTES: Final = 16 * MIB
SPOOL_BYTES: Final = 1024 * MIB
DATA: Final = {"host": "www.example.com", "path": "/", "element": "chat bubble"}
NO_UPSTREAM: Final = "http://127.0.0.1:9"


class Rate(NamedTuple):
    """Events a second, by the clock and by the processor time of all threads.

    Other processes on the core slow the first one down, and hardly the second one.
    """

    per_s: float
    per_cpu_s: float


def track(client: AsyncClient | Client, number: int) -> None:
    """Hand so many events over, as an application does it."""
    for _ in range(number):
        client.track("page interaction", "cta click", DATA, session_id="session")


def rate_of(client: Client) -> Rate:
    """Hand over as fast as possible."""
    started, cpu_started = time.perf_counter(), time.process_time()
    track(client, EVENTS)
    taken_s = time.perf_counter() - started
    return Rate(EVENTS / taken_s, EVENTS / (time.process_time() - cpu_started))


def median(rates: list[Rate]) -> Rate:
    """The median of each."""
    return Rate(*map(statistics.median, zip(*rates, strict=True)))


@contextmanager
def client_of(url: str, key: str) -> Iterator[Client]:
    """A client with a spool of its own; no event may be lost."""
    with tempfile.TemporaryDirectory() as folder:
        client = Client(url, key, spool_dir=folder, max_spool_bytes=SPOOL_BYTES)
        yield client
        client.close(0)
        if client.counts.failed or client.counts.dropped:
            raise Missing(f"events were not delivered: {client.counts}")


def rate_with_service(url: str, key: str) -> Rate:
    """The rate while events are delivered; all of them arrive."""
    with client_of(url, key) as client:
        rate = rate_of(client)
        if not client.flush(DELIVERED_S):
            raise Missing(f"not delivered in {DELIVERED_S:g} s: {client.counts}")
        return rate


def rate_without_service() -> Rate:
    """The rate while the spool takes all events."""
    with client_of(f"http://127.0.0.1:{free_port()}", "key") as client:
        return rate_of(client)


async def standstill_ms(url: str, key: str) -> tuple[float, float]:
    """By how much a beat of the loop came late at most: idle, and while it delivers."""

    async def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with AsyncClient(url, key, spool_dir=folder) as client:
                started = time.perf_counter()
                for sent in range(0, STEADY_S * STEADY_PER_S, TICK_EVENTS):
                    early_s = started + sent / STEADY_PER_S - time.perf_counter()
                    await asyncio.sleep(max(0.0, early_s))
                    track(client, TICK_EVENTS)
                if not await client.flush(DELIVERED_S):
                    raise Missing(f"not delivered: {client.counts}")

    idle = await delays_of(lambda: asyncio.sleep(STEADY_S))
    return max(idle) * 1_000, max(await delays_of(work)) * 1_000


def spooled_mb_per_s() -> float:
    """How fast a full memory is written to files, as the median of the rounds."""
    rates = []
    line = b'{"id":"x","data":"' + b"x" * 300 + b'"}\n'
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            outbox = Outbox(Path(folder), 4 * SPOOL_BYTES, SPOOL_BYTES)
            for _ in range(100 * MIB // len(line)):
                outbox.put(line)
            started = time.perf_counter()
            outbox.spill()
            rates.append(100 * MIB / 1e6 / (time.perf_counter() - started))
            if len(outbox):
                raise Missing("the spool did not take all events")
    return statistics.median(rates)


def client_memory() -> tuple[int, int]:
    """The memory of a client that can neither deliver nor spool, and its events."""
    tracemalloc.start()
    with tempfile.TemporaryDirectory():
        client = Client(
            f"http://127.0.0.1:{free_port()}",
            "key",
            max_memory_bytes=BOUND_BYTES,
            max_spool_bytes=0,
            on_error=lambda _: None,
        )
        before, _ = tracemalloc.get_traced_memory()
        number = 0
        while not client.counts.dropped:
            track(client, 1)
            number += 1
        used_bytes = tracemalloc.get_traced_memory()[1] - before
        client.close(0)
    tracemalloc.stop()
    return used_bytes, number


async def make_key(storage_url: str) -> str:
    """A key of an application without an effective rate, in a new database."""
    storage = load(options={"storage": {"url": storage_url}}).settings.storage
    async with open_database(storage) as database:
        name = f"bench {secrets.token_hex(4)}"
        return await add_key(database, name, SCOPES, 1_000_000)


def rounds(work: Callable[[], Rate]) -> Rate:
    """The median rate of the rounds."""
    return median([work() for _ in range(ROUNDS)])


def run() -> list[Result]:
    """Rates beside the service and without it; memory and files without it."""
    pin_to(LOAD_CORE)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{Path(folder) / 'events.db'}"
        key = asyncio.run(make_key(url))
        with service(NO_UPSTREAM, events__enabled="true", storage__url=url) as server:
            delivering = rounds(lambda: rate_with_service(server.url, key))
            idle_ms, worst_ms = uvloop.run(standstill_ms(server.url, key))
    spooling = rounds(rate_without_service)
    mb_per_s = spooled_mb_per_s()
    used_bytes, number = client_memory()
    return [
        *(
            minimum(
                f"client: track, {state}, to {TRACKED_PER_S:,} in a second of one core",
                rate.per_cpu_s / TRACKED_PER_S,
                1,
                f"{rate.per_cpu_s:,.0f} in a second of processor time, all threads of "
                f"the client together; {rate.per_s:,.0f} in one of the clock; median "
                f"of {ROUNDS} x {EVENTS:,}",
            )
            for state, rate in (("delivering", delivering), ("spooling", spooling))
        ),
        maximum(
            f"client: longest standstill of the loop, to {STANDSTILL_MS} ms",
            worst_ms / STANDSTILL_MS,
            1,
            f"{worst_ms:.1f} ms at {STEADY_PER_S:,}/s; an idle loop {idle_ms:.1f} ms",
        ),
        minimum(
            f"client: spool, to {SPOOLED_MB_PER_S} MB/s",
            mb_per_s / SPOOLED_MB_PER_S,
            1,
            f"{mb_per_s:,.0f} MB/s, median of {ROUNDS} x 100 MiB",
        ),
        maximum(
            "client: memory without service and spool, to its bound",
            used_bytes / BOUND_BYTES,
            1,
            f"{used_bytes / MIB:.1f} MiB at most, {number:,} events",
        ),
    ]
