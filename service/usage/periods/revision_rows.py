"""Answers from few chunks of one revision of a kept period.

A page in the period's order, one message and sums need no whole period. Other queries
return None, and so does a period whose ids or times do not tell which chunks to read.
"""

import asyncio
from typing import Final
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from service.usage.periods.chunk_cache import ChunkCache
from service.usage.periods.model import KeptPeriod
from service.usage.snapshots.cursors import MessageCursor
from service.usage.snapshots.kept_rows import (
    Copies,
    Found,
    Place,
    Revision,
    check_passed,
    encode_rows,
    explain_message,
    find_copies,
    make_cursor,
    place_of,
    row_of_cursor,
)
from service.usage.snapshots.outline import Outline
from service.usage.snapshots.queries import daily_usage_of, list_reports
from service.usage.snapshots.selection import EVERYTHING, Selection
from service.usage.snapshots.store import Explained, Extract

MAX_PAGE_ROWS: Final = 1_000
"""Larger pages take longer to encode than a thread should."""
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
        """Return a page, and the cursor of the next one; raises `CursorExpired`."""
        limit, cursor = selection.limit, selection.cursor
        is_plain = selection._replace(limit=None, cursor=None) == EVERYTHING
        if not is_plain or limit is None or limit > MAX_PAGE_ROWS:
            return None
        begin = 0
        if cursor is not None:
            after = await self._place_after(cursor)
            if after is None:
                return None
            begin = after
        end = min(begin + limit, self.period.messages)
        places = self.outline.find_rows(begin, end) if end > begin else range(0)
        if len(places) > MAX_CHUNKS:
            return None
        found = await self._read(places)
        following = None
        if end < self.period.messages:
            following = await self._cursor(found[-1], end)
            if following is None:
                return None
        body = await asyncio.to_thread(
            encode_rows, self.revision, found, (begin, end), media_type
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

    async def _place_after(self, cursor: MessageCursor) -> int | None:
        copies = await self._copies(cursor.message_id)
        if copies is None:
            return None
        row = row_of_cursor(self.outline, copies, cursor)
        # Messages that were appended since then do not count.
        passed = await self._place(min(row, cursor.messages - 1))
        check_passed(copies, passed, cursor)
        return row + 1

    async def _place(self, row: int) -> Place:
        (found,) = await self._read(self.outline.find_rows(row, row + 1))
        return place_of(self.outline, found, row)

    async def _cursor(self, last: Found, end: int) -> MessageCursor | None:
        copies = await self._copies(last.id_of(end - 1))
        if copies is None:
            return None
        return make_cursor(copies, await self._place(end - 1), self.period.messages)


def revision_id(period: KeptPeriod) -> str:
    """Return the id of a revision among those of all periods."""
    return f"{period.period}.{period.revision}"
