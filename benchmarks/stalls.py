"""Delays of the event loop while 1,000,000 messages are priced.

In the loop itself, in a thread of its process, and in a process of its own: the
measurement behind `docs/decisions/pricing-process.md`.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Final

import uvloop

from benchmarks.report import Result, maximum
from service.sandbox.options import SandboxOptions
from service.sandbox.periods import generate_period
from service.usage.pricing import text
from service.usage.pricing.plans import TEXT_RULES
from service.usage.snapshots.build import ReportPrice, ResolvedReports
from service.usage.snapshots.formats import JSON
from service.usage.snapshots.logged_prices import PriceLogging
from service.usage.snapshots.process_worker import ProcessWorker
from service.usage.snapshots.store import LoadedMessages, SnapshotStore

MESSAGES: Final = 1_000_000
BEAT_S: Final = 0.002
WANTED_MS: Final = 20
NUMBER: Final = 1
LOGGING: Final = PriceLogging("refresh", 100)
PLAN: Final = TEXT_RULES.id


async def delays_of(work: Callable[[], Awaitable[None]]) -> list[float]:
    """By how many seconds a beat of 2 ms came late, each time, while `work` ran."""
    delays: list[float] = []

    async def beat() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(BEAT_S)
            delays.append(time.perf_counter() - started - BEAT_S)

    beating = asyncio.create_task(beat())
    await asyncio.sleep(0)
    await work()
    await asyncio.sleep(2 * BEAT_S)
    beating.cancel()
    return delays


def resolve(loaded: LoadedMessages) -> ResolvedReports:
    """Return every report as found, at some price."""
    price = ReportPrice("Lease Report", 6_100)
    return ResolvedReports([price] * len(loaded.report_keys), ())


async def measure() -> dict[str, list[float]]:
    """The delays of each way."""
    text.prepare()
    body = bytearray(generate_period(SandboxOptions(messages=MESSAGES)).messages_body)
    worker = ProcessWorker()

    def compute() -> None:
        store = SnapshotStore()
        reports = resolve(store.load(NUMBER, body, None))
        store.build(NUMBER, None, reports, LOGGING, plan=PLAN)

    async def in_loop() -> None:
        compute()

    async def in_thread() -> None:
        await asyncio.to_thread(compute)

    async def in_process() -> None:
        reports = resolve(await worker.load(NUMBER, body, None))
        build = SnapshotStore.build
        await worker.compute(build, NUMBER, None, reports, LOGGING, plan=PLAN)
        await worker.answer(NUMBER, PLAN, JSON)

    ways = {"the loop": in_loop, "a thread": in_thread, "a process": in_process}
    try:
        return {name: await delays_of(way) for name, way in ways.items()}
    finally:
        await worker.close()


def run() -> list[Result]:
    """The longest standstill of each way; only the last is what the service does."""
    delays = uvloop.run(measure())
    worst_ms = {name: max(late) * 1_000 for name, late in delays.items()}
    p99_ms = statistics.quantiles(delays["a process"], n=100)[-1] * 1_000
    others = f"in a thread {worst_ms['a thread']:,.0f} ms"
    return [
        maximum(
            "pricing in its own process: longest standstill, to 20 ms",
            worst_ms["a process"] / WANTED_MS,
            1,
            f"{worst_ms['a process']:.1f} ms, p99 {p99_ms:.1f} ms; {others}, "
            f"in the loop {worst_ms['the loop']:,.0f} ms",
        )
    ]
