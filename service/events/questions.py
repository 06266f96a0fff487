"""Asking for events: by session, category, name and time, page by page.

Pages are found by where the last one ended, (timestamp, arrival), so that the
thousandth is as fast as the first, and events that arrive meanwhile move nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Raw
from sqlalchemy import Column, Row, Select, Table, func, select, tuple_
from sqlalchemy.sql.elements import ColumnElement

from service.events.errors import FailedEventNotFound, SessionNotFound
from service.events.model import (
    Count,
    EventError,
    FailedEvent,
    Session,
    StoredEvent,
)
from service.events.tables import events, failed_events
from service.instants import US_PER_S, format_instant
from service.parameters import quoted
from service.storage.database import Database

T = TypeVar("T")

MAX_SESSION_EVENTS: Final = 10_000
"""Of a session's events so many are sent at once; the rest by `GET /events`."""
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
"""Of what applications sent, in one answer: a page of large events ends early."""
EVENT_ROWS: Final = 256
"""Read at once: 8 MiB of the largest events, and a page of others in one go."""
FAILED_ROWS: Final = 16
"""The same of failed ones, which may be whole bodies."""
MAX_COUNTS: Final = 1_000
"""The most frequent; who has more kinds asks with a filter."""
HOUR_US: Final = 3_600 * US_PER_S
SHIFT_HOURS: Final = 20_000_000
"""More than from the year 1 to 1970, so that dividing never rounds a negative up."""

_NUL: Final = "\0"

_EVENT_COLUMNS: Final = [
    *(events.c.id, events.c.session_id, events.c.category, events.c.name),
    *(events.c.timestamp, events.c.received_at, events.c.application, events.c.at),
    events.c.data.label("content"),
]
_FAILED_COLUMNS: Final = [
    *(failed_events.c.id, failed_events.c.errors, failed_events.c.received_at),
    failed_events.c.application,
    failed_events.c.event.label("content"),
]
_EVENT_ORDER: Final = (events.c.at, events.c.received_at, events.c.id)
_FAILED_ORDER: Final = (failed_events.c.received_at, failed_events.c.id)
_HOUR: Final = (events.c.at + SHIFT_HOURS * HOUR_US) // HOUR_US


Storable = Annotated[str, Meta(pattern=r"^[^\x00]*$")]
"""PostgreSQL has no NUL in a text, so that nothing which is kept has one."""
Moment = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class EventCursor(NamedTuple):
    """Where a page of events ended: what its last one is ordered by."""

    at: Moment
    received_at: Moment
    id: Storable


class FailedCursor(NamedTuple):
    """Where a page of failed events ended: what its last one is ordered by."""

    received_at: Moment
    id: Storable


Cursor = EventCursor | FailedCursor
StatsBy = Literal["category", "name", "hour", "error"]


class Filter(NamedTuple):
    """What is asked for; instants in microseconds, `until` exclusive."""

    application: str
    session_id: str | None = None
    category: str | None = None
    name: str | None = None
    since: int | None = None
    until: int | None = None


class Page(NamedTuple, Generic[T]):
    """Some of what was asked for, and where the rest begins if there is more."""

    items: list[T]
    next: Cursor | None


class Rows(NamedTuple):
    """Rows that one answer may hold, and whether there are more."""

    rows: list[Row[Any]]
    is_cut: bool


