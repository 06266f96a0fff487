"""SQL statements that count events.

If a range begins and ends at whole hours, counts come from the tables of counts. Their
cost is that of the counts, not of the events. Other filters count the events.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Select,
    Table,
    and_,
    case,
    cast,
    func,
    select,
    true,
    union_all,
)
from sqlalchemy.sql.elements import ColumnElement

from service.events.statements import CountedBy, EventFilter, conditions
from service.events.tables import (
    DAY,
    HOUR,
    HOURS_PER_DAY,
    OTHER_NAMES,
    TOTAL,
    category_counts,
    event_changes,
    events,
    failed_events,
    name_counts,
)
from service.instants import US_PER_S

MAX_COUNTS: Final = 1_000
"""Values in one answer, the most frequent; a filter leads to the others."""
HOUR_US: Final = 3_600 * US_PER_S
SHIFT_HOURS: Final = 20_000_000
"""More than from the year 1 to 1970: SQL divisions of negative numbers round up."""
HOUR_OF_EVENT: Final = (events.c.at + SHIFT_HOURS * HOUR_US) // HOUR_US - SHIFT_HOURS


class Range(NamedTuple):
    """A range of hours or days since 1970; `until` is exclusive."""

    since: int | None
    until: int | None

    def contains(self, column: ColumnElement[int]) -> ColumnElement[bool]:
        """Return the condition that a column is in the range."""
        bounds: list[ColumnElement[bool]] = [true()]
        if self.since is not None:
            bounds.append(column >= self.since)
        if self.until is not None:
            bounds.append(column < self.until)
        return and_(*bounds)


def select_counts(by: CountedBy, event_filter: EventFilter) -> Select[Any]:
    """Select the number of events for each value, the most frequent first.

    Hours are those since 1970; names that are not counted apart are `OTHER_NAMES`. For
    `error`, values are combinations of codes.
    """
    if by == "error":
        return _count_rows(failed_events, failed_events.c.codes, event_filter)
    hours = _whole_hours(event_filter)
    if hours and event_filter.session_id is None and event_filter.name is None:
        return _add_counts(by, event_filter, hours)
    value = HOUR_OF_EVENT if by == "hour" else events.c[by]
    return _count_rows(events, value, event_filter)


def _count_rows(
    table: Table, value: ColumnElement[Any], event_filter: EventFilter
) -> Select[Any]:
    number = func.count()
    return (
        select(value.label("value"), number)
        .where(*conditions(table, event_filter))
        .group_by("value")
        .order_by(number.desc(), "value")
        .limit(MAX_COUNTS)
    )


def _whole_hours(event_filter: EventFilter) -> Range | None:
    """Return the range in hours since 1970; None if it has a part of an hour."""
    bounds = (event_filter.since, event_filter.until)
    if any(bound is not None and bound % HOUR_US for bound in bounds):
        return None
    return Range(*(bound if bound is None else bound // HOUR_US for bound in bounds))


def _add_counts(by: CountedBy, event_filter: EventFilter, hours: Range) -> Select[Any]:
    table = name_counts if by == "name" else category_counts
    value = table.c.start if by == "hour" else table.c[by]
    parts = [(HOUR, hours)] if by == "hour" else _parts(hours)
    found = [
        select(value.label("value"), table.c.events).where(
            *_properties(table, event_filter),
            table.c.span == span,
            part.contains(table.c.start),
        )
        for span, part in parts
    ]
    changes = select(_changed_value(by).label("value"), event_changes.c.events).where(
        *_properties(event_changes, event_filter), hours.contains(event_changes.c.hour)
    )
    each = union_all(*found, changes).subquery()
    number = cast(func.sum(each.c.events), BigInteger)
    return (
        select(each.c.value, number)
        .group_by(each.c.value)
        .having(number > 0)
        .order_by(number.desc(), each.c.value)
        .limit(MAX_COUNTS)
    )


def _properties(table: Table, event_filter: EventFilter) -> list[ColumnElement[bool]]:
    return conditions(table, event_filter._replace(since=None, until=None))


def _parts(hours: Range) -> Iterator[tuple[str, Range]]:
    """Yield the total, or the days of the range and the hours before and after them."""
    since, until = hours
    if since is None and until is None:
        yield TOTAL, hours
        return
    first = None if since is None else -(-since // HOURS_PER_DAY)
    last = None if until is None else until // HOURS_PER_DAY
    if first is not None and last is not None and first >= last:
        yield HOUR, hours
        return
    yield DAY, Range(first, last)
    if first is not None:
        yield HOUR, Range(since, first * HOURS_PER_DAY)
    if last is not None:
        yield HOUR, Range(last * HOURS_PER_DAY, until)


def _changed_value(by: CountedBy) -> ColumnElement[Any]:
    """Return the value of a change: names as they are counted already."""
    if by != "name":
        return event_changes.c[by]
    return case(
        (_has_count(event_changes.c.name), event_changes.c.name),
        (_has_count(OTHER_NAMES), OTHER_NAMES),
        else_=event_changes.c.name,
    )


def _has_count(name: Any) -> ColumnElement[bool]:
    return (
        select(name_counts.c.name)
        .where(
            name_counts.c.application == event_changes.c.application,
            name_counts.c.span == TOTAL,
            name_counts.c.start == 0,
            name_counts.c.category == event_changes.c.category,
            name_counts.c.name == name,
        )
        .exists()
    )
