"""Collected messages: their selection, order and JSON form, and the tag of a period."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final

import msgspec
import pytest
from sqlalchemy import delete, insert

from service.events.collected_messages import BATCH_ROWS, CollectedMessages, month_of
from service.events.model import Event
from service.events.parsing import EventParser
from service.events.schemas import EventTypes
from service.events.store import EventStore, ReceivedEvent
from service.events.tables import events
from service.instants import read_instant
from service.keys.store import add_key
from service.settings import StorageSettings
from service.storage.database import Database, migrate
from tests.events.conftest import event

APRIL: Final = read_instant("2024-04-15T12:00:00Z")
ARRIVAL: Final = read_instant("2024-04-15T12:00:01Z")
NO_MESSAGES: Final = bytearray(b'{"messages":[]}')

Store = Callable[..., Awaitable[None]]


def message_event(text: str, timestamp: str, **more: Any) -> dict[str, Any]:
    """Return an event with a message."""
    data = {"text": text, **more}
    return event(category="copilot", name="message", data=data, timestamp=timestamp)


@pytest.fixture
def collected(database: Database) -> CollectedMessages:
    """The messages of April 2024."""
    return CollectedMessages(database, clock=lambda: APRIL)


@pytest.fixture
async def store_events(database: Database) -> Store:
    """A function that stores events, which arrive one microsecond after the other."""
    arrivals = count(ARRIVAL)
    # Without types, any data of an event is valid.
    parser = EventParser(EventTypes({}, refuses_unknown=False), 60, clock=lambda: 2**62)
    store = EventStore(database)
    for application in ("shop", "forum"):
        await add_key(database, application)

    async def store_sent(
        *sent: dict[str, Any] | bytes, application: str = "shop"
    ) -> None:
        sources = [
            each if isinstance(each, bytes) else msgspec.json.encode(each)
            for each in sent
        ]
        items = [parser.parse(source, application) for source in sources]
        assert all(isinstance(item, Event) for item in items)
        await store.store([ReceivedEvent(item, next(arrivals)) for item in items])

    return store_sent


async def messages_of(collected: CollectedMessages) -> list[dict[str, Any]]:
    """Return the collected messages in the form of the messages API."""
    body, _ = await collected.read(None)
    assert body is not None
    messages: list[dict[str, Any]] = msgspec.json.decode(body)["messages"]
    return messages


@pytest.mark.parametrize(
    "now, start, end",
    [
        ("2024-03-31T23:59:59.999999Z", "2024-03-01", "2024-04-01T00:00"),
        ("2024-12-31T23:59:59.999999Z", "2024-12-01", "2025-01-01"),
        ("2025-01-01T00:00:00Z", "2025-01-01", "2025-02-01"),
    ],
)
def test_the_month_of_an_instant(now: str, start: str, end: str) -> None:
    """A month begins at its first instant in UTC and ends at the next month's."""
    month = month_of(read_instant(now))

    assert month == (read_instant(start), read_instant(end))


async def test_messages_have_the_form_of_the_messages_api(
    collected: CollectedMessages, store_events: Store
) -> None:
    """Messages of all applications are ordered by time and then arrival."""
    await store_events(
        message_event("second", "2024-04-02T00:00:00Z", report_id=7),
        message_event(
            "third", "2024-04-02 00:00:00", report_id="x/8", mood="an extra field"
        ),
    )
    await store_events(
        message_event("fourth", "2024-04-02T02:00:00.000+02:00"),
        message_event("Prüfung\0\n\u2028", "2024-04-01T00:00"),
        application="forum",
    )

    names = ("id", "timestamp", "text", "report_id")
    messages = await messages_of(collected)
    last, first, second, third = (each["id"] for each in messages)
    assert len({last, first, second, third}) == len(messages)
    # Scripts of pages read them as floats.
    assert max(last, first, second, third) < 2**53
    told = [
        (last, "2024-04-01T00:00", "Prüfung\0\n\u2028"),
        (first, "2024-04-02T00:00:00Z", "second", 7),
        (second, "2024-04-02 00:00:00", "third", "x/8"),
        (third, "2024-04-02T02:00:00.000+02:00", "fourth"),
    ]
    assert messages == [dict(zip(names, each, strict=False)) for each in told]


