"""Vehicles: a cached look-up against a bare handler, and many unknown VINs.

The second runs against the sandbox as vPIC, with 100 ms for each answer. The ideal is
the time of these waits alone, with the same number of batches in flight.
"""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Final

import uvloop

from benchmarks.load import wrk
from benchmarks.load.opponents import FILE, bare_handler
from benchmarks.load.processes import get, sandbox, service
from benchmarks.load.wrk import Target
from benchmarks.report import Result, maximum, minimum, unmeasured
from benchmarks.throughput import UNMEASURED
from service.observability import logs
from service.sandbox.fake_vpic import VPIC_PATH
from service.settings import load
from service.storage.database import open_database
from service.vehicles.lookup import Lookups, open_lookups
from service.vehicles.model import Vin
from service.vehicles.vpic import MAX_BATCH

LOOKUP: Final = "/vehicles/lookup?vin=1XPWD40X1ED215307"
CACHED: Final = "cached look-up, to a bare handler"
LOGGED: Final = "the same with its access log"

VINS: Final = 100_000
LATENCY_S: Final = 0.1
IN_FLIGHT: Final = 8
ASKERS: Final = 2 * IN_FLIGHT
"""While some wait for vPIC, others read and keep what it has told."""
IDEAL_S: Final = VINS / MAX_BATCH / IN_FLIGHT * LATENCY_S
LETTERS: Final = "ABCDEFGHJKLMNPRSTUVWXYZ0123456789"


def run() -> list[Result]:
    """Both parts."""
    return [*cached(), cold()]


def cached() -> list[Result]:
    """One cached VIN, requested again and again on open connections."""
    targets: dict[str, Target] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(sandbox("--messages", "0"))

        def serve(access: str) -> Target:
            log = stack.enter_context((folder / f"log-{access}").open("wb"))
            opened = service(
                upstream.url,
                output=log,
                logging__access=access,
                vehicles__enabled="true",
                vehicles__base_url=upstream.url + VPIC_PATH,
                storage__url=f"sqlite+aiosqlite:///{folder}/{access}.db",
            )
            return Target(stack.enter_context(opened).url + LOOKUP)

        try:
            targets = {"plain": serve("false"), "logged": serve("true")}
            for target in targets.values():
                body, _ = get(target.url)
            (folder / FILE).write_bytes(body)
            targets["bare"] = stack.enter_context(bare_handler(folder))
            per_s = wrk.requests_per_s(targets)
        except UNMEASURED as error:
            return [unmeasured(name, error) for name in (CACHED, LOGGED)]
    plain, logged, bare = (per_s[name] for name in ("plain", "logged", "bare"))
    note = f"{plain:,.0f} a second of {bare:,.0f}"
    return [
        minimum(CACHED, plain / bare, 2.0, note),
        minimum(LOGGED, logged / bare, 0.5, f"{logged:,.0f} a second"),
    ]


def cold() -> Result:
    """So many VINs, each asked for the first time."""
    name = f"{VINS:,} cold VINs, to the ideal"
    with tempfile.TemporaryDirectory() as folder:
        options = ("--messages", "0", "--latency-ms", str(LATENCY_S * 1_000))
        with sandbox(*options) as upstream:
            taken_s, found = uvloop.run(_look_up_all(upstream.url, folder))
    note = f"{taken_s:.1f} s of {IDEAL_S:.1f} s; {found:,} decoded"
    return maximum(name, taken_s / IDEAL_S, 1.2, note)


async def _look_up_all(url: str, folder: str) -> tuple[float, int]:
    vehicles = {
        "base_url": url + VPIC_PATH,
        "requests_per_s": 0.0,
        "concurrency": IN_FLIGHT,
    }
    storage = {"url": f"sqlite+aiosqlite:///{folder}/vehicles.db"}
    logs.configure("warning", "json")
    settings = load(options={"vehicles": vehicles, "storage": storage}).settings
    vins = list(made_up(VINS))
    async with (
        open_database(settings.storage) as database,
        open_lookups(settings, database, None) as lookups,
    ):
        batches = iter(
            [vins[at : at + MAX_BATCH] for at in range(0, len(vins), MAX_BATCH)]
        )
        started = time.perf_counter()
        found = await asyncio.gather(
            *(_look_up(lookups, batches) for _ in range(ASKERS))
        )
        return time.perf_counter() - started, sum(found)


async def _look_up(lookups: Lookups, batches: Iterator[list[Vin]]) -> int:
    """Take batch after batch; gives how many VINs were decoded."""
    found = 0
    for batch in batches:
        told = await lookups.look_up_all(batch)
        found += sum(not isinstance(each, Exception) for each in told.values())
    return found


def made_up(vins: int) -> Iterator[Vin]:
    """Distinct VINs of a maker that the sandbox knows; their check digits are wrong."""
    random = Random(7)
    for number in range(vins):
        middle = "".join(random.choices(LETTERS, k=5))
        yield Vin(f"1XP{middle}1EP{number:06d}")
