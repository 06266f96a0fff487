"""Parameters of usage requests: the order of messages, and the time zone of days."""

from typing import Final
from zoneinfo import ZoneInfo

from service.parameters import InvalidParameter
from service.usage.snapshots.selection import SORT_COLUMNS

DIRECTIONS: Final = ("asc", "desc")


def parse_sort(value: str | None) -> tuple[tuple[str, bool], ...]:
    """Read `column:direction;…` into pairs of a column and whether it is descending.

    Of a column named twice the first counts: the second has no tie left to break,
    and would only cost another sort.
    """
    columns: dict[str, bool] = {}
    for pair in (value or "").split(";"):
        if pair:
            columns.setdefault(*_parse_sort_pair(pair))
    return tuple(columns.items())


def parse_zone(name: str | None) -> str | None:
    """Check the name of an IANA time zone; `InvalidParameter` where there is none."""
    if name is None:
        return None
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        expected = "expected an IANA time zone such as Europe/London"
        raise InvalidParameter("tz", expected) from None
    return name


def _parse_sort_pair(pair: str) -> tuple[str, bool]:
    column, _, direction = pair.partition(":")
    if column not in SORT_COLUMNS or (direction or "asc") not in DIRECTIONS:
        columns, directions = ", ".join(SORT_COLUMNS), " or ".join(DIRECTIONS)
        expected = (
            f"expected column:direction;… with columns {columns} and {directions}"
        )
        raise InvalidParameter("sort", expected)
    return column, direction == "desc"
