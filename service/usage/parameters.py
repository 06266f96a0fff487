"""Parameters of usage requests: the plan, the order of messages, the time zone."""

from functools import cache
from importlib.resources import files
from typing import Final

from service.usage.errors import UnknownPlan
from service.usage.pricing.plans import PLANS, Plan
from service.usage.snapshots.selection import SORT_COLUMNS
from service.web.parameters import InvalidParameter

DIRECTIONS: Final = ("asc", "desc")


def find_plan(name: str) -> Plan:
    """Return the plan of this name, with or without its version.

    Raises `UnknownPlan`.
    """
    for plan in PLANS.values():
        if name in {plan.name, plan.id}:
            return plan
    raise UnknownPlan(name, PLANS)


def parse_sort(value: str | None) -> tuple[tuple[str, bool], ...]:
    """Parse `column:direction;…` into pairs of a column and whether it is descending.

    Raises `InvalidParameter`.
    """
    # A second entry of the same column could break no tie, so the first one counts.
    columns: dict[str, bool] = {}
    for pair in (value or "").split(";"):
        if pair:
            columns.setdefault(*_parse_sort_pair(pair))
    return tuple(columns.items())


def parse_zone(name: str | None) -> str | None:
    """Return the name of an IANA time zone; `InvalidParameter` for any other text."""
    if name is not None and name not in _zones():
        expected = "expected an IANA time zone such as Europe/London"
        raise InvalidParameter("tz", expected)
    return name


@cache
def _zones() -> frozenset[str]:
    """Return the names of the time zones, of the package with their data."""
    # The machine may have more files that are no zones of IANA, such as localtime.
    return frozenset((files("tzdata") / "zones").read_text("ascii").split())


def _parse_sort_pair(pair: str) -> tuple[str, bool]:
    column, _, direction = pair.partition(":")
    if column not in SORT_COLUMNS or (direction or "asc") not in DIRECTIONS:
        columns, directions = ", ".join(SORT_COLUMNS), " or ".join(DIRECTIONS)
        expected = (
            f"expected column:direction;… with columns {columns} and {directions}"
        )
        raise InvalidParameter("sort", expected)
    return column, direction == "desc"
