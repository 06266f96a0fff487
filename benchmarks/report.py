"""Measurement and report of benchmarks."""

import gc
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

ROUNDS: Final = 7
MAX_REASON_CHARS: Final = 200


@dataclass(frozen=True)
class Result:
    """One line of the report: what was measured, against which target."""

    name: str
    measured: str
    target: str
    is_met: bool | None
    """None if it was not measured."""
    note: str = ""


def maximum(name: str, ratio: float, bound: float, note: str = "") -> Result:
    """A ratio that should not pass its bound."""
    return Result(name, f"{ratio:.2f}", f"≤ {bound:g}", ratio <= bound, note)


def minimum(name: str, ratio: float, bound: float, note: str = "") -> Result:
    """A ratio that should reach its bound."""
    return Result(name, f"{ratio:.2f}", f"≥ {bound:g}", ratio >= bound, note)


def unmeasured(name: str, reason: object) -> Result:
    """A figure that could not be measured, and why."""
    first_line = str(reason).partition("\n")[0]
    return Result(name, "–", "", None, first_line[:MAX_REASON_CHARS])


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


def summarize(results: Sequence[Result]) -> str:
    """Return one line: how many figures have met their targets, and how many not."""
    verdicts = Counter(each.is_met for each in results)
    return (
        f"{verdicts[True]} met, {verdicts[False]} missed, {verdicts[None]} not measured"
    )


def show(title: str, results: Sequence[Result]) -> None:
    """Print the results of one benchmark as a table."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("", "measured", "target", "", "how"):
        table.add_column(column, overflow="fold")
    for each in results:
        row = each.name, each.measured, each.target, _verdict(each), each.note
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print()


def _verdict(result: Result) -> str:
    if result.is_met is None:
        return "[yellow]not measured[/]"
    return "[green]met[/]" if result.is_met else "[red]missed[/]"
