"""Collected `copilot/message` events as a period's messages, for `usage`.

They are told as the messages API tells them, so that all that follows is the same: the
events of every application in the calendar month of now, UTC, in the order of
(timestamp, arrival). A message's id is its arrival in microseconds, a whole number as
the contract wants it.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, Struct
from sqlalchemy import and_, func, select
from sqlalchemy.sql.elements import ColumnElement

from service.events.tables import events
from service.instants import US_PER_S, now_us
from service.storage.database import Database

CATEGORY: Final = "copilot"
NAME: Final = "message"
ROWS_AT_ONCE: Final = 1_000
BODY_BEGIN: Final = b'{"messages":['
BODY_END: Final = b"]}"

_FIRST: Final = select(func.min(events.c.application).label("name")).cte(
    "applications", recursive=True
)
_NEXT: Final = select(func.min(events.c.application)).where(
    events.c.application > _FIRST.c.name
)
# Of what is kept, and not of the keys: the sandbox's key is not among those. Each is
# one step into an index, however many events an application has.
_ALL: Final = _FIRST.union_all(
    select(_NEXT.scalar_subquery()).where(_FIRST.c.name.is_not(None))
)
_APPLICATIONS: Final = select(_ALL.c.name).where(_ALL.c.name.is_not(None))
_ARRIVAL: Final = events.c.received_at
_STATE: Final = select(func.count(), func.min(_ARRIVAL), func.max(_ARRIVAL))
"""What changes whenever messages come or go, those that came first going first."""
_MESSAGES: Final = select(
    events.c.id, _ARRIVAL, events.c.timestamp, events.c.data
).order_by(events.c.at, _ARRIVAL, events.c.id)


class Month(NamedTuple):
    """A calendar month, UTC: from its first instant to the next month's."""

    start: int
    end: int


class CollectedMessage(Struct, frozen=True, gc=False):
    """A message as the messages API would tell it."""

    id: int
    timestamp: str
    text: str
    report_id: Any = UNSET


class CollectedMessages:
    """Reads the current month's messages from the database."""

    def __init__(self, database: Database, clock: Callable[[], int] = now_us) -> None:
        self._database = database
        self._clock = clock

    async def read(self, known: str | None) -> tuple[bytearray | None, str]:
        """The messages as one JSON body, and a tag for exactly these.

        The body is None where they are still those of the tag `known`. Raises
        `StorageError`, and `ValueError` where an event is no message.
        """
        month = month_of(self._clock())
        async with self._database.reading() as connection:
            applications = (await connection.scalars(_APPLICATIONS)).all()
            wanted = _of_month(month, applications)
            # The tag first: PostgreSQL shows the second question what has come since,
            # and a tag that is older than its messages only has them read again.
            state = (await connection.execute(_STATE.where(wanted))).one()
            tag = "-".join(map(str, (month.start, *state)))
            if tag == known:
                return None, tag
            body = bytearray(BODY_BEGIN)
            result = await connection.stream(_MESSAGES.where(wanted))
            async for rows in result.partitions(ROWS_AT_ONCE):
                if len(body) > len(BODY_BEGIN):
                    body += b","
                body += await asyncio.to_thread(_encode, rows)
        body += BODY_END
        return body, tag


def month_of(instant: int) -> Month:
    """The calendar month of an instant."""
    now = datetime.fromtimestamp(instant / US_PER_S, UTC)
    start = datetime(now.year, now.month, 1, tzinfo=UTC)
    december = now.month == 12
    end = start.replace(
        year=now.year + december, month=1 if december else now.month + 1
    )
    return Month(*(int(each.timestamp()) * US_PER_S for each in (start, end)))


def _of_month(month: Month, applications: Sequence[str]) -> ColumnElement[bool]:
    """What is a message of this month; by application, as the index has them."""
    return and_(
        events.c.application.in_(applications),
        events.c.category == CATEGORY,
        events.c.name == NAME,
        events.c.at >= month.start,
        events.c.at < month.end,
    )


def _encode(rows: Sequence[Any]) -> bytes:
    """Rows as JSON objects, with commas between them."""
    return msgspec.json.encode([_message_of(row) for row in rows])[1:-1]


def _message_of(row: Any) -> CollectedMessage:
    """An event as a message; `ValueError` where its type's schema let another thing in.

    The data is read as its schema saw it, where the last of several members of one
    name counts.
    """
    said = msgspec.json.decode(row.data)
    text = said.get("text") if isinstance(said, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"the event {row.id!r} is no message: it has no text")
    report_id = said.get("report_id", UNSET)
    return CollectedMessage(row.received_at, row.timestamp, text, report_id)
