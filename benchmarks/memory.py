"""Peak memory of one refresh of 100,000 messages, over the idle processes."""

import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor
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

MESSAGES: Final = 100_000
BYTES_PER_MESSAGE: Final = 1_500


async def refresh_once(url: str) -> None:
    """One refresh with a pricing process, as for large periods."""
    options: dict[str, dict[str, Any]] = {
        "upstream": {"base_url": url},
        "usage": {"own_process_bytes": 1},
        "logging": {"level": "error"},
    }
    settings = load(options=options).settings
    async with open_client(settings.upstream, settings.breaker) as client:
        cache = SnapshotCache(settings, client, UpstreamMessages(client))
        view = await cache.view(is_query=False)
        await view.answer(JSON)
        await cache.close()


def peak_bytes() -> int:
    """The largest resident sizes so far: of this process, and of a child of it."""
    peaks = [
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    return sum(peaks) * 1024


def grow(idle_url: str, url: str) -> int:
    """Bytes by which the peak grows: after a tiny refresh (idle), then a big one."""
    logs.configure("error", "json")
    uvloop.run(refresh_once(idle_url))
    idle = peak_bytes()
    uvloop.run(refresh_once(url))
    return peak_bytes() - idle


def run() -> list[Result]:
    """Bytes a message, in a fresh process."""
    spawn = multiprocessing.get_context("spawn")
    with (
        sandbox_process("--messages", "10") as idle_url,
        sandbox_process("--messages", str(MESSAGES)) as url,
        ProcessPoolExecutor(1, mp_context=spawn) as pool,
    ):
        grown = pool.submit(grow, idle_url, url).result()
    each = grown / MESSAGES
    return [
        maximum(
            f"peak of {MESSAGES:,} messages, to 1.5 KB each",
            each / BYTES_PER_MESSAGE,
            1,
            f"{each:,.0f} bytes a message over idle",
        )
    ]
