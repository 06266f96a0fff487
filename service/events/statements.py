"""SQL statements that read events: filters, and pages that begin after a cursor.

A page begins after the (timestamp, arrival) of the last event of the page before. So
every page takes the same time, and events that arrive between pages move nothing.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

from msgspec import Meta
from sqlalchemy import (
    Column,
    FromClause,
    Select,
    Table,
    func,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.sql.elements import ColumnElement

from service.events.tables import events

MAX_COMPOUND: Final = 400
"""Selects in one statement; SQLite permits 500."""
MAX_SESSION_EVENTS: Final = 10_000
"""Events of a session in one answer; `GET /events` lists the others."""

EVENT_COLUMNS: Final = [
    *(events.c.id, events.c.session_id, events.c.category, events.c.name),
    *(events.c.timestamp, events.c.received_at, events.c.application, events.c.at),
    *(events.c.sent_at, events.c.sent_timestamp, events.c.context),
    events.c.data.label("content"),
]
_EVENT_ORDER: Final = (events.c.at, events.c.received_at, events.c.id)

Storable = Annotated[str, Meta(pattern=r"^[^\x00]*$")]
"""Text without NUL: PostgreSQL cannot store NUL in text."""
Moment = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class EventCursor(NamedTuple):
    """The end of a page of events: the order columns of its last event."""

    at: Moment
    received_at: Moment
    id: Storable


class FailedCursor(NamedTuple):
    """The end of a page of failed events: the order columns of its last one."""

    received_at: Moment
    id: Storable


ListCursor = EventCursor | FailedCursor
C = TypeVar("C", EventCursor, FailedCursor)
CountedBy = Literal["category", "name", "hour"]


class EventFilter(NamedTuple):
    """The conditions of a query; instants in microseconds, `until` exclusive."""

    application: str | None
    """None for all applications."""
    session_id: str | None = None
    category: str | None = None
    name: str | None = None
    since: int | None = None
    until: int | None = None


def select_events(
    event_filter: EventFilter, limit: int, cursor: EventCursor | None = None
) -> Select[Any]:
    """Select a page of events, and one row more if another page follows."""
    since, cursor = later_bound(event_filter.since, cursor)
    event_filter = event_filter._replace(since=since)
    query = select(*EVENT_COLUMNS).where(*conditions(events, event_filter))
    # The additional row shows that another page follows.
    return after(cursor, query, _EVENT_ORDER).limit(limit + 1)


def select_events_of_all(
    event_filter: EventFilter,
    applications: Sequence[str],
    limit: int,
    cursor: EventCursor | None = None,
) -> Select[Any]:
    """Select a page of all applications: of each one a page, and the first of these."""
    if not 0 < len(applications) <= MAX_COMPOUND:
        return select_events(event_filter, limit, cursor)
    pages = [
        select(
            select_events(
                event_filter._replace(application=each), limit, cursor
            ).subquery()
        )
        for each in applications
    ]
    found = union_all(*pages).subquery()
    order = [found.c[column.name] for column in _EVENT_ORDER]
    return select(found).order_by(*order).limit(limit + 1)


def select_applications(table: Table) -> Select[Any]:
    """Select the names of the applications in a table, with one step for each name."""
    first = select(func.min(table.c.application).label("name")).cte(recursive=True)
    following = select(func.min(table.c.application)).where(
        table.c.application > first.c.name
    )
    every = first.union_all(
        select(following.scalar_subquery()).where(first.c.name.is_not(None))
    )
    return select(every.c.name).where(every.c.name.is_not(None))


def select_session(application: str, session_id: str) -> Select[Any]:
    """Select the events of a session, each with the session's last time and number.

    One statement sees one state of the database, though events arrive meanwhile.
    """
    in_session = conditions(events, EventFilter(application, session_id=session_id))
    latest_first = [column.desc() for column in _EVENT_ORDER]
    last = select(events.c.timestamp).where(*in_session).order_by(*latest_first)
    number = select(func.count()).select_from(events).where(*in_session)
    query = select(
        *EVENT_COLUMNS,
        last.limit(1).scalar_subquery().label("last"),
        number.scalar_subquery().label("number_of_events"),
    )
    return after(None, query.where(*in_session), _EVENT_ORDER).limit(MAX_SESSION_EVENTS)


def later_bound(since: int | None, cursor: C | None) -> tuple[int | None, C | None]:
    """Return a time and a cursor, of which only the later one is not None.

    SQLite searches an index by one lower bound. By `since` it would step over the pages
    before the cursor.
    """
    if since is None or cursor is None:
        return since, cursor
    return (None, cursor) if cursor[0] >= since else (since, None)


def after(
    cursor: ListCursor | None, query: Select[Any], order: Sequence[Column[Any]]
) -> Select[Any]:
    """Return the query in this order, from after the cursor on."""
    if cursor is not None:
        types = [column.type for column in order]
        query = query.where(tuple_(*order) > tuple_(*cursor, types=types))
    return query.order_by(*order)


def conditions(
    table: FromClause, event_filter: EventFilter
) -> list[ColumnElement[bool]]:
    """Return the conditions on events; times are their timestamps."""
    found = [
        table.c[name] == value
        for name in ("application", "session_id", "category", "name")
        if (value := getattr(event_filter, name)) is not None
    ]
    if event_filter.since is not None:
        found.append(table.c.at >= event_filter.since)
    if event_filter.until is not None:
        found.append(table.c.at < event_filter.until)
    return found
