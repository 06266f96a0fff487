"""Groups of failed events: those that have an error and a type in common."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Row

from service.events.failed_statements import MAX_GROUPS
from service.events.model import FailedGroup, FailedGroups
from service.instants import format_instant


class GroupKey(NamedTuple):
    """Error and type that all events of a group share."""

    code: str
    category: str | None
    name: str | None

    @property
    def order(self) -> tuple[str, str, str]:
        """The order of groups of equal size."""
        return self.code, self.category or "", self.name or ""


class GroupSize(NamedTuple):
    """The number of events of a group, and the bounds of their arrival."""

    events: int
    first: int
    last: int

    def joined(self, other: "GroupSize") -> "GroupSize":
        """Return the size of both groups together."""
        return GroupSize(
            self.events + other.events,
            min(self.first, other.first),
            max(self.last, other.last),
        )


def merge_groups(rows: Sequence[Row[Any]], limit: int) -> FailedGroups:
    """Return groups of single codes, made of groups of combinations of codes.

    An event with several errors counts once for each of them.
    """
    sizes: dict[GroupKey, GroupSize] = {}
    for row in rows:
        size = GroupSize(row.number, row.first, row.last)
        for key in _keys(row):
            known = sizes.get(key)
            sizes[key] = known.joined(size) if known else size
    ordered = sorted(sizes.items(), key=lambda each: (-each[1].events, each[0].order))
    listed = [_group(*each) for each in ordered[:limit]]
    return FailedGroups(listed, more=len(ordered) > limit or len(rows) == MAX_GROUPS)


def _keys(row: Row[Any]) -> Iterator[GroupKey]:
    for code in row.codes.split(","):
        yield GroupKey(code, row.category, row.name)


def _group(key: GroupKey, size: GroupSize) -> FailedGroup:
    return FailedGroup(
        code=key.code,
        category=key.category,
        name=key.name,
        events=size.events,
        first=format_instant(size.first),
        last=format_instant(size.last),
    )
