"""SQL statements of the feed: events in the order of their positions.

A page has the events between two places. Its end is found first, because its `Link`
header is sent before its events.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    LargeBinary,
    Select,
    func,
    literal_column,
    select,
    text,
    tuple_,
)
from sqlalchemy.sql.elements import ColumnElement, UnaryExpression
from sqlalchemy.sql.operators import custom_op

from service.events.statements import (
    EVENT_COLUMNS,
    EventFilter,
    Moment,
    Storable,
    conditions,
)
from service.events.tables import events
from service.storage.engines import SQLITE

MAX_SCANNED: Final = 200_000
"""Events that one page looks at: with a rare filter, the next page looks further."""
MATCHED: Final = ("application", "session_id", "category", "name")
"""The columns by which consumers wait for events."""


class Place(NamedTuple):
    """The place of an event in the feed; a cursor is the place before a page.

    In SQLite, only the position counts. In PostgreSQL, events from before revision 0009
    have a negative one, made of their time of arrival, which several may share.
    """

    position: Moment
    id: Storable = ""
    application: Storable = ""


START: Final = Place(-(2**63))
"""The place before the first event."""

LAST_SQLITE: Final = "SELECT seq FROM sqlite_sequence WHERE name = 'events'"
LAST_POSTGRESQL: Final = text("SELECT pg_sequence_last_value('events_position_seq')")
"""The last position that was assigned; no row or NULL before the first one."""
WRITERS: Final = text(
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND relation = to_regclass('events') AND mode = 'RowExclusiveLock'"
)
"""The transactions of PostgreSQL that may have inserted events and have not ended."""

_PLUS: Final[custom_op[Any]] = custom_op("+", precedence=15)
_POSITION: Final = {
    "sqlite": literal_column("events.position", BigInteger),
    # The expression of the index; with parameters, the index could not be used.
    "postgresql": literal_column(
        "coalesce(events.position, events.received_at - 4611686018427387904)",
        BigInteger,
    ),
}
# As `EventList` has it, on one line: outside of strings, JSON may have any white space.
_LINE: Final = """'{{"id":' || {id} || ',"session_id":' || {session_id}
|| ',"category":' || {category} || ',"name":' || {name} || ',"data":' || {data}
|| ',"timestamp":' || {timestamp} || ',"received_at":"' || {second} || {microsecond}
|| 'Z","application":' || {application}
|| CASE WHEN sent_at IS NULL THEN ''
ELSE ',"sent_timestamp":' || coalesce({sent_timestamp}, 'null') END
|| coalesce(',"context":' || {context}, '') || '}}'"""
_TEXTS: Final = (
    *("id", "session_id", "category", "name", "timestamp", "application"),
    "sent_timestamp",
)
_JSON: Final = ("data", "context")
_LINES: Final = {
    "sqlite": _LINE.format(
        **{name: f"json_quote({name})" for name in _TEXTS},
        **{
            name: f"replace(replace({name}, char(10), ' '), char(13), ' ')"
            for name in _JSON
        },
        second="strftime('%Y-%m-%dT%H:%M:%S', received_at / 1000000, 'unixepoch')",
        microsecond="printf('.%06d', received_at % 1000000)",
    ),
    "postgresql": _LINE.format(
        **{name: f"to_json({name})::text" for name in _TEXTS},
        **{name: f"translate({name}, chr(10) || chr(13), '  ')" for name in _JSON},
        second="to_char(to_timestamp(received_at / 1000000) AT TIME ZONE 'UTC', "
        "'YYYY-MM-DD\"T\"HH24:MI:SS.')",
        microsecond="lpad((received_at % 1000000)::text, 6, '0')",
    ),
}
_JOINED: Final = {
    "sqlite": "CAST(group_concat(line, char(10)) || char(10) AS BLOB)",
    "postgresql": "convert_to(string_agg(line, chr(10)) || chr(10), 'UTF8')",
}


class Range(NamedTuple):
    """A part of the feed in one database: after a place, up to another one."""

    dialect: str
    after: Place
    until: Place


def up_to(dialect: str, after: Place, last: int) -> Range:
    """Return the range that ends with a position."""
    # No event has an empty id, so that one of the next position is beyond the end.
    return Range(dialect, after, Place(last if dialect == SQLITE else last + 1))


def between(dialect: str, after: int, last: int) -> Range:
    """Return the range after a position, up to another one."""
    beyond = Place(after if dialect == SQLITE else after + 1)
    return up_to(dialect, beyond, last)


def select_end(part: Range, event_filter: EventFilter, rows: int) -> Select[Any]:
    """Select the place of the `rows`-th event that matches, if there are so many."""
    columns = [*_place(part), events.c.session_id, events.c.category, events.c.name]
    query = _selected(part, [*columns, events.c.at]).order_by(*_order(part))
    scanned = query.limit(MAX_SCANNED).subquery("scanned")
    found = select(scanned.c.position, scanned.c.id, scanned.c.application)
    found = found.where(*conditions(scanned, event_filter))
    return found.limit(1).offset(rows - 1)


def select_limit(part: Range) -> Select[Any]:
    """Select the place of the last event that one page looks at, if there are more."""
    found = _selected(part, _place(part)).order_by(*_order(part))
    return found.limit(1).offset(MAX_SCANNED - 1)


def select_newest(part: Range) -> Select[Any]:
    """Select the place of the last event."""
    latest_first = [column.desc() for column in _order(part)]
    return _selected(part, _place(part)).order_by(*latest_first).limit(1)


def select_rows(part: Range, event_filter: EventFilter) -> Select[Any]:
    """Select events, each with its place, in the order of the feed."""
    query = _selected(part, [*EVENT_COLUMNS, _position(part)])
    return query.where(*_matching(part, event_filter)).order_by(*_order(part))


def select_lines(part: Range, event_filter: EventFilter) -> Select[Any]:
    """Select events as the bytes of NDJSON; NULL for none."""
    # The database makes one value of many events, which costs less than its rows.
    line: ColumnElement[Any] = literal_column(_LINES[part.dialect]).label("line")
    query = _selected(part, [line]).where(*_matching(part, event_filter))
    lines = query.order_by(*_order(part)).subquery("lines")
    joined = literal_column(_JOINED[part.dialect], LargeBinary)
    return select(joined).select_from(lines)


def select_size(part: Range, event_filter: EventFilter) -> Select[Any]:
    """Select the size of the data of events, in characters; NULL for none."""
    query = _selected(part, [func.sum(func.length(events.c.data))])
    return query.where(*_matching(part, event_filter))


def select_matches(
    part: Range, columns: Sequence[str], wanted: Collection[tuple[str, ...]]
) -> Select[Any]:
    """Select the different values of columns, among others the wanted ones.

    Each has the times of its first and last event. Without columns, select one row,
    whose times are NULL if there is no event.
    """
    names = [_unindexed(part, events.c[name]) for name in columns]
    times = [func.min(events.c.at), func.max(events.c.at)]
    query = _selected(part, [*names, *times])
    for place, column in enumerate(names):
        query = query.where(column.in_({each[place] for each in wanted}))
    return query.group_by(*names)


def _matching(part: Range, event_filter: EventFilter) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions of a filter on the events in a range."""
    for each in conditions(events, event_filter):
        comparison: Any = each
        yield comparison.operator(_unindexed(part, comparison.left), comparison.right)


def _unindexed(part: Range, column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a column for whose value SQLite searches no index, but the range."""
    # Without statistics, SQLite prefers an equal column to a range, and then sorts.
    return column if part.dialect != SQLITE else UnaryExpression(column, operator=_PLUS)


def _selected(part: Range, columns: Sequence[ColumnElement[Any]]) -> Select[Any]:
    """Select columns of the events in a range."""
    return select(*columns).select_from(events).where(*_within(part))


def _within(part: Range) -> Iterator[ColumnElement[bool]]:
    order = _order(part)
    if len(order) == 1:
        yield order[0] > part.after.position
        yield order[0] <= part.until.position
        return
    types = [column.type for column in order]
    place = tuple_(*order, types=types)
    yield place > tuple_(*part.after, types=types)
    yield place <= tuple_(*part.until, types=types)


def _order(part: Range) -> Sequence[ColumnElement[Any]]:
    position = _POSITION[part.dialect]
    if part.dialect == SQLITE:
        return (position,)
    return (position, events.c.id, events.c.application)


def _place(part: Range) -> list[ColumnElement[Any]]:
    return [_position(part), events.c.id, events.c.application]


def _position(part: Range) -> ColumnElement[Any]:
    return _POSITION[part.dialect].label("position")
