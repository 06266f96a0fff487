"""Collected messages: which events count, in which order, and when they changed."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final

import msgspec
import pytest
from sqlalchemy import delete

from service.events.keys import add_key
from service.events.messages import ROWS_AT_ONCE, CollectedMessages, month_of
from service.events.model import Event
from service.events.reading import EventReader
from service.events.schemas import EventTypes
from service.events.store import Arrival, EventStore
from service.events.tables import events
from service.instants import read_instant
from service.storage.database import Database
from tests.events.conftest import event

APRIL: Final = read_instant("2024-04-15T12:00:00Z")
ARRIVAL: Final = read_instant("2024-04-15T12:00:01Z")
NO_MESSAGES: Final = bytearray(b'{"messages":[]}')

Keep = Callable[..., Awaitable[None]]


def said(text: str, timestamp: str, **more: Any) -> dict[str, Any]:
    """An event that tells of a message."""
    data = {"text": text, **more}
    return event(category="copilot", name="message", data=data, timestamp=timestamp)


@pytest.fixture
def collected(database: Database) -> CollectedMessages:
    """The messages of April 2024."""
    return CollectedMessages(database, clock=lambda: APRIL)


@pytest.fixture
async def keep(database: Database) -> Keep:
    """Store events of an application, one arriving a microsecond after the other."""
    arrivals = count(ARRIVAL)
    # Whatever data an event has, the types that are in force let it in.
    reader = EventReader(EventTypes({}, refuses_unknown=False), 60, clock=lambda: 2**62)
    store = EventStore(database)
    for application in ("shop", "forum"):
        await add_key(database, application)

    async def keep(*sent: dict[str, Any] | bytes, application: str = "shop") -> None:
        sources = [
            each if isinstance(each, bytes) else msgspec.json.encode(each)
            for each in sent
        ]
        items = [reader.read(source, application) for source in sources]
        assert all(isinstance(item, Event) for item in items)
        await store.store([Arrival(item, next(arrivals)) for item in items])

    return keep


async def messages_of(collected: CollectedMessages) -> list[dict[str, Any]]:
    """What is collected, as the messages API would tell it."""
    body, _ = await collected.read(None)
    assert body is not None
    messages: list[dict[str, Any]] = msgspec.json.decode(body)["messages"]
    return messages


@pytest.mark.parametrize(
    "now, start, end",
    [
        ("2024-04-15T12:00:00Z", "2024-04-01", "2024-05-01"),
        ("2024-04-01T00:00:00Z", "2024-04-01", "2024-05-01"),
        ("2024-03-31T23:59:59.999999Z", "2024-03-01", "2024-04-01T00:00"),
        ("2024-02-29T00:00:00Z", "2024-02-01", "2024-03-01"),
        ("2024-12-31T23:59:59.999999Z", "2024-12-01", "2025-01-01"),
        ("2025-01-01T00:00:00Z", "2025-01-01", "2025-02-01"),
    ],
)
def test_the_month_of_an_instant(now: str, start: str, end: str) -> None:
    """It goes from its first instant to the next month's, in UTC."""
    month = month_of(read_instant(now))

    assert month == (read_instant(start), read_instant(end))


async def test_a_month_without_messages(collected: CollectedMessages) -> None:
    """It is an empty list, even where nobody has a key yet."""
    assert await messages_of(collected) == []


async def test_messages_are_told_as_the_messages_api_does(
    collected: CollectedMessages, keep: Keep
) -> None:
    """By time and then arrival, of every application, verbatim; ids are arrivals."""
    await keep(
        said("second", "2024-04-02T00:00:00Z", report_id=7),
        said("third", "2024-04-02 00:00:00", report_id="x/8", mood="an extra field"),
    )
    await keep(
        said("fourth", "2024-04-02T02:00:00.000+02:00"),
        said("Prüfung\0\n\u2028", "2024-04-01T00:00"),
        application="forum",
    )

    assert await messages_of(collected) == [
        {
            "id": ARRIVAL + 3,
            "timestamp": "2024-04-01T00:00",
            "text": "Prüfung\0\n\u2028",
        },
        {
            "id": ARRIVAL,
            "timestamp": "2024-04-02T00:00:00Z",
            "text": "second",
            "report_id": 7,
        },
        {
            "id": ARRIVAL + 1,
            "timestamp": "2024-04-02 00:00:00",
            "text": "third",
            "report_id": "x/8",
        },
        {
            "id": ARRIVAL + 2,
            "timestamp": "2024-04-02T02:00:00.000+02:00",
            "text": "fourth",
        },
    ]


@pytest.mark.parametrize(
    "timestamp, number",
    [
        ("2024-03-31T23:59:59.999999Z", 0),
        ("2024-04-01T00:00:00Z", 1),
        ("2024-04-01T01:59:59.999999+02:00", 0),
        ("2024-03-31T22:00:00-02:00", 1),
        ("2024-04-30T23:59:59.999999Z", 1),
        ("2024-05-01T00:00:00Z", 0),
        ("2024-05-01T01:00:00+01:00", 0),
        ("2023-04-15T12:00:00Z", 0),
        ("0001-01-01T00:00:00+14:00", 0),
        ("9999-12-31T23:59:59-14:00", 0),
    ],
)
async def test_the_months_boundaries(
    collected: CollectedMessages, keep: Keep, timestamp: str, number: int
) -> None:
    """The instant counts, whatever its offset; the end is the next month's."""
    await keep(said("Rent?", timestamp))

    assert len(await messages_of(collected)) == number


