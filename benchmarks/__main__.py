"""`make bench`: run all benchmarks, or those named as arguments.

    python -m benchmarks rating codec
    python -m benchmarks --against HEAD~1
    python -m benchmarks --against v0.1.0 usage large

The first prints ratios to targets. With `--against` each figure of this checkout is
compared with a revision. The exit status is 1 if a figure is worse beyond the measured
noise, and 2 if it could not be measured.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final

from benchmarks.gate.figures import GROUPS
from benchmarks.gate.run import run as run_gate
from benchmarks.report import show

NAMES: Final = (
    "rating",
    "codec",
    "refresh",
    "memory",
    "overload",
    "stalls",
    "throughput",
    "big_period",
    "dashboard",
    "events",
    "asking",
    "client",
    "vehicles",
    "export",
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
    if options.against:
        return run_gate(options.against, {name: GROUPS[name] for name in names})
    for name in names:
        show(name, importlib.import_module(f"benchmarks.{name}").run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
