"""How long the serving loop stands still while 1,000,000 messages are priced.

In the loop itself, in a thread of its process, and in a process of its own: the
measurement behind `docs/decisions/large-periods.md`.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Final

import uvloop

from benchmarks.report import Result, at_most
from service.sandbox.options import SandboxOptions
from service.sandbox.periods import generate_period
from service.usage import text
from service.usage.bookkeeping import ProcessBookkeeper
from service.usage.books import Books, Contents
from service.usage.formats import JSON
from service.usage.model import Report
from service.usage.rating import TEXT_RULES
from service.usage.reports import Settled

MESSAGES: Final = 1_000_000
BEAT_S: Final = 0.002
WANTED_MS: Final = 20
LOGGED_MESSAGES: Final = 100


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


def settle(contents: Contents) -> Settled:
    """Every report found, at some price."""
    return Settled({key: Report(1, "Lease Report", 61) for key in contents.keys}, set())


async def measure() -> dict[str, list[float]]:
    """The delays of each way."""
    text.prepare()
    body = bytearray(generate_period(SandboxOptions(messages=MESSAGES)).messages_body)
    keeper = ProcessBookkeeper()

    def compute() -> None:
        books = Books()
        books.settle(settle(books.load(body)), TEXT_RULES, LOGGED_MESSAGES)

    async def in_loop() -> None:
        compute()

    async def in_thread() -> None:
        await asyncio.to_thread(compute)

    async def in_process() -> None:
        settled = settle(await keeper.load(body))
        await keeper.call(Books.settle, settled, TEXT_RULES, LOGGED_MESSAGES)
        await keeper.answer(TEXT_RULES, JSON, is_coming=True)

    ways = {"the loop": in_loop, "a thread": in_thread, "a process": in_process}
    try:
        return {name: await delays_of(way) for name, way in ways.items()}
    finally:
        await keeper.close()


def run() -> list[Result]:
    """The longest standstill of each way; only the last is what the service does."""
    delays = uvloop.run(measure())
    worst_ms = {name: max(late) * 1_000 for name, late in delays.items()}
    p99_ms = statistics.quantiles(delays["a process"], n=100)[-1] * 1_000
    others = f"in a thread {worst_ms['a thread']:,.0f} ms"
    return [
        at_most(
            "pricing in its own process: longest standstill, to 20 ms",
            worst_ms["a process"] / WANTED_MS,
            1,
            f"{worst_ms['a process']:.1f} ms, p99 {p99_ms:.1f} ms; {others}, "
            f"in the loop {worst_ms['the loop']:,.0f} ms",
        )
    ]
