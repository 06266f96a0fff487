"""SQL statements that count events.

Counts of whole hours come from the tables of counts. Their cost is that of the counts,
not of the events. Events are counted one by one for the parts of hours at the ends of a
range, and for a filter by session. So are those of a name in the categories that do not
count it apart.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    CompoundSelect,
    FromClause,
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
    name_counts,
)
from service.instants import US_PER_S

MAX_HOURS: Final = 400 * HOURS_PER_DAY
"""Length of the longest range that is counted by hour."""
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


NOTHING: Final = Range(0, 0)


def select_counts(by: CountedBy, event_filter: EventFilter, limit: int) -> Select[Any]:
    """Select values, their numbers of events, and the total of all values.

    Hours are those since 1970, in ascending order; other values the most frequent
    first. Names that are not counted apart are `OTHER_NAMES`, which is the last one.
    """
    each = _select_parts(by, event_filter).subquery()
    number = cast(func.sum(each.c.events), BigInteger)
    groups = (
        select(each.c.value, number.label("number"))
        .group_by(each.c.value)
        .having(number > 0)
        .subquery()
    )
    value, events_of = groups.c.value, groups.c.number
    order: list[ColumnElement[Any]] = [value]
    if by != "hour":
        order = [value == OTHER_NAMES, events_of.desc(), value]
    total = cast(func.sum(events_of).over(), BigInteger)
    return select(value, events_of, total.label("total")).order_by(*order).limit(limit)


def _select_parts(
    by: CountedBy, event_filter: EventFilter
) -> Select[Any] | CompoundSelect[Any]:
    """Select values and their numbers, in rows of any order that are added up."""
    is_of_all = event_filter.name is not None and event_filter.application is None
    if event_filter.session_id is not None or is_of_all:
        return _count_rows(by, event_filter)
    hours, ends = _whole_hours(event_filter)
    counted = [*_add_counts(by, event_filter, hours)]
    if event_filter.name is not None:
        since, until = (each if each is None else each * HOUR_US for each in hours)
        whole = event_filter._replace(since=since, until=until)
        is_hidden = events.c.category.in_(_hidden_categories(event_filter))
        counted.append(_count_rows(by, whole).where(is_hidden))
    return union_all(*counted, *(_count_end(by, end) for end in ends))


def _count_rows(by: CountedBy, event_filter: EventFilter) -> Select[Any]:
    value = HOUR_OF_EVENT if by == "hour" else events.c[by]
    return (
        select(value.label("value"), func.count().label("events"))
        .where(*conditions(events, event_filter))
        .group_by("value")
    )


def _hidden_categories(event_filter: EventFilter) -> Select[Any]:
    """Select the categories in which the name of a filter may not be counted apart."""
    others, own = name_counts.alias(), name_counts.alias()
    total = event_filter._replace(since=None, until=None)
    is_apart = (
        select(own.c.name)
        .where(
            *(own.c.application == others.c.application, own.c.span == TOTAL),
            *(own.c.start == 0, own.c.category == others.c.category),
            own.c.name == event_filter.name,
        )
        .correlate(others)
        .exists()
    )
    return select(others.c.category).where(
        *conditions(others, total._replace(name=OTHER_NAMES)),
        *(others.c.span == TOTAL, others.c.start == 0, ~is_apart),
    )


def _count_end(by: CountedBy, event_filter: EventFilter) -> Select[Any]:
    """Count the events of a part of an hour, names as they are counted already."""
    if by != "name" or event_filter.name is not None:
        return _count_rows(by, event_filter)
    columns = (events.c.application, events.c.category, events.c.name)
    names = (
        select(*columns, func.count().label("events"))
        .where(*conditions(events, event_filter))
        .group_by(*columns)
        .subquery()
    )
    return select(_counted_value(by, names).label("value"), names.c.events)


def _whole_hours(event_filter: EventFilter) -> tuple[Range, list[EventFilter]]:
    """Return the whole hours of a range, and filters for the rest at its ends."""
    since, until = event_filter.since, event_filter.until
    if since is not None and until is not None and since >= until:
        return NOTHING, []
    first = None if since is None else -(-since // HOUR_US)
    last = None if until is None else until // HOUR_US
    if first is not None and last is not None and first > last:
        return NOTHING, [event_filter]
    ends = []
    if first is not None and since != first * HOUR_US:
        ends.append(event_filter._replace(until=first * HOUR_US))
    if last is not None and until != last * HOUR_US:
        ends.append(event_filter._replace(since=last * HOUR_US))
    return Range(first, last), ends


def _add_counts(
    by: CountedBy, event_filter: EventFilter, hours: Range
) -> Iterator[Select[Any]]:
    has_names = by == "name" or event_filter.name is not None
    table = name_counts if has_names else category_counts
    value = table.c.start if by == "hour" else table.c[by]
    for span, part in [(HOUR, hours)] if by == "hour" else _parts(hours):
        yield select(value.label("value"), table.c.events).where(
            *_properties(table, event_filter),
            table.c.span == span,
            part.contains(table.c.start),
        )
    changed = _counted_value(by, event_changes).label("value")
    changes = select(changed, event_changes.c.events).where(
        *_properties(event_changes, event_filter), hours.contains(event_changes.c.hour)
    )
    if event_filter.name is not None:
        hidden = _hidden_categories(event_filter)
        changes = changes.where(event_changes.c.category.not_in(hidden))
    yield changes


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


def _counted_value(by: CountedBy, rows: FromClause) -> ColumnElement[Any]:
    """Return the value of a row: names as they are counted already."""
    if by != "name":
        return rows.c[by]
    return case(
        (_has_count(rows, rows.c.name), rows.c.name),
        (_has_count(rows, OTHER_NAMES), OTHER_NAMES),
        else_=rows.c.name,
    )


def _has_count(rows: FromClause, name: Any) -> ColumnElement[bool]:
    return (
        select(name_counts.c.name)
        .where(
            name_counts.c.application == rows.c.application,
            name_counts.c.span == TOTAL,
            name_counts.c.start == 0,
            name_counts.c.category == rows.c.category,
            name_counts.c.name == name,
        )
        .correlate(rows)
        .exists()
    )
