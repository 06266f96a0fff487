"""The feed: stored events in the order of their positions, for consumers."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeVar

from sqlalchemy import Row, Select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.events.errors import CursorAhead
from service.events.feed_statements import (
    Place,
    Range,
    between,
    select_end,
    select_limit,
    select_lines,
    select_matches,
    select_newest,
    select_rows,
    select_size,
    up_to,
)
from service.events.model import StoredEvent
from service.events.queries import EVENT_ROWS, BoundedRows, stored_event
from service.events.statements import EventFilter
from service.events.watermark import Watermark
from service.storage.database import Database, retry_lost
from service.storage.uses import Use

T = TypeVar("T")

FIRST_ROWS: Final = 256
"""Events of the first chunk; the size of each one decides the next one's rows."""
MAX_ROWS: Final = 4_096
MIN_ROWS: Final = 32
UNMEASURED_ROWS: Final = 512
"""Events of a chunk whose size need not be known before: 16 MiB at most."""
CHUNK_BYTES: Final = 1024 * 1024


class Page(NamedTuple):
    """A page of the feed: a range in which `limit` events match at most."""

    range: Range
    watermark: int
    """The last position that was looked for; the page may end before it."""

    @property
    def is_empty(self) -> bool:
        """True if there is no event to look at."""
        return self.range.after == self.range.until


class Chunk(NamedTuple, Generic[T]):
    """A part of a page, and the place of its end."""

    content: T
    end: Place


class Match(NamedTuple):
    """Values that new events have."""

    values: tuple[str, ...]
    first: int
    """The time of the first of these events."""
    last: int


Read = Callable[[AsyncConnection, Range, EventFilter], Awaitable[tuple[T, int]]]
"""Returns the events of a range in some form, and their size in bytes."""


class Feed:
    """Reads the feed; all methods raise `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watermark = Watermark(database)
        self._dialect = "sqlite" if database.is_sqlite else "postgresql"

    async def look(self) -> int:
        """Return the watermark, and update its metric."""
        watermark, _ = await retry_lost(self._watermark.look)
        return watermark

    async def find_page(
        self, after: Place, event_filter: EventFilter, limit: int
    ) -> Page:
        """Return the page after a place; raises `CursorAhead`."""
        watermark, last = await retry_lost(self._watermark.look)
        if after.position > last:
            raise CursorAhead("the database has no event with this position yet")
        end = None
        if after.position < watermark:
            part = up_to(self._dialect, after, watermark)
            end = await retry_lost(partial(self._end, part, event_filter, limit))
        return Page(Range(self._dialect, after, end or after), watermark)

    async def events(
        self, page: Page, event_filter: EventFilter, limit: int
    ) -> Chunk[list[StoredEvent]]:
        """Return the events of a page; their size may end it early."""
        return await retry_lost(partial(self._events, page, event_filter, limit))

    async def chunks(
        self, page: Page, event_filter: EventFilter, read: Read[T]
    ) -> AsyncIterator[Chunk[T]]:
        """Yield a page in parts of bounded size, each read in its own transaction."""
        part, rows = page.range, FIRST_ROWS
        while part.after != part.until:
            chunk, size = await retry_lost(
                partial(self._chunk, part, event_filter, rows, read)
            )
            yield chunk
            fitting = rows * CHUNK_BYTES // max(1, size)
            rows = max(MIN_ROWS, min(fitting, 2 * rows, MAX_ROWS))
            part = part._replace(after=chunk.end)

    async def matches(
        self,
        after: int,
        until: int,
        columns: Sequence[str],
        wanted: Collection[tuple[str, ...]],
    ) -> list[Match]:
        """Return the values of columns that events have, with the wanted ones."""
        part = between(self._dialect, after, until)
        async with self._database.reading(Use.FEED) as connection:
            found = await connection.execute(select_matches(part, columns, wanted))
            # Without any event, the times are NULL.
            rows = [row for row in found if row[-1] is not None]
        return [Match(tuple(row[:-2]), *row[-2:]) for row in rows]

    async def _end(
        self, part: Range, event_filter: EventFilter, limit: int
    ) -> Place | None:
        async with self._database.reading(Use.FEED) as connection:
            newest = await _place(connection, select_newest(part))
            # As many positions as events fit: no need to look for the end of a page.
            is_short = 0 <= part.until.position - part.after.position <= limit
            if newest is None or is_short:
                return newest
            end = await _place(connection, select_end(part, event_filter, limit))
            return end or await _place(connection, select_limit(part)) or newest

    async def _events(
        self, page: Page, event_filter: EventFilter, limit: int
    ) -> Chunk[list[StoredEvent]]:
        found = BoundedRows(limit, stored_event)
        query = select_rows(page.range, event_filter)
        async with (
            self._database.reading(Use.FEED) as connection,
            connection.stream(query) as result,
        ):
            async for rows in result.partitions(EVENT_ROWS):
                found.add(rows)
                if found.is_cut:
                    break
        if found.is_cut and found.last is not None:
            return Chunk(found.items, _place_of(found.last))
        return Chunk(found.items, page.range.until)

    async def _chunk(
        self, part: Range, event_filter: EventFilter, rows: int, read: Read[T]
    ) -> tuple[Chunk[T], int]:
        async with self._database.reading(Use.FEED) as connection:
            part = await _begin(connection, part, event_filter, rows)
            if rows > UNMEASURED_ROWS:
                # The events may be larger than those before.
                size = await connection.scalar(select_size(part, event_filter)) or 0
                if size > 2 * CHUNK_BYTES:
                    part = await _begin(connection, part, event_filter, UNMEASURED_ROWS)
            content, size = await read(connection, part, event_filter)
        return Chunk(content, part.until), size


async def read_lines(
    connection: AsyncConnection, part: Range, event_filter: EventFilter
) -> tuple[bytes, int]:
    """Return the events of a range as NDJSON."""
    lines: bytes = await connection.scalar(select_lines(part, event_filter)) or b""
    return lines, len(lines)


async def read_rows(
    connection: AsyncConnection, part: Range, event_filter: EventFilter
) -> tuple[Sequence[Row[Any]], int]:
    """Return the events of a range as rows."""
    rows = (await connection.execute(select_rows(part, event_filter))).all()
    return rows, sum(len(row.content) for row in rows)


async def _begin(
    connection: AsyncConnection, part: Range, event_filter: EventFilter, rows: int
) -> Range:
    """Return the begin of a range, with `rows` events that match at most."""
    end = await _place(connection, select_end(part, event_filter, rows))
    return part._replace(until=end or part.until)


async def _place(connection: AsyncConnection, query: Select[Any]) -> Place | None:
    row = (await connection.execute(query)).first()
    return None if row is None else _place_of(row)


def _place_of(row: Row[Any]) -> Place:
    return Place(row.position, row.id, row.application)
