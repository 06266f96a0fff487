"""Queries on stored events: pages, sessions, counts."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET, Raw
from sqlalchemy import Row, Select, Table

from service.events.count_statements import select_counts
from service.events.errors import FailedEventNotFound, SessionNotFound
from service.events.model import (
    EventCount,
    EventError,
    FailedEvent,
    Origin,
    Session,
    StoredEvent,
)
from service.events.splitting import read_error
from service.events.statements import (
    MAX_SESSION_EVENTS,
    CountedBy,
    EventCursor,
    EventFilter,
    FailedCursor,
    ListCursor,
    select_applications,
    select_events,
    select_events_of_all,
    select_failed_event,
    select_failed_events,
    select_session,
)
from service.events.tables import OTHER_NAMES, events, failed_events
from service.instants import format_instant
from service.storage.database import Database, retry_lost
from service.storage.uses import Use
from service.web.parameters import quoted

T = TypeVar("T")

MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
"""Application data in one answer: a page of large events ends early."""
EVENT_ROWS: Final = 128
"""Rows fetched and converted at once: 4 MiB of the largest events, and 3 ms of work."""
FAILED_ROWS: Final = 16
"""The same for failed events, which may be whole bodies."""

OTHER: Final = "(other)"
"""Value of the names that are not counted apart."""

_NUL: Final = "\0"


class EventPage(NamedTuple, Generic[T]):
    """One page of a list, and the cursor of the next page if there is one."""

    items: list[T]
    next: ListCursor | None


class BoundedRows(Generic[T]):
    """Converted rows up to the bounds of one answer; `is_cut` if there are more."""

    def __init__(self, limit: int, convert: Callable[[Row[Any]], T]) -> None:
        self.items: list[T] = []
        self.first: Row[Any] | None = None
        self.last: Row[Any] | None = None
        self.is_cut = False
        self._limit = limit
        self._convert = convert
        self._size = 0

    def add(self, rows: Iterable[Row[Any]]) -> None:
        """Add rows up to `limit` and `MAX_ANSWER_BYTES`, but at least one row."""
        for row in rows:
            self._size += len(row.content)
            is_full = len(self.items) == self._limit or self._size > MAX_ANSWER_BYTES
            if self.items and is_full:
                self.is_cut = True
                return
            self.first, self.last = self.first or row, row
            self.items.append(self._convert(row))


class EventQueries:
    """Reads events and failed events; all methods raise `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def events(
        self,
        event_filter: EventFilter,
        limit: int,
        cursor: EventCursor | None = None,
    ) -> EventPage[StoredEvent]:
        """Return a page of events, by timestamp and then arrival."""
        if event_filter.application is None:
            names = await self._names(events)
            query = select_events_of_all(event_filter, names, limit, cursor)
        else:
            query = select_events(event_filter, limit, cursor)
        found = await self._fetch(query, limit, stored_event, EVENT_ROWS)
        return _page(found, EventCursor)

    async def failed(
        self,
        event_filter: EventFilter,
        limit: int,
        cursor: FailedCursor | None = None,
    ) -> EventPage[FailedEvent]:
        """Return a page of failed events, by arrival."""
        query = select_failed_events(event_filter, limit, cursor)
        found = await self._fetch(query, limit, _failed_event, FAILED_ROWS)
        return _page(found, FailedCursor)

    async def applications(self) -> list[str]:
        """Return the names of the applications that have events or failed ones."""
        names = {*await self._names(events), *await self._names(failed_events)}
        return sorted(names)

    async def _names(self, table: Table) -> list[str]:
        rows = await retry_lost(partial(self._rows, select_applications(table)))
        return [str(row.name) for row in rows]

    async def _rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        async with self._database.reading(Use.EVENT_QUERIES) as connection:
            rows: Sequence[Row[Any]] = (await connection.execute(query)).all()
            return rows

    async def find_failed(self, application: str, failed_id: str) -> tuple[str, Origin]:
        """Return a failed event as it was sent, and how it arrived.

        Raises `FailedEventNotFound`.
        """
        row = None
        if _is_storable(failed_id):
            query = select_failed_event(application, failed_id)
            row = await retry_lost(partial(self._first, query))
        if row is None:
            raise FailedEventNotFound(f"no failed event {quoted(failed_id)!r}")
        return row.event, Origin(row.format, row.skew or 0)

    async def session(self, application: str, session_id: str) -> Session:
        """Return a session: first and last time, number of events, and its events.

        Raises `SessionNotFound`.
        """
        unknown = SessionNotFound(f"no events of a session {quoted(session_id)!r}")
        if not _is_storable(session_id):
            raise unknown
        query = select_session(application, session_id)
        limit = MAX_SESSION_EVENTS
        found = await self._fetch(query, limit, stored_event, EVENT_ROWS)
        if found.first is None:
            raise unknown
        return Session(
            session_id=session_id,
            application=application,
            first=found.first.timestamp,
            last=found.first.last,
            number_of_events=found.first.number_of_events,
            events=found.items,
        )

    async def count(self, by: CountedBy, event_filter: EventFilter) -> list[EventCount]:
        """Count events by value: the most frequent first, hours in ascending order.

        `error` counts failed events, once for each code among their errors. Names that
        are not counted apart are together `OTHER`.
        """
        groups = await self._groups(select_counts(by, event_filter))
        if by == "hour":
            return [
                EventCount(_format_hour(hour), number)
                for hour, number in sorted(groups)
            ]
        return _by_frequency(_split_codes(groups) if by == "error" else _named(groups))

    async def _groups(self, query: Select[Any]) -> list[tuple[Any, int]]:
        return await retry_lost(partial(self._read_groups, query))

    async def _read_groups(self, query: Select[Any]) -> list[tuple[Any, int]]:
        async with self._database.reading(Use.EVENT_QUERIES) as connection:
            return [(row[0], row[1]) for row in await connection.execute(query)]

    async def _first(self, query: Select[Any]) -> Row[Any] | None:
        # Replays have no lane, so they must not take the connections of the queries.
        async with self._database.reading(Use.OTHER) as connection:
            found: Row[Any] | None = (await connection.execute(query)).first()
            return found

    async def _fetch(
        self,
        query: Select[Any],
        limit: int,
        convert: Callable[[Row[Any]], T],
        at_once: int,
    ) -> BoundedRows[T]:
        return await retry_lost(partial(self._stream, query, limit, convert, at_once))

    async def _stream(
        self,
        query: Select[Any],
        limit: int,
        convert: Callable[[Row[Any]], T],
        at_once: int,
    ) -> BoundedRows[T]:
        found = BoundedRows(limit, convert)
        async with (
            self._database.reading(Use.EVENT_QUERIES) as connection,
            connection.stream(query) as result,
        ):
            async for rows in result.partitions(at_once):
                found.add(rows)
                if found.is_cut:
                    break
        return found


def _page(found: BoundedRows[T], cursor: type[ListCursor]) -> "EventPage[T]":
    if found.last is None or not found.is_cut:
        return EventPage(found.items, None)
    last = found.last._mapping
    following = cursor(**{name: last[name] for name in cursor._fields})
    return EventPage(found.items, following)


def _is_storable(text: str) -> bool:
    # PostgreSQL refuses a query with a NUL; no stored text has one.
    return _NUL not in text


def stored_event(row: Row[Any]) -> StoredEvent:
    return StoredEvent(
        id=row.id,
        session_id=row.session_id,
        category=row.category,
        name=row.name,
        data=Raw(row.content.encode()),
        timestamp=row.timestamp,
        received_at=format_instant(row.received_at),
        application=row.application,
        sent_timestamp=UNSET if row.sent_at is None else row.sent_timestamp,
        context=UNSET if row.context is None else Raw(row.context.encode()),
    )


def _failed_event(row: Row[Any]) -> FailedEvent:
    return FailedEvent(
        id=row.id,
        event=_as_json(row.content),
        errors=msgspec.json.decode(row.errors, type=list[EventError]),
        received_at=format_instant(row.received_at),
        application=row.application,
        corrected_timestamp=format_instant(row.at) if row.skew and row.at else UNSET,
        format=row.format or UNSET,
    )


def _as_json(event: str) -> Raw:
    """Return the text of a failed event, as a JSON string if no reader accepts it."""
    text = event.encode()
    return Raw(msgspec.json.encode(event) if read_error(text) else text)


def _split_codes(groups: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Turn counts of combinations of codes into counts of single codes."""
    counter: Counter[str] = Counter()
    for codes, number in groups:
        # An event with several errors counts once for each code.
        counter.update(dict.fromkeys(codes.split(","), number))
    return list(counter.items())


def _named(groups: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Name the count of the names that are not counted apart."""
    counter: Counter[str] = Counter()
    for value, number in groups:
        counter[OTHER if value == OTHER_NAMES else value] += number
    return list(counter.items())


def _by_frequency(groups: Iterable[tuple[str, int]]) -> list[EventCount]:
    ordered = sorted(groups, key=lambda group: (-group[1], group[0]))
    return [EventCount(value, number) for value, number in ordered]


def _format_hour(hour: int) -> str:
    """Return `2024-04-29T02:00Z`; unlike datetime, numpy has hours before year 1."""
    return f"{np.datetime64(hour, 'h')}:00Z"
