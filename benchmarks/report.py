"""Measurement and report of benchmarks."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

ROUNDS: Final = 7


@dataclass(frozen=True)
class Result:
    """One line of the report: what was measured, against which target."""

    name: str
    measured: str
    target: str
    is_met: bool
    note: str = ""


def maximum(name: str, ratio: float, bound: float, note: str = "") -> Result:
    """A ratio that should not pass its bound."""
    return Result(name, f"{ratio:.2f}", f"≤ {bound:g}", ratio <= bound, note)


def minimum(name: str, ratio: float, bound: float, note: str = "") -> Result:
    """A ratio that should reach its bound."""
    return Result(name, f"{ratio:.2f}", f"≥ {bound:g}", ratio >= bound, note)


def interleaved(*works: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """The median seconds of each work, taken in turns so that noise hits all alike."""
    durations: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, taken in zip(works, durations, strict=True):
            gc.collect()
            started = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in durations]


def show(title: str, results: Sequence[Result]) -> None:
    """Print the results of one benchmark as a table."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("", "measured", "target", "", "how"):
        table.add_column(column, overflow="fold")
    for each in results:
        verdict = "[green]met[/]" if each.is_met else "[red]missed[/]"
        table.add_row(each.name, each.measured, each.target, verdict, each.note)
    console = Console()
    console.print(table)
    console.print()
