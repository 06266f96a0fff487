"""A constant rate, free of coordinated omission: h2load (Debian's nghttp2-client).

Each connection may have any number of requests in its pipeline, so a request leaves
when it is due, however late the server is with those before. Connections start as
far apart as requests are to be, so that these come one by one instead of in bursts.

In an overload, pipelines would be queues of the clients: a server answers the requests
of a connection one after the other. `run` then takes many connections without them.
"""

import math
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.load.loopback import loopback
from benchmarks.load.processes import LOAD_CORE, Missing, pinned, tool

MAX_REQUESTS: Final = 2_000_000
MOST_PER_CONNECTION_PER_S: Final = 100
"""h2load's timer ticks every 10 ms: a faster connection would send in bursts."""
GRACE_S: Final = 60.0
MIN_SENT: Final = 2


class Answer(NamedTuple):
    """One request: when it left (µs since 1970), its status, how long it took."""

    sent_us: int
    status: int
    taken_us: int


class Connections(NamedTuple):
    """The connections of clients: at least so many, more where the rate needs them."""

    number: int = 1
    pipelined: bool = True
    """A request leaves when it is due. Without pipelines it waits for a connection."""


ONE_CONNECTION: Final = Connections()


def run(
    url: str,
    per_s: float,
    seconds: float,
    *,
    headers: Mapping[str, str] | None = None,
    connections: Connections = ONE_CONNECTION,
) -> list[Answer]:
    """Send `per_s` requests a second for so long; all answers, in order of their end.

    The wait for a connection is not measured: compare `sent_per_s` with the rate.

    Raises `Missing` without h2load, `ValueError` where the URL is not of this machine,
    `subprocess.SubprocessError` where it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "requests"
        options = _options(per_s, seconds, connections)
        given = [f"--header={name}: {value}" for name, value in (headers or {}).items()]
        command = [tool("h2load", "nghttp2-client"), "--h1", *options, *given]
        subprocess.run(  # noqa: S603 - our own command
            pinned([LOAD_CORE], [*command, f"--log-file={log}", loopback(url)]),
            check=True,
            capture_output=True,
            timeout=seconds + GRACE_S,
        )
        lines = log.read_text().splitlines()
    return [Answer(*map(int, line.split())) for line in lines]


def percentile_ms(answers: Sequence[Answer], percent: float) -> float:
    """The time that so many percent of the answers took at most, in milliseconds."""
    if not answers:
        raise Missing("no such answer: nothing to take a percentile of")
    taken = sorted(answer.taken_us for answer in answers)
    return taken[math.ceil(len(taken) * percent / 100) - 1] / 1_000


def sent_per_s(answers: Sequence[Answer]) -> float:
    """Requests that were sent a second."""
    if len(answers) < MIN_SENT:
        raise Missing("too few answers to tell the rate")
    sent = [answer.sent_us for answer in answers]
    return (len(sent) - 1) / (max(sent) - min(sent)) * 1e6


def _options(per_s: float, seconds: float, wanted: Connections) -> list[str]:
    connections = max(wanted.number, math.ceil(per_s / MOST_PER_CONNECTION_PER_S))
    each = max(1, round(per_s * seconds / connections))
    if each * connections > MAX_REQUESTS:
        raise ValueError(f"more than {MAX_REQUESTS:,} requests")
    apart_ms = max(1, round(1_000 / per_s))
    return [
        f"--clients={connections}",
        f"--requests={each * connections}",
        f"--rps={per_s / connections}",
        f"--max-concurrent-streams={each if wanted.pipelined else 1}",
        f"--rate={min(connections, max(1, round(per_s * apart_ms / 1_000)))}",
        f"--rate-period={apart_ms}ms",
    ]