async def test_other_events_are_ignored(
    collected: CollectedMessages, keep: Keep
) -> None:
    """Only `copilot/message` is one, to the letter."""
    message = said("Rent?", "2024-04-15T12:00:00Z")
    await keep(
        {**message, "name": "answer"},
        {**message, "name": "Message"},
        {**message, "category": "page interaction"},
        {**message, "category": "copilot "},
    )

    assert await messages_of(collected) == []


async def test_more_than_is_read_at_once(
    collected: CollectedMessages, keep: Keep
) -> None:
    """However many there are, each is told once and in order."""
    number = 2 * ROWS_AT_ONCE + 1
    await keep(*(said(f"{each}", "2024-04-15T12:00:00Z") for each in range(number)))

    messages = await messages_of(collected)

    assert [each["text"] for each in messages] == [f"{n}" for n in range(number)]


@pytest.mark.parametrize(
    "report_id",
    [
        *("0", "-0", "-5", "1.0", "1E2", "123456789012345678901234567890"),
        *('""', '" "', '"7"', '"../x"', '"\\u0000"', '"Prüfung"', '"😀"'),
        '"' + "x" * 5_000 + '"',
        *("null", "true", "[1]", '{"a":{}}'),
    ],
)
async def test_report_ids_stay_what_they_are(
    collected: CollectedMessages, keep: Keep, report_id: str
) -> None:
    """Those that the shipped schema lets in, and whatever another one would."""
    message = said("Rent?", "2024-04-15T12:00:00Z", report_id="HERE")
    source = msgspec.json.encode(message)
    await keep(source.replace(b'"HERE"', report_id.encode()))

    (told,) = await messages_of(collected)

    assert repr(told["report_id"]) == repr(msgspec.json.decode(report_id))


async def test_a_member_that_comes_twice(
    collected: CollectedMessages, keep: Keep
) -> None:
    """The last one counts, as it did for the schema; it spoils nobody's bill."""
    message = msgspec.json.encode(said("HERE", "2024-04-15T12:00:00Z"))
    await keep(message.replace(b'"HERE"', b'5,"report_id":7,"text":"Rent?"'))

    (told,) = await messages_of(collected)

    assert (told["text"], told["report_id"]) == ("Rent?", 7)


@pytest.mark.parametrize("data", [{}, {"text": 5}, {"text": None}, {"Text": "Rent?"}])
async def test_an_event_that_is_no_message(
    collected: CollectedMessages, keep: Keep, data: dict[str, Any]
) -> None:
    """Where another schema let it in, it is named, and not left out of the bill."""
    message = said("Rent?", "2024-04-15T12:00:00Z")
    await keep(message, {**message, "data": data, "id": "odd"})

    with pytest.raises(ValueError, match="'odd' is no message: it has no text"):
        await collected.read(None)


# --- the tag ------------------------------------------------------------------------


async def test_what_is_known_is_not_read_again(
    collected: CollectedMessages, keep: Keep
) -> None:
    """As long as the month's messages are the same, whatever else is collected."""
    message = said("Rent?", "2024-04-15T12:00:00Z")
    await keep(message)
    _, tag = await collected.read(None)
    await keep(
        message,  # a duplicate
        {**message, "name": "answer"},
        said("Rent?", "2024-05-01T00:00:00Z"),
    )

    assert await collected.read(tag) == (None, tag)
    assert await collected.read("another tag") != (None, tag)


@pytest.mark.parametrize(
    "timestamp", ["2024-04-15T12:00:00Z", "2024-04-01T00:00:00Z"], ids=["now", "late"]
)
async def test_a_new_message_changes_the_tag(
    collected: CollectedMessages, keep: Keep, timestamp: str
) -> None:
    """So does one that comes late, and stands before the others."""
    await keep(said("Rent?", "2024-04-10T12:00:00Z"))
    _, tag = await collected.read(None)
    await keep(said("Deposit?", timestamp))

    body, changed = await collected.read(tag)

    assert body is not None
    assert changed != tag


async def test_one_goes_and_one_comes(
    collected: CollectedMessages, keep: Keep, database: Database
) -> None:
    """Removing the first to arrive is seen, even if their number stays the same."""
    await keep(said("Rent?", "2024-04-15T12:00:00Z"))
    await keep(said("Deposit?", "2024-04-15T12:00:00Z"))
    _, tag = await collected.read(None)
    async with database.writing() as connection:
        first = events.c.received_at == ARRIVAL
        await connection.execute(delete(events).where(first))
    body, without = await collected.read(tag)
    assert body is not None
    await keep(said("Lease?", "2024-04-15T12:00:00Z"))
    body, changed = await collected.read(without)

    assert body is not None
    assert len({tag, without, changed}) == 3


async def test_the_month_ends(database: Database, keep: Keep) -> None:
    """A new month begins empty, and is never taken for the one before."""
    await keep(said("Rent?", "2024-04-15T12:00:00Z"))
    now = APRIL
    collected = CollectedMessages(database, clock=lambda: now)
    _, april = await collected.read(None)
    now = int(datetime(2024, 5, 1, tzinfo=UTC).timestamp()) * 1_000_000
    in_may, may = await collected.read(april)
    now = int(datetime(2024, 6, 1, tzinfo=UTC).timestamp()) * 1_000_000
    in_june, _ = await collected.read(may)

    assert [in_may, in_june] == [NO_MESSAGES, NO_MESSAGES]
