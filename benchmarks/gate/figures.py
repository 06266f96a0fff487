"""Figures of the gate, all measured from outside: by HTTP, or by the command line.

So both sides are measured by the same code, whatever became of the code inside. What
plays the upstream, and the load, is always this checkout's.
"""

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.big_period import PATIENT
from benchmarks.gate.comparison import Figure, Group, OpenSide, Samplers
from benchmarks.load import wrk
from benchmarks.load.processes import (
    CORES,
    LOAD_CORE,
    SERVER_CORE,
    Missing,
    Server,
    Tree,
    get,
    pinned,
    resident_bytes,
    running,
    sandbox,
    service,
)
from benchmarks.load.senders import Outcome, Plan
from benchmarks.load.wrk import Target
from benchmarks.upstreams import free_port
from service.sandbox.fake_vpic import VPIC_PATH

SMALL_PERIOD: Final = 110
LARGE_PERIOD: Final = 100_000
REPORTS: Final = 1_000
LOAD_S: Final = 1
WARM_UP_S: Final = 1
SETTLE_S: Final = 1.0
"""Memory is read so long after a refresh: what was only needed for it is freed."""
LOOKUP: Final = "/vehicles/lookup?vin=1XPWD40X1ED215307"
BATCH: Final = 500
BATCHES: Final = 40
CONNECTIONS: Final = 8
NO_UPSTREAM: Final = "http://127.0.0.1:9"
CALL_S: Final = 120.0

NEVER_OLD_S: Final = "3600"


def _rate(name: str, unit: str = "requests/s") -> Figure:
    return Figure(name, unit, is_more_better=True, pairs=2)


CACHED: Final = _rate("GET /usage, cached")
NOT_MODIFIED: Final = _rate("GET /usage, 304")
DAILY: Final = _rate("GET /usage/daily, cached")
VEHICLE: Final = _rate("GET /vehicles/lookup, cached")
INGEST: Final = _rate(f"POST /events, {BATCH} in each, SQLite", "events/s")
SMALL: Final = Figure(f"first refresh of {SMALL_PERIOD} messages", "ms")
FAN_OUT: Final = Figure(f"first refresh with {REPORTS:,} reports", "ms")
LARGE: Final = Figure(f"first refresh of {LARGE_PERIOD:,} messages", "ms")
MEMORY: Final = Figure(f"memory after {LARGE_PERIOD:,} messages", "bytes each")
GROWN: Final = Figure("refresh with 1 % new messages", "ms")
RATE: Final = Figure(f"copilot-usage rate, {LARGE_PERIOD:,} messages", "ms")


@contextmanager
def usage() -> Iterator[OpenSide]:
    """Requests a second on one core, with the access log, of a cached period."""
    with sandbox("--messages", str(SMALL_PERIOD)) as upstream:

        @contextmanager
        def open_side(tree: Tree) -> Iterator[Samplers]:
            with service(upstream.url, tree=tree, cache__ttl_s=NEVER_OLD_S) as server:
                whole = Target(f"{server.url}/usage")
                _, headers = get(whole.url)
                known = Target(whole.url, {"If-None-Match": headers["ETag"]})
                daily = Target(f"{server.url}/usage/daily")
                wrk.measure(whole, WARM_UP_S)
                yield {
                    CACHED: lambda: wrk.measure(whole, LOAD_S),
                    NOT_MODIFIED: lambda: wrk.measure(known, LOAD_S),
                    DAILY: lambda: wrk.measure(daily, LOAD_S),
                }

        yield open_side


@contextmanager
def vehicles() -> Iterator[OpenSide]:
    """Look-ups a second on one core of a VIN that is cached."""
    with sandbox("--messages", "0") as upstream, _folders() as next_folder:

        @contextmanager
        def open_side(tree: Tree) -> Iterator[Samplers]:
            with service(
                upstream.url,
                tree=tree,
                vehicles__enabled="true",
                vehicles__base_url=upstream.url + VPIC_PATH,
                storage__url=_database_in(next_folder()),
            ) as server:
                target = Target(server.url + LOOKUP)
                wrk.measure(target, WARM_UP_S)
                yield {VEHICLE: lambda: wrk.measure(target, LOAD_S)}

        yield open_side


@contextmanager
def events() -> Iterator[OpenSide]:
    """Events a second that are on disk, sent in batches."""
    seeds = itertools.count()
    with _folders() as next_folder:

        @contextmanager
        def open_side(tree: Tree) -> Iterator[Samplers]:
            url = _database_in(next_folder())
            key = _make_key(tree, url)
            with service(
                NO_UPSTREAM,
                tree=tree,
                cores=CORES,
                events__enabled="true",
                storage__url=url,
            ) as server:
                yield {INGEST: lambda: _events_per_s(server, key, next(seeds))}

        yield open_side


@contextmanager
def small() -> Iterator[OpenSide]:
    """Milliseconds of the first request of a new process."""
    with sandbox("--messages", str(SMALL_PERIOD)) as upstream:
        yield _first_request(upstream, SMALL)


