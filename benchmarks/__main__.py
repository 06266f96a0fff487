"""`make bench`: run all benchmarks, or those named as arguments.

    python -m benchmarks rating codec
    python -m benchmarks --against HEAD~1
    python -m benchmarks --against v0.1.0 usage large

The first prints ratios to targets. It exits with 0, whatever the figures, because they
depend on the machine. With `--against` each figure of this checkout is compared with a
revision. The exit status is then 1 if a figure is worse beyond the measured noise, and
2 if it could not be measured.

The first line names the tools that are needed, and those that are missing. A figure
that needs a missing tool is not measured.
"""

import argparse
import importlib
import subprocess
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Final

from benchmarks.gate.figures import GROUPS
from benchmarks.gate.run import run as run_gate
from benchmarks.load.processes import Missing
from benchmarks.report import Result, show, summarize, unmeasured
from benchmarks.tools import GATE, describe_needs

NAMES: Final = (
    "rating",
    "price",
    "codec",
    "start",
    "refresh",
    "memory",
    "overload",
    "stalls",
    "throughput",
    "big_period",
    "dashboard",
    "events",
    "queue",
    "feed",
    "asking",
    "client",
    "vehicles",
    "export",
    "periods",
    "forecast",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run benchmarks by name, or compare with a revision; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="make bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument(
        "--against",
        metavar="REV",
        help=f"compare with this revision; NAME is one of {', '.join(GROUPS)}",
    )
    options = parser.parse_args(arguments)
    known = GROUPS if options.against else NAMES
    for name in options.names:
        if name not in known:
            parser.error(f"no such benchmark: {name}; known: {', '.join(known)}")
    names = options.names or known
    if line := describe_needs([GATE] if options.against else names):
        print(line, file=sys.stderr)
    if options.against:
        return run_gate(options.against, {name: GROUPS[name] for name in names})
    show_targets(names)
    return 0


def show_targets(names: Iterable[str]) -> None:
    """Run benchmarks, and print their figures and how many have met their targets."""
    shown: list[Result] = []
    for name in names:
        results = _measure(name)
        show(name, results)
        shown += results
    print(summarize(shown))


def _measure(name: str) -> list[Result]:
    """Run one benchmark; what it needs and this machine lacks leaves it unmeasured."""
    try:
        results: list[Result] = importlib.import_module(f"benchmarks.{name}").run()
    except (Missing, ImportError, OSError, subprocess.SubprocessError) as error:
        return [unmeasured(name, error)]
    except Exception as error:  # noqa: BLE001 - the other benchmarks run all the same
        traceback.print_exc()
        return [unmeasured(name, f"{type(error).__name__}: {error}")]
    return results


if __name__ == "__main__":
    sys.exit(main())
