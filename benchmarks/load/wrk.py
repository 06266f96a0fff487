"""As many requests as a server answers: wrk (Debian's package), in turns."""

import itertools
import re
import statistics
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.load.loopback import loopback
from benchmarks.load.processes import LOAD_CORE, Missing, pinned, tool

ROUNDS: Final = 5
ROUND_S: Final = 2
CONNECTIONS: Final = 32
REQUEST_IDS: Final = Path(__file__).with_name("request_ids.lua")


@dataclass(frozen=True)
class Target:
    """One thing to put load on."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    has_ids: bool = False
    """Each request has an `X-Request-ID` of its own."""


def requests_per_s(targets: Mapping[str, Target]) -> dict[str, float]:
    """The median of each target's rounds, in turns so that noise hits all alike.

    Raises as `measure` does.
    """
    rates: dict[str, list[float]] = {name: [] for name in targets}
    for _, (name, target) in itertools.product(range(ROUNDS), targets.items()):
        rates[name].append(measure(target))
    return {name: statistics.median(seen) for name, seen in rates.items()}


def measure(target: Target, seconds: int = ROUND_S) -> float:
    """Requests a second over one round.

    Raises `Missing` without wrk or where answers were errors, `ValueError` where the
    URL is not of this machine, `subprocess.SubprocessError` where wrk fails.
    """
    command = [
        tool("wrk", "wrk"),
        "--threads=1",
        f"--connections={CONNECTIONS}",
        f"--duration={seconds}s",
        *(f"--header={name}: {value}" for name, value in target.headers.items()),
        *([f"--script={REQUEST_IDS}"] if target.has_ids else []),
        loopback(target.url),
    ]
    told = subprocess.run(  # noqa: S603 - our own command
        pinned([LOAD_CORE], command), check=True, capture_output=True, text=True
    ).stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", told)
    if found is None or "Non-2xx" in told or "Socket errors" in told:
        problems = " ".join(told.splitlines()[-4:])
        raise Missing(f"errors under load at {target.url}: {problems}")
    return float(found[1])
