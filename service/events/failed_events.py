"""Failed events as a work list: pages, and replays and discards in bounded steps.

A step has a transaction for each batch. It finds the batch before, since a search may
take long and writers must not wait for it. The failed events of a batch are locked
while they are replayed, so concurrent replays do none of them twice. What a step has
done stays done if its client leaves.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import takewhile
from typing import Any, Final, NamedTuple

import structlog
from sqlalchemy import Row, Select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.events import metrics
from service.events.arrivals import Arrivals
from service.events.errors import FailedEventNotFound, ReplayRefused
from service.events.failed_statements import (
    FailedFilter,
    FailedStatements,
    delete_failed,
    select_texts,
)
from service.events.model import (
    DiscardStep,
    Event,
    EventFailure,
    EventResult,
    Origin,
    ReplayStep,
)
from service.events.parsing import EventParser
from service.events.receipts import result_of
from service.events.statements import FailedCursor, Moment, Storable
from service.events.store import (
    MAX_COLLISIONS,
    Stored,
    compare,
    digests_of,
    insert_received,
)
from service.events.tables import failed_events
from service.storage.database import Database, retry_lost
from service.storage.errors import Collided, StorageUnavailable
from service.storage.uses import Use
from service.web.parameters import encode_cursor, quoted

BATCH_ROWS: Final = 128
BATCH_BYTES: Final = 1024 * 1024
"""Text in one batch: a larger failed event is a batch of its own."""
STEP_S: Final = 1.0
"""Time after which a step begins no further batch."""

log = structlog.get_logger()


class StepCursor(NamedTuple):
    """The end of a step: its last failed event, and the arrival at which to stop."""

    received_at: Moment
    id: Storable
    until: Moment


class Replayed(NamedTuple):
    """The outcome of the replay of one failed event."""

    item: Event | EventFailure
    stored: Stored

    @property
    def status(self) -> str:
        """The status of its result; `failed` also for a conflict."""
        result = result_of(self.item, self.stored).status
        return "failed" if result == "conflict" else result


class Batch(NamedTuple):
    """The failed events that a transaction processes, and whether others follow."""

    keys: Sequence[Row[Any]]
    has_more: bool

    @property
    def ids(self) -> list[str]:
        """The ids of the failed events."""
        return [row.id for row in self.keys]


Work = Callable[[AsyncConnection, list[str]], Awaitable[Sequence[Any]]]
"""Processes failed events with these ids, and returns the outcome of each."""


class FailedEvents:
    """Replays and discards failed events; all methods raise `StorageError`.

    They run in the lane of queries, whose connections they use to search.
    """

    def __init__(
        self,
        database: Database,
        arrivals: Arrivals,
        parser: EventParser,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._statements = FailedStatements(database.dialect)
        self._arrivals = arrivals
        self._parser = parser
        self._clock = clock

    async def replay_one(self, application: str | None, failed_id: str) -> EventResult:
        """Validate a failed event again, and store it as an event if it is valid now.

        Without an application, it may be one of any. Raises `FailedEventNotFound` and
        `ReplayRefused`.
        """
        wanted = FailedFilter(application, id=failed_id, status=None)
        outcomes: Sequence[Replayed] = ()
        if "\0" not in failed_id:
            _, outcomes = await self._process(wanted, 1, None, self._replay)
        if not outcomes:
            raise FailedEventNotFound(f"no failed event {quoted(failed_id)!r}")
        item, stored = outcomes[0]
        if isinstance(item, EventFailure):
            errors = (f"{each.path or '/'}: {each.message}" for each in item.errors)
            raise ReplayRefused("; ".join(errors))
        if stored.conflict is not None:
            raise ReplayRefused("another event has this id")
        result = result_of(item, stored)
        log.info(
            "events.replayed",
            application=application,
            failed_id=failed_id,
            status=result.status,
        )
        metrics.events_replayed(result.status, 1)
        return result

    async def replay(
        self, wanted: FailedFilter, limit: int, cursor: StepCursor | None
    ) -> ReplayStep:
        """Replay up to `limit` failed events, those after the cursor first."""
        outcomes, remaining, end = await self._step(wanted, limit, cursor, self._replay)
        statuses = [each.status for each in outcomes]
        step = ReplayStep(
            accepted=statuses.count("accepted"),
            duplicates=statuses.count("duplicate"),
            failed=statuses.count("failed"),
            remaining=remaining,
            next=end,
        )
        for status in ("accepted", "duplicate"):
            metrics.events_replayed(status, statuses.count(status))
        log.info(
            "events.failed_replayed",
            application=wanted.application,
            accepted=step.accepted,
            duplicates=step.duplicates,
            failed=step.failed,
            remaining=remaining,
        )
        return step

    async def discard(
        self, wanted: FailedFilter, limit: int, cursor: StepCursor | None
    ) -> DiscardStep:
        """Delete up to `limit` failed events."""
        ids, remaining, end = await self._step(wanted, limit, cursor, _discard)
        metrics.events_discarded(len(ids))
        log.info(
            "events.failed_discarded",
            application=wanted.application,
            discarded=len(ids),
            remaining=remaining,
        )
        return DiscardStep(discarded=len(ids), remaining=remaining, next=end)

    async def _step(
        self, wanted: FailedFilter, limit: int, cursor: StepCursor | None, work: Work
    ) -> tuple[list[Any], int, str | None]:
        """Process batches for some time; return outcomes, remaining ones and cursor."""
        if cursor is None:
            # Failed events that arrive meanwhile are not part of it: it has to end.
            cursor = StepCursor(-(2**63), "", await self._end(wanted))
        wanted = wanted._replace(until=cursor.until)
        ends_at = self._clock() + STEP_S
        outcomes: list[Any] = []
        has_more = True
        while has_more and limit > 0 and self._clock() < ends_at:
            room = min(limit, BATCH_ROWS)
            batch, done = await self._process(wanted, room, cursor, work)
            outcomes += done
            has_more = batch.has_more
            limit -= len(batch.keys)
            if batch.keys:
                last = batch.keys[-1]
                cursor = StepCursor(last.received_at, last.id, cursor.until)
        if not has_more:
            return outcomes, 0, None
        (row,) = await self._read(self._statements.count(wanted, _place(cursor)))
        remaining = int(row[0])
        return outcomes, remaining, encode_cursor(cursor) if remaining else None

    async def _process(
        self, wanted: FailedFilter, limit: int, cursor: StepCursor | None, work: Work
    ) -> tuple[Batch, Sequence[Any]]:
        """Process a batch in a transaction; repeat it if other processes interfere."""
        sizes = self._statements.select_sizes(wanted, limit + 1, _place(cursor))
        batch = _batch(await self._read(sizes), limit)
        if not batch.keys:
            return batch, ()
        for _ in range(MAX_COLLISIONS):
            try:
                async with self._database.writing() as connection:
                    return batch, await work(connection, batch.ids)
            except Collided:
                continue
        raise StorageUnavailable("other processes store the same events all the time")

    async def _replay(
        self, connection: AsyncConnection, ids: list[str]
    ) -> Sequence[Replayed]:
        rows = (await connection.execute(select_texts(ids))).all()
        items = list(map(self._parse, rows))
        received = self._arrivals.stamp(items)
        known = await digests_of(connection, received)
        outcomes = list(map(Replayed, items, compare(received, known)))
        done = [each.status != "failed" for each in outcomes]
        valid_ids = [row.id for row, is_done in zip(rows, done, strict=True) if is_done]
        await connection.execute(delete_failed(valid_ids))
        valid = [each for each, is_done in zip(received, done, strict=True) if is_done]
        await insert_received(connection, valid, known)
        return outcomes

    def _parse(self, row: Row[Any]) -> Event | EventFailure:
        origin = Origin(row.format, row.skew or 0, row.received_at)
        return self._parser.parse(row.event.encode(), row.application, origin)

    async def _end(self, wanted: FailedFilter) -> int:
        """Return the arrival at which a replay or a discard ends."""
        (row,) = await self._read(self._statements.select_last(wanted))
        end = 0 if row[0] is None else int(row[0]) + 1
        return end if wanted.until is None else min(end, wanted.until)

    async def _read(self, query: Select[Any]) -> Sequence[Row[Any]]:
        async def rows() -> Sequence[Row[Any]]:
            async with self._database.reading(Use.EVENT_QUERIES) as connection:
                found: Sequence[Row[Any]] = (await connection.execute(query)).all()
                return found

        return await retry_lost(rows)


async def _discard(connection: AsyncConnection, ids: list[str]) -> Sequence[str]:
    deleted = await connection.execute(delete_failed(ids).returning(failed_events.c.id))
    return [row.id for row in deleted]


def _batch(rows: Sequence[Row[Any]], limit: int) -> Batch:
    """Return the first rows up to the limit and `BATCH_BYTES`, but at least one."""
    size = 0

    def fits(row: Row[Any]) -> bool:
        nonlocal size
        size += int(row.size)
        return size <= BATCH_BYTES

    keys = list(takewhile(fits, rows[:limit])) or list(rows[:1])
    return Batch(keys, len(rows) > len(keys))


def _place(cursor: StepCursor | None) -> FailedCursor | None:
    return cursor and FailedCursor(cursor.received_at, cursor.id)
