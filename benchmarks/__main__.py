"""`make bench`: run all benchmarks, or those named as arguments."""

import importlib
import sys
from typing import Final

from benchmarks.report import show

NAMES: Final = (
    "rating",
    "codec",
    "refresh",
    "memory",
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


def main(names: list[str]) -> None:
    """Run benchmarks by name, and print what each measured."""
    for name in names or NAMES:
        show(name, importlib.import_module(f"benchmarks.{name}").run())


if __name__ == "__main__":
    main(sys.argv[1:])
