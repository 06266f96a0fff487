"""SQL statements on failed events, which are a work list in the order of arrival.

A failed event is superseded when an event with its id was accepted after it. That
follows from the tables: so it also holds for events that another process or a replay
has stored, and storing an event costs nothing for it.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import Delete, Select, and_, case, delete, func, literal, or_, select
from sqlalchemy.sql.elements import ColumnElement

from service.events.statements import FailedCursor, after, later_bound
from service.events.tables import HAS_CONTENT_ID, HAS_OWN_ID, events, failed_events

MAX_REMAINING: Final = 10_000
"""Failed events that are counted as remaining: a count reads each of them."""

MAX_GROUPS: Final = 10_000
"""Groups of failed events that one answer is made of; a client may invent types."""

FailedStatus = Literal["failed", "superseded"]

_COLUMNS: Final = [
    *(failed_events.c.id, failed_events.c.errors, failed_events.c.received_at),
    *(failed_events.c.application, failed_events.c.at),
    *(failed_events.c.format, failed_events.c.skew),
    failed_events.c.event.label("content"),
]
_ORDER: Final = (failed_events.c.received_at, failed_events.c.id)
_CONFLICT: Final = "conflict"
_HAS_TYPE: Final = and_(
    failed_events.c.category.is_not(None), failed_events.c.name.is_not(None)
)


class FailedFilter(NamedTuple):
    """The conditions on failed events; `since` and `until` bound their arrival.

    The instants are in microseconds, `until` is exclusive. Without a status, superseded
    events count too.
    """

    application: str | None
    """None for all applications."""
    id: str | None = None
    session_id: str | None = None
    category: str | None = None
    name: str | None = None
    code: str | None = None
    since: int | None = None
    until: int | None = None
    status: FailedStatus | None = "failed"
    is_untyped: bool = False
    """True for those whose category or name could not be read."""


class FailedStatements:
    """Statements in the dialect of a database."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect

    def select_page(
        self, wanted: FailedFilter, limit: int, cursor: FailedCursor | None
    ) -> Select[Any]:
        """Select a page, and one row more if another page follows."""
        return self._select(_COLUMNS, wanted, cursor).limit(limit + 1)

    def select_sizes(
        self, wanted: FailedFilter, limit: int, cursor: FailedCursor | None
    ) -> Select[Any]:
        """Select order and size of failed events."""
        size = func.length(failed_events.c.event).label("size")
        return self._select([*_ORDER, size], wanted, cursor).limit(limit)

    def select_last(self, wanted: FailedFilter) -> Select[Any]:
        """Select the last arrival of a failed event of the application."""
        every = FailedFilter(wanted.application, status=None)
        last = func.max(failed_events.c.received_at)
        return select(last).where(*self.conditions(every))

    def count(self, wanted: FailedFilter, cursor: FailedCursor | None) -> Select[Any]:
        """Count the failed events after a cursor, up to `MAX_REMAINING`."""
        found = self._select([failed_events.c.id], wanted, cursor).order_by(None)
        page = found.limit(MAX_REMAINING)
        return select(func.count()).select_from(page.subquery())

    def count_codes(self, wanted: FailedFilter) -> Select[Any]:
        """Count failed events for each combination of codes."""
        codes = failed_events.c.codes
        query = select(codes, func.count().label("number")).where(
            *self.conditions(wanted)
        )
        return query.group_by(codes)

    def select_groups(self, wanted: FailedFilter) -> Select[Any]:
        """Select groups of equal codes and type, with the bounds of their arrival.

        Events without a readable category or name are one group of each codes. At most
        `MAX_GROUPS` groups are selected, the largest first.
        """
        category, name = (
            case((_HAS_TYPE, column)).label(column.name)
            for column in (failed_events.c.category, failed_events.c.name)
        )
        codes, arrival = failed_events.c.codes, failed_events.c.received_at
        number = func.count().label("number")
        bounds = (func.min(arrival).label("first"), func.max(arrival).label("last"))
        query = select(codes, category, name, number, *bounds).where(
            *self.conditions(wanted)
        )
        grouped = query.group_by(codes, category, name)
        return grouped.order_by(number.desc(), codes).limit(MAX_GROUPS)

    def _select(
        self,
        columns: Sequence[ColumnElement[Any]],
        wanted: FailedFilter,
        cursor: FailedCursor | None,
    ) -> Select[Any]:
        """Select columns of the failed events after a cursor, in order."""
        since, cursor = later_bound(wanted.since, cursor)
        conditions = self.conditions(wanted._replace(since=since))
        query = select(*columns).where(*conditions)
        return after(cursor, query, _ORDER)

    def conditions(self, wanted: FailedFilter) -> list[ColumnElement[bool]]:
        """Return the conditions of a filter."""
        found: list[ColumnElement[bool]] = [
            failed_events.c[name] == value
            for name in ("application", "id", "session_id", "category", "name")
            if (value := getattr(wanted, name)) is not None
        ]
        if wanted.code is not None:
            codes = literal(",") + failed_events.c.codes + literal(",")
            found.append(codes.contains(f",{wanted.code},", autoescape=True))
        if wanted.is_untyped:
            found.append(~_HAS_TYPE)
        if wanted.since is not None:
            found.append(failed_events.c.received_at >= wanted.since)
        if wanted.until is not None:
            found.append(failed_events.c.received_at < wanted.until)
        if wanted.status is not None:
            is_superseded = self._is_superseded()
            is_wanted = wanted.status == "superseded"
            found.append(is_superseded if is_wanted else ~is_superseded)
        return found

    def _is_superseded(self) -> ColumnElement[bool]:
        # Each looks up one entry of a unique index, which needs its condition.
        later = (
            events.c.application == failed_events.c.application,
            events.c.received_at >= failed_events.c.received_at,
            # The clock of another process may be behind.
            failed_events.c.codes != _CONFLICT,
        )
        by_id = select(events.c.id).where(
            events.c.id == failed_events.c.event_id,
            HAS_OWN_ID[self._dialect],
            *later,
        )
        skew = func.coalesce(failed_events.c.skew, 0)
        by_content = select(events.c.id).where(
            func.coalesce(events.c.sent_at, events.c.at) == failed_events.c.at - skew,
            events.c.digest == failed_events.c.digest,
            HAS_CONTENT_ID[self._dialect],
            *later,
        )
        found = (each.correlate(failed_events).exists() for each in (by_id, by_content))
        return or_(*found)


def select_texts(ids: list[str]) -> Select[Any]:
    """Select the texts of failed events, and lock them for this transaction.

    Those that another transaction has locked or deleted are left out.
    """
    columns = failed_events.c
    query = select(
        *(columns.id, columns.application, columns.event),
        *(columns.format, columns.skew, columns.received_at),
    )
    # SQLite has no such locks, but one writer at a time.
    wanted = query.where(columns.id.in_(ids)).order_by(*_ORDER)
    return wanted.with_for_update(skip_locked=True)


def delete_failed(ids: list[str]) -> Delete:
    """Delete failed events."""
    return delete(failed_events).where(failed_events.c.id.in_(ids))
