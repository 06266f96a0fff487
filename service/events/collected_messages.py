"""Collected `copilot/message` events as the messages of a billing period, for `usage`.

The period is the current calendar month in UTC, unless bounds are given. It has the
events of all applications, ordered by timestamp and then arrival, in the JSON form of
the messages API.

The API requires integer ids, so the id of a message is the position of its event. The
database assigns it once. It is unique over all processes, and never changes.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, Struct
from sqlalchemy import and_, func, select
from sqlalchemy.sql.elements import ColumnElement

from service.events.tables import events
from service.instants import US_PER_S, now_us
from service.storage.database import Database, retry_lost
from service.storage.uses import Use

CATEGORY: Final = "copilot"
NAME: Final = "message"
BATCH_ROWS: Final = 1_000
FIRST_ID: Final = 10**15
"""Positions from revision 0014 on; a message from before keeps its time of arrival."""
BODY_BEGIN: Final = b'{"messages":['
BODY_END: Final = b"]}"

_FIRST: Final = select(func.min(events.c.application).label("name")).cte(
    "applications", recursive=True
)
_NEXT: Final = select(func.min(events.c.application)).where(
    events.c.application > _FIRST.c.name
)
# From the events and not from the keys: the sandbox's key is not stored. Each name is
# one step into an index, however many events an application has.
_ALL: Final = _FIRST.union_all(
    select(_NEXT.scalar_subquery()).where(_FIRST.c.name.is_not(None))
)
_APPLICATIONS: Final = select(_ALL.c.name).where(_ALL.c.name.is_not(None))
_ARRIVAL: Final = events.c.received_at
_STATE: Final = select(func.count(), func.min(_ARRIVAL), func.max(_ARRIVAL))
"""Changes when messages are added or removed; the oldest arrivals are removed first."""
_MESSAGES: Final = select(
    events.c.id, _ARRIVAL, events.c.position, events.c.timestamp, events.c.data
).order_by(events.c.at, _ARRIVAL, events.c.id)


class Month(NamedTuple):
    """A month, in microseconds since 1970; `end` is exclusive."""

    start: int
    end: int


class CollectedMessage(Struct, frozen=True, gc=False):
    """A message in the form of the messages API."""

    id: int
    timestamp: str
    text: str
    report_id: Any = UNSET


class CollectedMessages:
    """Reads the current month's messages from the database."""

    def __init__(self, database: Database, clock: Callable[[], int] = now_us) -> None:
        self._database = database
        self._clock = clock

    async def read(
        self, known: str | None, bounds: tuple[int, int] | None = None
    ) -> tuple[bytearray | None, str]:
        """Return the messages as a JSON body, and a tag that identifies them.

        `bounds` are instants in microseconds, the end exclusive.
        The body is None if `known` is still the tag. Raises `StorageError`, and
        `ValueError` if an event is no message.
        """
        return await retry_lost(partial(self._read, known, bounds))

    async def _read(
        self, known: str | None, bounds: tuple[int, int] | None
    ) -> tuple[bytearray | None, str]:
        month = Month(*bounds) if bounds else month_of(self._clock())
        async with self._database.reading(Use.USAGE) as connection:
            applications = (await connection.scalars(_APPLICATIONS)).all()
            in_month = _of_month(month, applications)
            # The tag first: in PostgreSQL the second query sees events that arrived
            # after the first. A tag older than its messages only causes another read.
            state = (await connection.execute(_STATE.where(in_month))).one()
            tag = "-".join(map(str, (*month, *state)))
            if tag == known:
                return None, tag
            body = bytearray(BODY_BEGIN)
            result = await connection.stream(_MESSAGES.where(in_month))
            async for rows in result.partitions(BATCH_ROWS):
                if len(body) > len(BODY_BEGIN):
                    body += b","
                # In a thread, because encoding a batch would block the event loop.
                body += await asyncio.to_thread(_encode, rows)
        body += BODY_END
        return body, tag


def month_of(instant: int) -> Month:
    """Return the calendar month of an instant in microseconds."""
    now = datetime.fromtimestamp(instant / US_PER_S, UTC)
    start = datetime(now.year, now.month, 1, tzinfo=UTC)
    december = now.month == 12
    end = start.replace(
        year=now.year + december, month=1 if december else now.month + 1
    )
    return Month(*(int(each.timestamp()) * US_PER_S for each in (start, end)))


def _of_month(month: Month, applications: Sequence[str]) -> ColumnElement[bool]:
    """Match messages of a month, by application to use the index."""
    return and_(
        events.c.application.in_(applications),
        events.c.category == CATEGORY,
        events.c.name == NAME,
        events.c.at >= month.start,
        events.c.at < month.end,
    )


def _encode(rows: Sequence[Any]) -> bytes:
    """Return rows as JSON objects separated by commas."""
    return msgspec.json.encode([_message_of(row) for row in rows])[1:-1]


def _message_of(row: Any) -> CollectedMessage:
    """Return an event as a message; raises `ValueError` if its data is no message."""
    # Of repeated members the last one counts, as for the schema check.
    data = msgspec.json.decode(row.data)
    text = data.get("text") if isinstance(data, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"the event {row.id!r} is no message: it has no text")
    report_id = data.get("report_id", UNSET)
    return CollectedMessage(_id_of(row), row.timestamp, text, report_id)


def _id_of(row: Any) -> int:
    has_own = row.position is not None and row.position >= FIRST_ID
    return int(row.position if has_own else row.received_at)