async def test_ids_of_equal_arrivals_are_unique(
    collected: CollectedMessages, database: Database, parser: EventParser
) -> None:
    """Messages of two processes may arrive at once; retention changes no id."""
    sent = [
        msgspec.json.encode(message_event(text, "2024-04-02T00:00:00Z"))
        for text in "abc"
    ]
    items = [ReceivedEvent(parser.parse(each, "shop"), ARRIVAL) for each in sent]
    for item in items:
        await EventStore(database).store([item])

    before = {each["text"]: each["id"] for each in await messages_of(collected)}
    assert len(set(before.values())) == len(sent)
    async with database.writing() as connection:
        first = events.c.data.contains('"a"')
        await connection.execute(delete(events).where(first))
    await EventStore(database).store(items[:1])

    after = {each["text"]: each["id"] for each in await messages_of(collected)}
    assert {text: after[text] for text in "bc"} == {text: before[text] for text in "bc"}
    assert len({*before.values(), after["a"]}) == len(sent) + 1


async def test_ids_of_existing_messages(
    collected: CollectedMessages, database: Database, storage: StorageSettings
) -> None:
    """They stay the times of arrival, but for messages that shared one."""
    await migrate(storage, "0008")
    values = {
        "application": "shop",
        "digest": b"d",
        "session_id": "s",
        "key": b"k",
        "category": "copilot",
        "name": "message",
        "at": APRIL,
        "timestamp": "2024-04-15T12:00:00Z",
        "data": '{"text":"Rent?"}',
    }
    arrivals = {"a": ARRIVAL, "b": ARRIVAL + 1, "c": ARRIVAL + 1, "d": ARRIVAL + 2}
    rows = [values | {"id": n, "received_at": each} for n, each in arrivals.items()]
    other = values | {"id": "e", "name": "other", "received_at": ARRIVAL}
    async with database.writing() as connection:
        await connection.execute(insert(events), [*rows, other])
    await migrate(storage)

    ids = [each["id"] for each in await messages_of(collected)]
    assert ids[:2] + ids[3:] == [ARRIVAL, ARRIVAL + 1, ARRIVAL + 2]
    assert len(set(ids)) == len(ids)
    await migrate(storage, "0013")
    await migrate(storage)
    assert [each["id"] for each in await messages_of(collected)] == ids


@pytest.mark.parametrize(
    "timestamp, number",
    [
        ("2024-03-31T23:59:59.999999Z", 0),
        ("2024-04-01T00:00:00Z", 1),
        ("2024-03-31T22:00:00-02:00", 1),
        ("2024-04-30T23:59:59.999999Z", 1),
        ("2024-05-01T00:00:00Z", 0),
        ("0001-01-01T00:00:00+14:00", 0),
        ("9999-12-31T23:59:59-14:00", 0),
    ],
)
async def test_the_months_boundaries(
    collected: CollectedMessages, store_events: Store, timestamp: str, number: int
) -> None:
    """The instant decides, whatever its offset; the end is exclusive."""
    await store_events(message_event("Rent?", timestamp))

    assert len(await messages_of(collected)) == number


async def test_other_events_are_ignored(
    collected: CollectedMessages, store_events: Store
) -> None:
    """Only events of the exact type `copilot/message` are messages."""
    message = message_event("Rent?", "2024-04-15T12:00:00Z")
    await store_events(
        {**message, "name": "answer"},
        {**message, "name": "Message"},
        {**message, "category": "page interaction"},
        {**message, "category": "copilot "},
    )

    assert await messages_of(collected) == []


async def test_messages_of_several_batches(
    collected: CollectedMessages, store_events: Store
) -> None:
    """Each message appears once and in order."""
    number = 2 * BATCH_ROWS + 1
    await store_events(
        *(message_event(f"{each}", "2024-04-15T12:00:00Z") for each in range(number))
    )

    messages = await messages_of(collected)

    assert [each["text"] for each in messages] == [f"{n}" for n in range(number)]