@contextmanager
def reports() -> Iterator[OpenSide]:
    """The same where most of it is to ask for reports, each 5 ms away."""
    sizes = ("--messages", str(4 * REPORTS), "--reports", str(REPORTS))
    with sandbox(*sizes, "--latency-ms", "5") as upstream:
        yield _first_request(upstream, FAN_OUT)


@contextmanager
def large() -> Iterator[OpenSide]:
    """A large period: fetched first, its memory, and fetched with 1 % more."""
    prefixes = itertools.count()
    with _growing() as upstream:

        @contextmanager
        def open_side(tree: Tree) -> Iterator[Samplers]:
            with service(
                f"{upstream.url}/{next(prefixes)}",
                tree=tree,
                cores=CORES,
                **PATIENT,
                **_cold(tree),
                # Each request refreshes the period, and waits for that.
                cache__ttl_s="0",
                cache__stale_while_revalidate_s="0",
            ) as server:
                refresh = _timed_get(f"{server.url}/usage/daily")
                yield {
                    LARGE: refresh,
                    MEMORY: lambda: _idle_bytes(server) / LARGE_PERIOD,
                    GROWN: refresh,
                }

        yield open_side


@contextmanager
def rate() -> Iterator[OpenSide]:
    """Milliseconds that the command takes for a file, its start included."""
    with _growing() as upstream, tempfile.NamedTemporaryFile() as file:
        file.write(get(f"{upstream.url}/base")[0])
        file.flush()

        @contextmanager
        def open_side(tree: Tree) -> Iterator[Samplers]:
            command = pinned([SERVER_CORE], tree.command("rate", file.name))
            yield {RATE: _timed(lambda: _run(command, tree))}

        yield open_side


GROUPS: Final[dict[str, Group]] = {
    "usage": usage,
    "vehicles": vehicles,
    "events": events,
    "small": small,
    "reports": reports,
    "large": large,
    "rate": rate,
}


def _first_request(upstream: Server, figure: Figure) -> OpenSide:
    @contextmanager
    def open_side(tree: Tree) -> Iterator[Samplers]:
        with service(upstream.url, tree=tree, **_cold(tree)) as server:
            yield {figure: _timed_get(f"{server.url}/usage")}

    return open_side


def _cold(tree: Tree) -> dict[str, Any]:
    """Settings with which a service fetches nothing before the first request.

    Otherwise the side that starts first has fetched the period while the other starts.
    """
    known = (tree.root / "config" / "default.toml").read_text(encoding="utf-8")
    return {"health__warm_up": "false"} if "\nwarm_up = " in known else {}


def _timed_get(url: str) -> Callable[[], float]:
    return _timed(lambda: get(url))


def _timed(work: Callable[[], object]) -> Callable[[], float]:
    """Return a sampler of the milliseconds that some work takes."""

    def sample() -> float:
        started = time.perf_counter()
        work()
        return (time.perf_counter() - started) * 1_000

    return sample


def _idle_bytes(server: Server) -> int:
    time.sleep(SETTLE_S)
    return resident_bytes(server.pid)


@contextmanager
def _growing() -> Iterator[Server]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    module = [sys.executable, "-m", "benchmarks.load.growing"]
    command = pinned([LOAD_CORE], [*module, str(LARGE_PERIOD), str(port)])
    with running(command, f"{url}/reports/0") as server:
        yield Server(url, server.process)


@contextmanager
def _folders() -> Iterator[Callable[[], Path]]:
    """Give new folders, which are removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        yield lambda: Path(tempfile.mkdtemp(dir=folder))


def _database_in(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder}/service.db"


def _make_key(tree: Tree, storage_url: str) -> str:
    """Make an API key in a new database; it is the last word that is printed."""
    environment = {"COPILOT_USAGE_STORAGE__URL": storage_url}
    _run(tree.command("migrate"), tree, environment)
    return _run(tree.command("keys", "add", "bench"), tree, environment).split()[-1]


def _events_per_s(server: Server, key: str, seed: int) -> float:
    port = int(server.url.rpartition(":")[2])
    plan = Plan(port, key, BATCHES, BATCH, CONNECTIONS, seed=seed)
    command = [sys.executable, "-m", "benchmarks.load.senders"]
    sent = subprocess.run(  # noqa: S603 - our own command
        [*command, msgspec.json.encode(plan).decode()],
        check=True,
        stdout=subprocess.PIPE,
        timeout=CALL_S,
    )
    outcome = msgspec.json.decode(sent.stdout, type=Outcome)
    if outcome.accepted != BATCHES * BATCH:
        raise Missing(f"{outcome.accepted:,} of {BATCHES * BATCH:,} accepted")
    return outcome.accepted / outcome.seconds


def _run(
    command: list[str], tree: Tree, environment: Mapping[str, str] | None = None
) -> str:
    """Run a command of a tree, and return what it prints."""
    return subprocess.run(  # noqa: S603 - our own commands
        command,
        check=True,
        capture_output=True,
        cwd=tree.root,
        env={**tree.environment, **(environment or {})},
        text=True,
        timeout=CALL_S,
    ).stdout
