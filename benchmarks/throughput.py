"""Throughput of one core, against minimal servers of the same bytes.

The servers have one core, the load has another. Each part stands alone: one that
cannot be measured says why.
"""

import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.load import wrk
from benchmarks.load.opponents import FILE, bare_handler, nginx_worker, redis_server
from benchmarks.load.processes import CORES, Missing, get, sandbox, service
from benchmarks.load.wrk import Target
from benchmarks.report import Result, minimum, unmeasured

PERIOD: Final = ("--messages", "110")
COSTLY_PERIOD: Final = ("--messages", "20000", "--reports", "100")
COSTLY_PATH: Final = "/usage?sort=credits_used:desc;report_name:asc&limit=100"
"""Milliseconds of work: the load beside it costs next to nothing."""

WARM_UP_S: Final = 1
WORKERS: Final = 2

UNMEASURED: Final = (Missing, OSError, subprocess.SubprocessError)


class Comparison(NamedTuple):
    """Two targets by name, and the least that their ratio should be."""

    name: str
    ours: str
    theirs: str
    bound: float


COMPARISONS: Final = (
    Comparison("cached /usage, to a bare handler", "cached", "bare", 2.5),
    Comparison("cached /usage, to one nginx worker", "cached", "nginx", 0.9),
    Comparison("the same, with request ids of the client", "ids", "nginx", 0.9),
    Comparison("cached /usage, logged, to a bare handler", "logged", "bare", 1.3),
    Comparison("304, to 200", "304", "cached", 1.1),
    Comparison("with rates shared by Redis, to rates alone", "shared", "cached", 0.97),
)
RATE: Final = "1000000"
"""A limit for which each request is charged, and none is refused."""
WORKERS_COMPARISON: Final = Comparison(f"{WORKERS} workers, to one", "many", "one", 1.7)


class Targets:
    """Started targets by name, and the errors of the others."""

    def __init__(self) -> None:
        self.started: dict[str, Target] = {}
        self.missing: dict[str, Exception] = {}

    def start(self, name: str, open_it: Callable[[], Target]) -> None:
        """Open one and warm it up, or keep the reason why it cannot be."""
        try:
            target = open_it()
            wrk.measure(target, WARM_UP_S)
            self.started[name] = target
        except UNMEASURED as error:
            self.missing[name] = error

    def compare(self, comparisons: Sequence[Comparison]) -> list[Result]:
        """Put load on all, in turns."""
        try:
            per_s = wrk.requests_per_s(self.started)
        except UNMEASURED as error:
            return [unmeasured(each.name, error) for each in comparisons]
        return [self._result(each, per_s) for each in comparisons]

    def _result(self, wanted: Comparison, per_s: Mapping[str, float]) -> Result:
        for name in (wanted.ours, wanted.theirs):
            if name not in per_s:
                reason = self.missing.get(name, Missing(f"{name} could not be opened"))
                return unmeasured(wanted.name, reason)
        ours, theirs = per_s[wanted.ours], per_s[wanted.theirs]
        note = f"{ours:,.0f} a second of {theirs:,.0f}"
        return minimum(wanted.name, ours / theirs, wanted.bound, note)


def run() -> list[Result]:
    """All parts."""
    return [*cached_answers(), *workers()]


def cached_answers() -> list[Result]:
    """A cached answer against a bare handler and nginx; its log; 304 against 200."""
    targets = Targets()
    with ExitStack() as stack:
        upstream = stack.enter_context(sandbox(*PERIOD))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def serve(access: str, redis_url: str = "") -> Target:
            log = stack.enter_context((folder / f"log-{access}").open("ab"))
            opened = service(
                upstream.url,
                output=log,
                logging__access=access,
                limits__rate_per_s=RATE,
                limits__burst=RATE,
                cache__redis_url=redis_url,
            )
            return Target(stack.enter_context(opened).url + "/usage")

        targets.start("cached", lambda: serve("false"))
        targets.start("logged", lambda: serve("true"))
        targets.start(
            "shared",
            lambda: serve("false", stack.enter_context(redis_server(folder))),
        )
        if "cached" in targets.started:
            ours = targets.started["cached"]
            body, headers = get(ours.url)
            (folder / FILE).write_bytes(body)
            targets.start("ids", lambda: Target(ours.url, has_ids=True))
            targets.start("304", lambda: _conditional(ours, headers))
            targets.start("bare", lambda: stack.enter_context(bare_handler(folder)))
            targets.start("nginx", lambda: stack.enter_context(nginx_worker(folder)))
        return targets.compare(COMPARISONS)


def workers() -> list[Result]:
    """Worker processes against one, on as many cores; the load is on the last."""
    targets = Targets()
    with ExitStack() as stack:
        upstream = stack.enter_context(sandbox(*COSTLY_PERIOD))

        def serve(*options: str) -> Target:
            cores = CORES[:WORKERS]
            opened = service(
                upstream.url, *options, cores=cores, logging__access="false"
            )
            return Target(stack.enter_context(opened).url + COSTLY_PATH)

        targets.start("one", serve)
        targets.start("many", lambda: serve("--workers", str(WORKERS)))
        (result,) = targets.compare([WORKERS_COMPARISON])
    shared = "" if len(CORES) > WORKERS else ", one of them the load's too"
    note = f"{result.note}; {len(CORES)} cores{shared}"
    return [Result(result.name, result.measured, result.target, result.is_met, note)]


def _conditional(target: Target, headers: Mapping[str, str]) -> Target:
    etag = headers.get("ETag")
    if etag is None:
        raise Missing("no ETag")
    return Target(target.url, {"If-None-Match": etag})
