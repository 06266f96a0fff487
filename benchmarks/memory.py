"""Peak memory of one refresh of 100,000 messages, over the idle process."""

import multiprocessing
import resource
from typing import Final

import uvloop

from benchmarks.report import Result, at_most
from benchmarks.upstreams import sandbox_process
from service import logs
from service.settings import load
from service.upstream.client import open_client
from service.usage.period import CurrentPeriod

MESSAGES: Final = 100_000
BYTES_PER_MESSAGE: Final = 1_500


async def refresh_once(url: str) -> None:
    """One refresh, encoded, in this process."""
    options = {"upstream": {"base_url": url}, "logging": {"level": "error"}}
    settings = load(options=options).settings
    async with open_client(settings) as client:
        ledger = await CurrentPeriod(settings, client).current()
        _ = ledger.answer


def peak_bytes() -> int:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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
        spawn.Pool(1) as pool,
    ):
        grown = pool.apply(grow, (idle_url, url))
    each = grown / MESSAGES
    return [
        at_most(
            f"peak of {MESSAGES:,} messages, to 1.5 KB each",
            each / BYTES_PER_MESSAGE,
            1,
            f"{each:,.0f} bytes a message over idle",
        )
    ]
