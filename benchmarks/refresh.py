"""Whole refreshes against an upstream that takes 50 ms for every answer."""

import math
import statistics
import time
from typing import Any, Final

import uvloop

from benchmarks.report import Result, maximum
from benchmarks.upstreams import sandbox_process
from service.observability import logs
from service.settings import load
from service.upstream.client import open_client
from service.usage.cache import SnapshotCache
from service.usage.snapshots.formats import JSON
from service.usage.sources import UpstreamMessages

LATENCY_MS: Final = 50
CONCURRENCY: Final = 64
REPORTS: Final = 1_000
ROUNDS: Final = 7


async def refresh_s(url: str) -> list[float]:
    """Seconds of each first refresh: a new client, no connection, an empty cache."""
    options: dict[str, dict[str, Any]] = {
        "upstream": {"base_url": url, "concurrency": CONCURRENCY},
        "logging": {"level": "error"},
    }
    settings = load(options=options).settings
    taken = []
    for _ in range(ROUNDS):
        async with open_client(settings.upstream, settings.breaker) as client:
            cache = SnapshotCache(settings, client, UpstreamMessages(client))
            started = time.perf_counter()
            view = await cache.view(is_query=False)
            await view.answer(JSON)
            taken.append(time.perf_counter() - started)
            await cache.close()
    return taken


def measure(messages: int, reports: int) -> float:
    """The median first refresh of a period, in seconds."""
    sizes = ("--messages", str(messages), "--reports", str(reports))
    with sandbox_process(*sizes, "--latency-ms", str(LATENCY_MS)) as url:
        taken = uvloop.run(refresh_s(url))
    return statistics.median(taken)


def run() -> list[Result]:
    """Fan-out over many reports, and the everyday small period."""
    logs.configure("error", "json")
    latency_s = LATENCY_MS / 1_000
    many_s = measure(4 * REPORTS, REPORTS)
    ideal_s = math.ceil(REPORTS / CONCURRENCY) * latency_s
    small_s = measure(110, 8)
    return [
        maximum(
            f"{REPORTS:,} reports, {CONCURRENCY} at once, to the ideal",
            many_s / ideal_s,
            1.25,
            f"{many_s * 1e3:.0f} ms; ideal {ideal_s * 1e3:.0f} ms without the messages",
        ),
        maximum(
            "110 messages, 8 reports, to two latencies",
            small_s / (2 * latency_s),
            1.3,
            f"{small_s * 1e3:.0f} ms at {LATENCY_MS} ms upstream",
        ),
    ]
