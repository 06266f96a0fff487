"""Closing of calendar months, and a look for messages that came late.

A month that has ended is read again while its grace lasts, and a last time after it.
Then it is closed. Messages that come later are adjustments of it.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from service.instants import US_PER_S, now_us
from service.storage.maintenance import repeat_logged
from service.upstream.bodies import UpstreamResponse
from service.upstream.errors import UpstreamError
from service.usage.errors import RefreshFailed
from service.usage.periods.keeping.contents import Fetched
from service.usage.periods.keeping.months import Months, span_of
from service.usage.periods.model import KeptPeriod
from service.usage.periods.tables import OPEN
from service.usage.refresh import Refresher
from service.usage.snapshots.errors import ChunkDamaged
from service.usage.snapshots.spans import Span
from service.usage.sources import MessageSource

EVERY_S: Final = 60.0
CLOSED_EVERY_S: Final = 600.0
"""Interval of looks for late messages of closed months."""
CLOSED_MONTHS: Final = 3
"""Closed months that are looked at, the newest ones."""
COMPLETE_WAIT_US: Final = 86_400 * US_PER_S
"""Time after the grace for which a degraded month waits for complete prices."""


class MakeRefresher(Protocol):
    """Makes a refresher of another source."""

    def __call__(self, *, source: MessageSource) -> Refresher: ...


class MonthSource:
    """Reads snapshots of months that have ended."""

    def __init__(
        self,
        source: MessageSource,
        refreshers: MakeRefresher,
        lists: Callable[[Span], bool | None],
    ) -> None:
        """`lists` returns whether the source lists messages of a month, if known."""
        self._source = source
        self._refreshers = refreshers
        self._lists = lists
        self._etags: dict[Span, str | None] = {}

    @property
    def is_complete(self) -> bool:
        """True if a snapshot has the whole month for certain."""
        return self._source.has_all_spans

    async def read(
        self,
        span: Span,
        use: Callable[[Fetched], Awaitable[bool]],
        *,
        if_unknown: bool = False,
    ) -> bool:
        """Let a snapshot of a month be used, if it is not the one used before.

        Nothing is read if the source does not list the month, nor while that is not
        known, unless `if_unknown`.

        Return False if `use` returned False. Raises `UpstreamError`, `RefreshFailed`
        and `StorageError`.
        """
        listed = self._source.has_all_spans or self._lists(span)
        if not (if_unknown if listed is None else listed):
            return True
        fetched_at = now_us()
        response = await self._source.fetch(self._etags.get(span), span)
        if response.body is None:
            return True
        refresher = self._refreshers(source=_Received(response))
        try:
            snapshot = await refresher.run(None, is_servable=False, span=span)
            is_used = await use(Fetched(snapshot, fetched_at))
        finally:
            await refresher.workers.close()
        if is_used:
            self._etags[span] = response.etag
        return is_used


class Closing:
    """Looks at the months that have ended, and closes them."""

    def __init__(
        self,
        months: Months,
        source: MonthSource,
        grace_s: float,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self._months = months
        self._source = source
        self._grace_us = round(grace_s * US_PER_S)
        self._clock = clock
        self._looked_at: float | None = None

    async def run(self) -> None:
        """Look at every interval, until it is cancelled."""
        await repeat_logged("usage.closing_failed", self.look, EVERY_S)

    async def look(self) -> None:
        """Read the months that have ended, and close those whose grace is over.

        Raises `StorageError` and `ChunkDamaged`.
        """
        store, now = self._months.revisions.store, self._clock()
        await self._open_previous(now)
        for period in await store.open_months(now):
            over_at = span_of(period).end + self._grace_us
            if now < over_at and 0 <= now - period.fetched_at < EVERY_S * US_PER_S:
                continue  # another worker has just read it
            may_be_degraded = now >= over_at + COMPLETE_WAIT_US
            is_read = await self._read(
                span_of(period), may_be_degraded=may_be_degraded, is_open=True
            )
            if is_read and now >= over_at:
                await self._close(period)
        if self._is_due():
            await self._read_closed(await store.newest_closed(CLOSED_MONTHS))

    async def _read_closed(self, periods: Sequence[KeptPeriod]) -> None:
        """Keep late messages of closed months; raises the error of a damaged one last.

        So a damaged month does not keep the others from their late messages.
        """
        damaged: ChunkDamaged | None = None
        for period in periods:
            if period.starts_at is None:
                continue
            try:
                await self._read(span_of(period))
            except ChunkDamaged as error:
                damaged = error
        if damaged is not None:
            raise damaged

    async def _open_previous(self, now: int) -> None:
        """Keep the previous month if its first message has come after its end.

        From an upstream, it must come within the grace. Later, the upstream may list a
        part of the month only.
        """
        span = self._months.previous_month(now)
        found = await self._months.revisions.store.find_month(span.begin)
        is_whole = self._source.is_complete or now < span.end + self._grace_us
        if found is None and is_whole:
            await self._read(span)

    async def _read(
        self, span: Span, *, may_be_degraded: bool = False, is_open: bool = False
    ) -> bool:
        """Keep what has changed in a month; return whether nothing is left to do."""

        async def keep(fetched: Fetched) -> bool:
            summary = fetched.snapshot.summary
            if summary.degraded and not may_be_degraded:
                return False
            if summary.messages:
                await self._months.keep(fetched, 0)
            return True

        try:
            # An open month must not close without its last messages.
            return await self._source.read(span, keep, if_unknown=is_open)
        except (RefreshFailed, UpstreamError):
            return False  # both are logged

    async def _close(self, period: KeptPeriod) -> None:
        found = await self._months.revisions.store.find(period.period)
        if found is not None and found.status == OPEN:
            await self._months.close(found, self._grace_us)

    def _is_due(self) -> bool:
        last, now = self._looked_at, time.monotonic()
        if last is not None and now - last < CLOSED_EVERY_S:
            return False
        self._looked_at = now
        return True


class _Received:
    """A source that has fetched its messages already."""

    has_all_spans = True

    def __init__(self, response: UpstreamResponse) -> None:
        self._response = response

    async def fetch(
        self, known_etag: str | None, span: Span | None = None
    ) -> UpstreamResponse:
        """Return the messages."""
        return self._response