class Questions:
    """Reads events and failed events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def events(
        self, wanted: Filter, limit: int, cursor: EventCursor | None = None
    ) -> Page[StoredEvent]:
        """A page of events, by timestamp and then arrival."""
        found = await self._find(events_of(wanted, limit, cursor), limit, EVENT_ROWS)
        return _page(found, EventCursor, _stored_event)

    async def failed(
        self, wanted: Filter, limit: int, cursor: FailedCursor | None = None
    ) -> Page[FailedEvent]:
        """A page of failed events, by arrival."""
        found = await self._find(failed_of(wanted, limit, cursor), limit, FAILED_ROWS)
        return _page(found, FailedCursor, _failed_event)

    async def find_failed(self, application: str, failed_id: str) -> str:
        """A failed event as it was sent; raises `FailedEventNotFound`."""
        query = select(failed_events.c.event).where(
            failed_events.c.id == failed_id,
            failed_events.c.application == application,
        )
        event = None
        if _is_storable(failed_id):
            async with self._database.reading() as connection:
                event = await connection.scalar(query)
        if event is None:
            raise FailedEventNotFound(f"no failed event {quoted(failed_id)!r}")
        return str(event)

    async def session(self, application: str, session_id: str) -> Session:
        """A session's first and last time, its number of events, and its events.

        All of one moment, though events may arrive meanwhile.
        """
        rows: list[Row[Any]] = []
        if _is_storable(session_id):
            query = session_of(application, session_id)
            rows = (await self._find(query, MAX_SESSION_EVENTS, EVENT_ROWS)).rows
        if not rows:
            raise SessionNotFound(f"no events of a session {quoted(session_id)!r}")
        return Session(
            session_id=session_id,
            application=application,
            first=rows[0].timestamp,
            last=rows[0].last,
            number_of_events=rows[0].number_of_events,
            events=[_stored_event(row) for row in rows],
        )

    async def count(self, by: StatsBy, wanted: Filter) -> list[Count]:
        """How many events there are of each kind, the most first; hours in order.

        By `error` it counts failed events, in each of their errors' codes.
        """
        if by == "error":
            groups = await self._groups(failed_events.c.codes, failed_events, wanted)
            return _most_first(_split_codes(groups))
        if by != "hour":
            return _most_first(await self._groups(events.c[by], events, wanted))
        hours = await self._groups(_HOUR, events, wanted)
        return [Count(_format_hour(value), number) for value, number in sorted(hours)]

    async def _groups(
        self, value: ColumnElement[T], table: Table, wanted: Filter
    ) -> list[tuple[T, int]]:
        number = func.count()
        query = (
            select(value.label("value"), number)
            .where(*_conditions(table, wanted))
            .group_by("value")
            .order_by(number.desc(), "value")
            .limit(MAX_COUNTS)
        )
        async with self._database.reading() as connection:
            return [(row[0], row[1]) for row in await connection.execute(query)]

    async def _find(self, query: Select[Any], limit: int, at_once: int) -> Rows:
        """As many rows as are wanted, or as one answer may hold, but never none."""
        rows: list[Row[Any]] = []
        size = 0
        async with (
            self._database.reading() as connection,
            connection.stream(query) as result,
        ):
            async for chunk in result.partitions(at_once):
                for row in chunk:
                    size += len(row.content)
                    is_full = len(rows) == limit or size > MAX_ANSWER_BYTES
                    if rows and is_full:
                        return Rows(rows, is_cut=True)
                    rows.append(row)
        return Rows(rows, is_cut=False)


def events_of(
    wanted: Filter, limit: int, cursor: EventCursor | None = None
) -> Select[Any]:
    """The query for a page of events, and one more where there are more."""
    query = select(*_EVENT_COLUMNS).where(*_conditions(events, wanted))
    return _next(query, _EVENT_ORDER, cursor).limit(limit + 1)


def failed_of(
    wanted: Filter, limit: int, cursor: FailedCursor | None = None
) -> Select[Any]:
    """The query for a page of failed events, and one more where there are more."""
    query = select(*_FAILED_COLUMNS).where(*_conditions(failed_events, wanted))
    return _next(query, _FAILED_ORDER, cursor).limit(limit + 1)


def session_of(application: str, session_id: str) -> Select[Any]:
    """The query for a session: one statement, so of one moment on any database."""
    wanted = _conditions(events, Filter(application, session_id=session_id))
    latest_first = [column.desc() for column in _EVENT_ORDER]
    last = select(events.c.timestamp).where(*wanted).order_by(*latest_first).limit(1)
    number = select(func.count()).select_from(events).where(*wanted)
    query = select(
        *_EVENT_COLUMNS,
        last.scalar_subquery().label("last"),
        number.scalar_subquery().label("number_of_events"),
    )
    return _next(query.where(*wanted), _EVENT_ORDER).limit(MAX_SESSION_EVENTS)


def _next(
    query: Select[Any], order: Sequence[Column[Any]], cursor: Cursor | None = None
) -> Select[Any]:
    """The query in its order, from after the cursor on."""
    if cursor is not None:
        types = [column.type for column in order]
        query = query.where(tuple_(*order) > tuple_(*cursor, types=types))
    return query.order_by(*order)


def _page(
    found: Rows, cursor: type[Cursor], read: Callable[[Row[Any]], T]
) -> "Page[T]":
    items = [read(row) for row in found.rows]
    if not found.is_cut:
        return Page(items, None)
    last = found.rows[-1]._mapping
    return Page(items, cursor(**{name: last[name] for name in cursor._fields}))


def _is_storable(text: str) -> bool:
    """Whether the database could hold it: where it could not, it is not in there."""
    return _NUL not in text


def _conditions(table: Table, wanted: Filter) -> list[ColumnElement[bool]]:
    """What a filter says, of events or of failed ones; times are the events' own."""
    conditions = [table.c.application == wanted.application]
    conditions += [
        table.c[name] == value
        for name in ("session_id", "category", "name")
        if (value := getattr(wanted, name)) is not None
    ]
    if wanted.since is not None:
        conditions.append(table.c.at >= wanted.since)
    if wanted.until is not None:
        conditions.append(table.c.at < wanted.until)
    return conditions


def _stored_event(row: Row[Any]) -> StoredEvent:
    return StoredEvent(
        id=row.id,
        session_id=row.session_id,
        category=row.category,
        name=row.name,
        data=Raw(row.content.encode()),
        timestamp=row.timestamp,
        received_at=format_instant(row.received_at),
        application=row.application,
    )


def _failed_event(row: Row[Any]) -> FailedEvent:
    return FailedEvent(
        id=row.id,
        event=Raw(row.content.encode()),
        errors=msgspec.json.decode(row.errors, type=list[EventError]),
        received_at=format_instant(row.received_at),
        application=row.application,
    )


def _split_codes(groups: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Counts of single codes out of counts of their combinations."""
    counter: Counter[str] = Counter()
    for codes, number in groups:
        counter.update(dict.fromkeys(codes.split(","), number))
    return list(counter.items())


def _most_first(groups: Iterable[tuple[str, int]]) -> list[Count]:
    ordered = sorted(groups, key=lambda group: (-group[1], group[0]))
    return [Count(value, number) for value, number in ordered]


def _format_hour(shifted: int) -> str:
    """`2024-04-29T02:00Z`; numpy also writes the hours before the year 1."""
    return f"{np.datetime64(shifted - SHIFT_HOURS, 'h')}:00Z"