@pytest.mark.parametrize(
    "report_id",
    [
        *("0", "-0", "-5", "1.0", "1E2", "123456789012345678901234567890"),
        '"' + "x" * 5_000 + '"',
        *('" "', '"7"', '"\\u0000"', '"😀"', "null", "true", '{"a":{}}'),
    ],
)
async def test_report_ids_are_unchanged(
    collected: CollectedMessages, store_events: Store, report_id: str
) -> None:
    """Any JSON value of `report_id` is passed on."""
    message = message_event("Rent?", "2024-04-15T12:00:00Z", report_id="HERE")
    source = msgspec.json.encode(message)
    await store_events(source.replace(b'"HERE"', report_id.encode()))

    (found,) = await messages_of(collected)

    assert repr(found["report_id"]) == repr(msgspec.json.decode(report_id))


async def test_the_last_of_repeated_members_counts(
    collected: CollectedMessages, store_events: Store
) -> None:
    """As for the schema check, the last member counts."""
    message = msgspec.json.encode(message_event("HERE", "2024-04-15T12:00:00Z"))
    await store_events(message.replace(b'"HERE"', b'5,"report_id":7,"text":"Rent?"'))

    (found,) = await messages_of(collected)

    assert (found["text"], found["report_id"]) == ("Rent?", 7)


@pytest.mark.parametrize("data", [{}, {"text": 5}, {"text": None}, {"Text": "Rent?"}])
async def test_an_event_without_text_is_an_error(
    collected: CollectedMessages, store_events: Store, data: dict[str, Any]
) -> None:
    """The error names the event, which another schema has accepted."""
    message = message_event("Rent?", "2024-04-15T12:00:00Z")
    await store_events(message, {**message, "data": data, "id": "odd"})

    with pytest.raises(ValueError, match="'odd' is no message: it has no text"):
        await collected.read(None)


async def test_unchanged_messages_are_not_read_again(
    collected: CollectedMessages, store_events: Store
) -> None:
    """Duplicates and events of other types or months do not change the tag."""
    message = message_event("Rent?", "2024-04-15T12:00:00Z")
    await store_events(message)
    _, tag = await collected.read(None)
    await store_events(
        message,  # a duplicate
        {**message, "name": "answer"},
        message_event("Rent?", "2024-05-01T00:00:00Z"),
    )

    assert await collected.read(tag) == (None, tag)
    assert await collected.read("another tag") != (None, tag)


@pytest.mark.parametrize(
    "timestamp", ["2024-04-15T12:00:00Z", "2024-04-01T00:00:00Z"], ids=["now", "late"]
)
async def test_a_new_message_changes_the_tag(
    collected: CollectedMessages, store_events: Store, timestamp: str
) -> None:
    """Later and earlier messages change the tag."""
    await store_events(message_event("Rent?", "2024-04-10T12:00:00Z"))
    _, tag = await collected.read(None)
    await store_events(message_event("Deposit?", timestamp))

    body, changed = await collected.read(tag)

    assert body is not None
    assert changed != tag


async def test_a_removal_changes_the_tag(
    collected: CollectedMessages, store_events: Store, database: Database
) -> None:
    """Removing the oldest arrival changes the tag, though the number is the same."""
    await store_events(message_event("Rent?", "2024-04-15T12:00:00Z"))
    await store_events(message_event("Deposit?", "2024-04-15T12:00:00Z"))
    _, tag = await collected.read(None)
    async with database.writing() as connection:
        first = events.c.received_at == ARRIVAL
        await connection.execute(delete(events).where(first))
    body, without = await collected.read(tag)
    assert body is not None
    await store_events(message_event("Lease?", "2024-04-15T12:00:00Z"))
    body, changed = await collected.read(without)

    assert body is not None
    assert len({tag, without, changed}) == 3


async def test_a_new_month_has_another_tag(
    database: Database, store_events: Store
) -> None:
    """A new month is empty, and its tag differs from the month before."""
    await store_events(message_event("Rent?", "2024-04-15T12:00:00Z"))
    now = APRIL
    collected = CollectedMessages(database, clock=lambda: now)
    _, april = await collected.read(None)
    now = int(datetime(2024, 5, 1, tzinfo=UTC).timestamp()) * 1_000_000
    in_may, may = await collected.read(april)
    now = int(datetime(2024, 6, 1, tzinfo=UTC).timestamp()) * 1_000_000
    in_june, _ = await collected.read(may)

    assert [in_may, in_june] == [NO_MESSAGES, NO_MESSAGES]
