"""Thresholds that a figure has reached. No I/O, and integers only."""

from collections.abc import Iterable, Iterator, Set
from typing import NamedTuple

from service.usage.budgets.model import Budget, Kind


class Threshold(NamedTuple):
    """A threshold of a budget, which fires once per period."""

    budget_id: str
    kind: Kind
    percent: int


class Reached(NamedTuple):
    """A threshold, its budget, and the figure that has reached it, in hundredths."""

    threshold: Threshold
    budget: Budget
    hundredths: int


def find_reached(
    budgets: Iterable[Budget], kind: Kind, hundredths: int, fired: Set[Threshold]
) -> Iterator[Reached]:
    """Yield what a figure in hundredths has reached and has not fired, lowest first."""
    for budget in budgets:
        is_used = kind is Kind.USED
        percents = budget.thresholds if is_used else budget.forecast_thresholds
        for percent in sorted(percents):
            threshold = Threshold(budget.id, kind, percent)
            is_reached = 100 * hundredths >= percent * budget.hundredths
            if is_reached and threshold not in fired:
                yield Reached(threshold, budget, hundredths)
