"""The events client: its rate, its delays of the event loop, and its memory.

The service is a process of its own on one core; the client, the application's loop and
a beat in it that measures standstills share the other.
"""

import asyncio
import logging
import secrets
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog
import uvloop

from benchmarks.load.processes import LOAD_CORE, Missing, pin_to, service
from benchmarks.report import Result, maximum, minimum
from benchmarks.stalls import delays_of
from benchmarks.upstreams import free_port
from service.events.client import BufferFull, EventsClient, Undelivered
from service.keys.store import add_key
from service.settings import SCOPES, load
from service.storage.database import open_database

WANTED_PER_S: Final = 20_000
WANTED_MS: Final = 20
AT_ONCE: Final = 100_000
"""Handed over in one go, as fast as they are taken."""
STEADY_S: Final = 5
TICK_EVENTS: Final = 100
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
BOUND_BYTES: Final = 16 * 1024 * 1024
DATA: Final = {"host": "www.example.com", "path": "/", "element": "chat bubble"}
NO_UPSTREAM: Final = "http://127.0.0.1:9"


class Measured(NamedTuple):
    """Events a second, and by how much a beat of the loop came late at most."""

    per_s: float
    worst_ms: float


async def send(events: EventsClient, number: int) -> None:
    """Hand so many events over, as an application does it."""
    for _ in range(number):
        await events.send("page interaction", "cta click", DATA, session_id="session")


async def at_once(events: EventsClient) -> Measured:
    """Hand over as fast as possible."""
    taken_s = 0.0

    async def work() -> None:
        nonlocal taken_s
        started = time.perf_counter()
        await send(events, AT_ONCE)
        taken_s = time.perf_counter() - started

    delays = await delays_of(work)
    return Measured(AT_ONCE / taken_s, max(delays) * 1_000)


async def steadily(events: EventsClient) -> Measured:
    """Hand over at the wanted rate; the time goes on until the last is delivered."""
    number, taken_s = STEADY_S * WANTED_PER_S, 0.0

    async def work() -> None:
        nonlocal taken_s
        started = time.perf_counter()
        for sent in range(0, number, TICK_EVENTS):
            early_s = started + sent / WANTED_PER_S - time.perf_counter()
            await asyncio.sleep(max(0.0, early_s))
            await send(events, TICK_EVENTS)
        await until_delivered(events)
        taken_s = time.perf_counter() - started

    delays = await delays_of(work)
    return Measured(number / taken_s, max(delays) * 1_000)


async def until_delivered(events: EventsClient) -> None:
    """Wait until nothing waits to be sent."""
    while events.waiting_bytes:  # noqa: ASYNC110 - the client has no event for it
        await asyncio.sleep(0.005)


async def measure(url: str, key: str) -> dict[str, Measured]:
    """Each after the other; `Missing` where an event was not delivered.

    What an idle loop is kept waiting is the machine's doing, not the client's.
    """
    undelivered: list[Undelivered] = []
    options: dict[str, Any] = {
        "max_waiting_bytes": MAX_WAITING_BYTES,
        "close_timeout_s": 60,
        "on_undelivered": undelivered.append,
    }
    async with EventsClient(url, key, **options) as events:
        await send(events, 1_000)
        await until_delivered(events)
        idle = await delays_of(lambda: asyncio.sleep(STEADY_S))
        measured = {"idle": Measured(0, max(idle) * 1_000)}
        measured["at once"] = await at_once(events)
        await until_delivered(events)
        measured["steadily"] = await steadily(events)
    if undelivered:
        raise Missing(f"{len(undelivered)} events were not delivered")
    return measured


async def client_memory() -> tuple[int, int]:
    """The memory of a client that cannot deliver, and of how many events."""
    number = 0
    tracemalloc.start()
    events = EventsClient(
        f"http://127.0.0.1:{free_port()}",
        "key",
        max_waiting_bytes=BOUND_BYTES,
        close_timeout_s=0,
        on_undelivered=lambda _: None,
    )
    async with events:
        before, _ = tracemalloc.get_traced_memory()
        try:
            while True:
                await send(events, 1)
                number += 1
        except BufferFull:
            used_bytes = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return used_bytes, number


async def make_key(storage_url: str) -> str:
    """A key of an application, in a new database."""
    storage = load(options={"storage": {"url": storage_url}}).settings.storage
    async with open_database(storage) as database:
        return await add_key(database, f"bench {secrets.token_hex(4)}", SCOPES)


def run() -> list[Result]:
    """Rates and standstills beside the service; memory without it."""
    pin_to(LOAD_CORE)
    # That it waits for a service is what is wanted here.
    errors_only = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=errors_only)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{Path(folder) / 'events.db'}"
        key = asyncio.run(make_key(url))
        with service(NO_UPSTREAM, events__enabled="true", storage__url=url) as server:
            measured = uvloop.run(measure(server.url, key))
    once, steady = measured["at once"], measured["steadily"]
    worst_ms = max(once.worst_ms, steady.worst_ms)
    used_bytes, number = uvloop.run(client_memory())
    return [
        minimum(
            f"client: events/s handed over, to {WANTED_PER_S:,}",
            once.per_s / WANTED_PER_S,
            1,
            f"{once.per_s:,.0f}/s, {AT_ONCE:,} in one go; at {WANTED_PER_S:,}/s for "
            f"{STEADY_S} s, {steady.per_s:,.0f}/s were on disk",
        ),
        maximum(
            f"client: longest standstill of the loop, to {WANTED_MS} ms",
            worst_ms / WANTED_MS,
            1,
            f"in one go {once.worst_ms:.1f} ms, steadily {steady.worst_ms:.1f} ms; "
            f"an idle loop {measured['idle'].worst_ms:.1f} ms",
        ),
        maximum(
            "client: memory without the service, to its bound",
            used_bytes / BOUND_BYTES,
            1.1,
            f"{used_bytes / 2**20:.1f} MiB, {number:,} events",
        ),
    ]
