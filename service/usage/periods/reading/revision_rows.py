"""Answers from few chunks of one revision of a kept period.

A page in the period's order, one message and sums need no whole period. Other queries
return None, and so does a period whose ids or times do not tell which chunks to read.
"""

import asyncio
from collections.abc import Sequence
from typing import Final
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from msgspec import Struct

from service.usage.periods.model import KeptPeriod
from service.usage.periods.reading.chunk_cache import ChunkCache
from service.usage.snapshots.cursors import MessageCursor
from service.usage.snapshots.errors import RangeNotCovered
from service.usage.snapshots.kept_rows import (
    Copies,
    Found,
    Place,
    Revision,
    check_passed,
    encode_rows,
    explain_message,
    find_copies,
    find_rows,
    make_cursor,
    place_of,
    row_of_cursor,
)
from service.usage.snapshots.outline import Outline
from service.usage.snapshots.queries import daily_usage_of, list_reports
from service.usage.snapshots.selection import Selection
from service.usage.snapshots.store import Explained, Extract

MAX_PAGE_ROWS: Final = 1_000
"""Larger pages take longer to encode than a thread should."""
MAX_PARTIAL: Final = 4
"""Chunks that are read to find the bounds of a range; two, if times are ascending."""
FIRST: Final = (-(2**63), 0)
LAST: Final = (2**63 - 1, 0)
MAX_CHUNKS: Final = 24
"""More chunks are read by a query on the whole period, which is cached."""

_encode: Final = msgspec.json.Encoder().encode


class RevisionRows(Struct, frozen=True, eq=False):
    """One revision of a period, by its outline.

    Methods raise `StorageError`, `ChunkDamaged` and `PeriodReplaced`.
    """

    period: KeptPeriod
    outline: Outline
    chunks: ChunkCache

    @property
    def revision(self) -> Revision:
        """The plan and the id of the revision."""
        return Revision(self.period.plan, revision_id(self.period))

    async def page(self, media_type: str, selection: Selection) -> Extract | None:
        """Return a page, and the cursor of the next one.

        Raises `CursorExpired` and `RangeNotCovered`.
        """
        limit = selection.limit
        if selection.sort or limit is None or limit > MAX_PAGE_ROWS:
            return None
        selected = await self._find_selected(selection)
        if selected is None:
            return None
        first, last = selected
        begin: int | None = first
        if selection.cursor is not None:
            begin = await self._place_after(selection.cursor, first)
            # A row outside of the range has no place in it.
            if begin is None or not first < begin <= last:
                return None
        rows = begin or 0, min((begin or 0) + limit, last)
        return await self._page(media_type, selection, rows, selected)

    async def _page(
        self,
        media_type: str,
        selection: Selection,
        rows: tuple[int, int],
        selected: tuple[int, int],
    ) -> Extract | None:
        """Return the page with these rows, which are some of those selected."""
        begin, end = rows
        places = self.outline.find_rows(begin, end) if end > begin else range(0)
        if len(places) > MAX_CHUNKS:
            return None
        found, following = await self._read(places), None
        if end < selected[1]:
            copies = await self._copies(found[-1].id_of(end - 1))
            if copies is None:
                return None
            place = await self._place(end - 1, selected[0])
            following = make_cursor(copies, place, self.period.messages, selection)
        body = await asyncio.to_thread(
            encode_rows, self.revision, found, rows, media_type
        )
        return Extract(body, following)

    async def explain(self, message_id: int) -> Explained | None:
        """Return the price of one message; raises `MessageNotFound`."""
        places = self.outline.find_id(message_id)
        if len(places) > MAX_CHUNKS:
            return None
        found = await self._read(places)
        body = explain_message(self.revision, found, message_id)
        return Explained(body, self.revision.name)

    async def daily(self, zone: str | None) -> bytes | None:
        """Return the usage of each day in a time zone, as JSON."""
        quarters = self.outline.quarters
        if quarters is None:
            return None
        days = ZoneInfo(zone) if zone is not None else None
        found = daily_usage_of(quarters.numbers, *quarters.sums, days)
        return None if found is None else _encode(found)

    async def by_report(self) -> bytes | None:
        """Return the usage of each report, as JSON."""
        reports = self.outline.reports
        return (
            None
            if reports is None
            else _encode(list_reports(reports.names, *reports.sums))
        )

    async def _read(self, places: range | list[int]) -> list[Found]:
        digests = self.period.digests
        chunks = await self.chunks.chunks(
            self.period, [digests[each] for each in places]
        )
        begins = map(self.outline.begin_of, places)
        return list(map(Found, begins, chunks))

    async def _copies(self, message_id: int) -> Copies | None:
        places = self.outline.find_id(message_id)
        if len(places) > MAX_CHUNKS:
            return None
        return find_copies(self.revision, await self._read(places), message_id)

    async def _find_selected(self, selection: Selection) -> tuple[int, int] | None:
        """Return the rows of a range: begin and end; None if others are between."""
        if selection.since is selection.until is None:
            return 0, self.period.messages
        since, until = selection.since or FIRST, selection.until or LAST
        begins_at = int(self.outline.chunks.first_at.min())
        if until <= (begins_at, 0):
            raise RangeNotCovered(f"{np.datetime64(begins_at, 'us')}Z")
        places, partial = self.outline.find_range(since[0], until[0])
        # Of the second case, less than a microsecond decides.
        if len(partial) > MAX_PARTIAL or until[0] == begins_at:
            return None
        spans = []
        for place in places:
            span: tuple[int, int] | None = self.outline.rows_of(place)
            if place in partial:
                (found,) = await self._read([place])
                span = find_rows(found, selection)
            if span is None:
                return None
            spans.append(span)
        return _join(spans)

    async def _place_after(self, cursor: MessageCursor, first: int) -> int | None:
        """Return the row after that of a cursor; raises `CursorExpired`."""
        copies = await self._copies(cursor.message_id)
        if copies is None:
            return None
        row = row_of_cursor(self.outline, copies, cursor)
        # Messages that were appended since then do not count.
        passed = await self._place(min(row, cursor.messages - 1), first)
        check_passed(copies, passed, cursor)
        return row + 1

    async def _place(self, row: int, first: int) -> Place:
        """Return the place after a row, with the sum of the rows from the first on."""
        place = await self._whole_place(row)
        if not first:
            return place
        before = await self._whole_place(first - 1)
        return place._replace(mixed=place.mixed - before.mixed)

    async def _whole_place(self, row: int) -> Place:
        (found,) = await self._read(self.outline.find_rows(row, row + 1))
        return place_of(self.outline, found, row)


def _join(spans: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """Return one span of rows; None if other rows are between."""
    used = [each for each in spans if each[0] < each[1]]
    if not used:
        return 0, 0
    begin, end = used[0][0], used[-1][1]
    rows = sum(end - begin for begin, end in used)
    return (begin, end) if rows == end - begin else None


def revision_id(period: KeptPeriod) -> str:
    """Return the id of a revision among those of all periods."""
    return f"{period.period}.{period.revision}"
