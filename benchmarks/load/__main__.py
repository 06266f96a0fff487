"""`make load`: one scenario, or a latency run, against a service on this machine.

python -m benchmarks.load steady --host http://127.0.0.1:8000
python -m benchmarks.load outage --serve
python -m benchmarks.load latency --serve --rate 1000 --seconds 20
"""

# Locust replaces parts of the standard library, so it comes before all else.
import locust  # noqa: F401, I001 - imported for what it does

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import SubprocessError
from typing import Final, NamedTuple

from benchmarks.load import latency
from benchmarks.load.bill import WrongAnswer
from benchmarks.load.loopback import loopback
from benchmarks.load.processes import LOAD_CORE, Missing, pin_to, sandbox, service
from benchmarks.load.runner import Watch, first_bill, run
from benchmarks.load.scenarios import MAX_SECONDS, SCENARIOS, Scenario
from benchmarks.load.watches import Memory, Outage, nothing

LATENCY: Final = "latency"
TTL_S: Final = "1"
"""Under --serve: short, so that refreshes, and in the outage staleness, are met."""
RATE_PER_S: Final = 500.0
SECONDS: Final = 20.0


class Target(NamedTuple):
    """The service under load, and what of its surroundings is known."""

    host: str
    server_pid: int | None
    sandbox_pid: int | None
    upstream: str | None


def main(arguments: list[str] | None = None) -> int:
    """Run a scenario: 0 for success, 1 for a wrong answer, 2 for invalid options."""
    options = _parser().parse_args(arguments)
    try:
        with _target(options) as target:
            problems = _play(options, target)
    except WrongAnswer as error:
        problems = [f"before the load began: {error}"]
    except (Missing, ValueError, OSError, SubprocessError) as error:
        print(f"load: {error}", file=sys.stderr)
        return 2
    for problem in problems:
        print(f"FAILED: {problem}")
    print("failed" if problems else "all answers were right")
    return 1 if problems else 0


def _play(options: argparse.Namespace, target: Target) -> list[str]:
    if options.scenario == LATENCY:
        return _measure_latency(options, target)
    wanted = SCENARIOS[options.scenario]
    scenario = wanted.bounded(options.seconds, options.users, options.requests)
    bill = first_bill(target.host, target.upstream)
    print(f"{options.scenario}: {scenario.about}; {len(bill.items):,} messages")
    with _watch(options.scenario, scenario, target) as watch:
        return run(target.host, scenario, bill, watch)


def _measure_latency(options: argparse.Namespace, target: Target) -> list[str]:
    seconds = options.seconds or SECONDS
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"at most {MAX_SECONDS} s")
    first_bill(target.host, target.upstream)
    answers = latency.measure(target.host, options.path, options.rate, seconds)
    title = f"GET {options.path} at {options.rate:g} requests a second"
    latency.report(answers, title, options.out)
    return latency.problems_of(answers)


@contextmanager
def _target(options: argparse.Namespace) -> Iterator[Target]:
    """The running service, or one of our own for as long as the run takes."""
    if not options.serve:
        pids = options.server_pid, options.sandbox_pid
        yield Target(loopback(options.host), *pids, options.upstream)
        return
    pin_to(LOAD_CORE)
    with (
        sandbox("--messages", str(options.messages)) as upstream,
        service(upstream.url, cache__ttl_s=TTL_S) as server,
    ):
        yield Target(server.url, server.pid, upstream.pid, upstream.url)


@contextmanager
def _watch(name: str, scenario: Scenario, target: Target) -> Iterator[Watch]:
    if name == "soak" and target.server_pid is not None:
        yield Memory(target.server_pid, scenario.requests).watch()
        return
    if name != "outage":
        yield nothing()
        return
    if target.sandbox_pid is None:
        raise ValueError("outage needs --serve, or --sandbox-pid of the upstream")
    outage = Outage(target.sandbox_pid)
    try:
        yield outage.watch()
    finally:
        outage.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make load", description=__doc__)
    parser.add_argument("scenario", choices=[*SCENARIOS, LATENCY])
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--host", help="a running service on this machine")
    place.add_argument(
        "--serve", action="store_true", help="start service and sandbox, and stop them"
    )
    bounds = parser.add_argument_group("bounds; each scenario has its own")
    bounds.add_argument("--seconds", type=float)
    bounds.add_argument("--users", type=int)
    bounds.add_argument("--requests", type=int)
    known = parser.add_argument_group("what is known of the service")
    known.add_argument("--upstream", type=loopback, help="holds the bill against it")
    known.add_argument("--server-pid", type=int, help="soak: measures its memory")
    known.add_argument("--sandbox-pid", type=int, help="outage: is ended and restarted")
    known.add_argument(
        "--messages", type=int, default=110, help="--serve: the period's"
    )
    rate = parser.add_argument_group("latency")
    rate.add_argument(
        "--rate", type=float, default=RATE_PER_S, help="requests a second"
    )
    rate.add_argument("--path", default="/usage")
    rate.add_argument("--out", type=Path, default=Path("build/load"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
