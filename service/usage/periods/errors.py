"""Errors of kept periods.

PeriodError
├── PeriodNotKept   no period has this id
├── PeriodReplaced  another revision has replaced the one that is read
└── TextsNotKept    the period was priced by another plan, and its texts are not kept
"""

from collections.abc import Iterable

from service.web.parameters import quoted


class PeriodError(Exception):
    """A request that the kept periods cannot answer."""


class PeriodNotKept(PeriodError):
    """No kept period has this id; `nearest` lists some that exist."""

    def __init__(self, period: str, nearest: Iterable[str]) -> None:
        self.nearest = tuple(nearest)
        listed = ", ".join(self.nearest) or "none"
        super().__init__(f"no kept period {quoted(period)!r}; the nearest: {listed}")


class PeriodReplaced(PeriodError):
    """Another revision of the period has replaced the one that is read."""


class TextsNotKept(PeriodError):
    """The texts, which another plan would price, are not kept."""

    def __init__(self, period: str, plan: str) -> None:
        super().__init__(f"period {period} is kept as priced by {plan} only")
