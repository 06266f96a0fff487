"""Run of the gate: sets the revision up, compares group by group, prints a table."""

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.gate.comparison import Compared, Group, Unmeasured, compare
from benchmarks.gate.trees import NoTree, tree_of
from benchmarks.load.processes import OWN_TREE, Tree

ROUNDS: Final = 6
MAX_S: Final = 330.0
"""Set-up of the revision, rounds that have begun, and second looks come on top."""
TABLE_CHARS: Final = 120
"""In a file; a terminal has its own width."""
COLORS: Final = {"better": "green", "worse": "red", "same": "default"}


class Outcome(NamedTuple):
    """All that was compared, and why some groups were not."""

    compared: Sequence[Compared]
    unmeasured: Mapping[str, Unmeasured]

    @property
    def status(self) -> int:
        """Exit status: 1 is worse, 2 a figure that this checkout does not give."""
        if any(each.verdict == "worse" for each in self.compared):
            return 1
        return 2 if any(each.is_own for each in self.unmeasured.values()) else 0


def run(revision: str, groups: Mapping[str, Group]) -> int:
    """Compare this checkout with a revision; returns the exit status."""
    try:
        other = tree_of(revision, OWN_TREE)
    except NoTree as error:
        print(f"bench: {revision}: {error}", file=sys.stderr)
        return 2
    outcome = compare_all(groups, OWN_TREE, other)
    show(revision, outcome)
    return outcome.status


def compare_all(groups: Mapping[str, Group], own: Tree, other: Tree) -> Outcome:
    """Compare the groups one after another, each within its share of the time."""
    compared: list[Compared] = []
    unmeasured: dict[str, Unmeasured] = {}
    ends_at = time.monotonic() + MAX_S
    for number, (name, group) in enumerate(groups.items()):
        print(f"measuring {name} …", file=sys.stderr)
        share_s = (ends_at - time.monotonic()) / (len(groups) - number)
        measure = partial(compare, group, own, other, rounds=ROUNDS, max_s=share_s)
        try:
            compared += _confirmed(measure(), measure)
        except Unmeasured as error:
            unmeasured[name] = error
    return Outcome(compared, unmeasured)


def _confirmed(
    first: Sequence[Compared], measure: Callable[[], Sequence[Compared]]
) -> Sequence[Compared]:
    """Measure once more if a figure looks worse; the second result of it counts.

    A few pairs may agree by accident: of equal code on a busy machine, one figure in
    twenty looks worse, and one in four hundred does so twice.
    """
    if all(each.verdict != "worse" for each in first):
        return first
    print("one looks worse: measuring again …", file=sys.stderr)
    return [
        again if once.verdict == "worse" else once
        for once, again in zip(first, measure(), strict=True)
    ]


def show(revision: str, outcome: Outcome) -> None:
    """Print a line for each figure, and what follows from them."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("")
    for column in ("this checkout", revision, "ratio", "noise", "pairs"):
        table.add_column(column, justify="right", overflow="fold")
    table.add_column("")
    for each in outcome.compared:
        table.add_row(*_row(each))
    console = Console(width=None if sys.stdout.isatty() else TABLE_CHARS)
    console.print(table)
    for name, error in outcome.unmeasured.items():
        side = "this checkout" if error.is_own else revision
        console.print(f"{name}: not measured in {side}: {error}", markup=False)
    worse = [each for each in outcome.compared if each.verdict == "worse"]
    names = "; ".join(each.figure.name for each in worse) or "no figure"
    console.print(f"worse beyond the noise: {names}", markup=False)


def _row(compared: Compared) -> Sequence[str]:
    figure, pairs = compared.figure, compared.pairs
    own, other = map(statistics.median, zip(*pairs, strict=True))
    color = COLORS[compared.verdict]
    return (
        figure.name,
        figure.unit,
        f"{own:,.0f}",
        f"{other:,.0f}",
        f"{compared.ratio:.3f}",
        f"{compared.noise:.1%}",
        str(len(pairs)),
        f"[{color}]{compared.verdict}[/]",
    )
