"""Queries on stored events: pages, sessions, counts."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType
from sqlalchemy import Row, Select, Table

from service.events.clock_skew import is_in_calendar
from service.events.count_statements import (
    MAX_HOURS,
    select_counts,
)
from service.events.errors import SessionNotFound
from service.events.failed_groups import merge_groups
from service.events.failed_statements import (
    FailedFilter,
    FailedStatements,
    FailedStatus,
)
from service.events.hours import check_number, check_range, format_hour, hours_of_range
from service.events.model import (
    EventCount,
    EventError,
    FailedEvent,
    FailedGroups,
    Session,
    Stats,
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
        self._failed = FailedStatements(database.dialect)

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
        self, wanted: FailedFilter, limit: int, cursor: FailedCursor | None = None
    ) -> EventPage[FailedEvent]:
        """Return a page of failed events, by arrival."""
        query = self._failed.select_page(wanted, limit, cursor)
        convert = partial(_failed_event, status=wanted.status or "failed")
        found = await self._fetch(query, limit, convert, FAILED_ROWS)
        return _page(found, FailedCursor)

    async def applications(self) -> list[str]:
        """Return the names of the applications that have events or failed ones."""
        names = {*await self._names(events), *await self._names(failed_events)}
        return sorted(names)

    async def _names(self, table: Table) -> list[str]:
        rows = await retry_lost(partial(self._rows, select_applications(table)))
        return [str(row.name) for row in rows]

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

    async def count(
        self, by: CountedBy, event_filter: EventFilter, limit: int
    ) -> Stats:
        """Count events by value: the `limit` most frequent ones, and the others."""
        rows = await self._rows(select_counts(by, event_filter, limit))
        # Names that are not counted apart are among the others.
        listed = [(row.value, row.number) for row in rows if row.value != OTHER_NAMES]
        return _stats(by, listed, total=rows[0].total if rows else 0)

    async def count_hours(self, event_filter: EventFilter, *, zeros: bool) -> Stats:
        """Count events by hour: every hour that has some, or with `zeros` every hour.

        Raises `InvalidParameter` for a range of more than 400 days.
        """
        check_range(event_filter.since, event_filter.until)
        rows = await self._rows(select_counts("hour", event_filter, MAX_HOURS + 2))
        counts = {int(row.value): int(row.number) for row in rows}
        check_number(len(counts))
        hours = hours_of_range(event_filter, counts) if zeros else counts
        listed = [EventCount(format_hour(hour), counts.get(hour, 0)) for hour in hours]
        return Stats("hour", listed)

    async def count_codes(self, wanted: FailedFilter, limit: int) -> Stats:
        """Count failed events by error, once for each code among their errors."""
        rows = await self._rows(self._failed.count_codes(wanted))
        counts = _split_codes((row.codes, row.number) for row in rows)
        ordered = sorted(counts, key=lambda count: (-count[1], count[0]))
        total = sum(number for _, number in counts)
        return _stats("error", ordered[:limit], total=total)

    async def failed_groups(self, wanted: FailedFilter, limit: int) -> FailedGroups:
        """Return the `limit` largest groups of failed events by error and type."""
        rows = await self._rows(self._failed.select_groups(wanted))
        return merge_groups(rows, limit)

    async def _rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        return await retry_lost(partial(self._read_rows, query))

    async def _read_rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        async with self._database.reading(Use.EVENT_QUERIES) as connection:
            rows: Sequence[Row[Any]] = (await connection.execute(query)).all()
            return rows

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


def _failed_event(row: Row[Any], status: FailedStatus) -> FailedEvent:
    return FailedEvent(
        id=row.id,
        event=_as_json(row.content),
        errors=msgspec.json.decode(row.errors, type=list[EventError]),
        received_at=format_instant(row.received_at),
        application=row.application,
        status=status,
        corrected_timestamp=_corrected_timestamp(row),
        format=row.format or UNSET,
    )


def _corrected_timestamp(row: Row[Any]) -> str | UnsetType:
    if row.at is None or not row.skew or not is_in_calendar(row.at):
        return UNSET
    return format_instant(row.at)


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


def _stats(by: str, listed: list[tuple[str, int]], total: int) -> Stats:
    other = int(total) - sum(number for _, number in listed)
    return Stats(by, [EventCount(*each) for each in listed], other)
