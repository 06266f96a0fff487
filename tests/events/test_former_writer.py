"""The previous version's writer beside this one: no event is stored twice."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from itertools import count
from sqlite3 import connect
from typing import Any, Final

import asyncpg
import pytest
from msgspec.structs import astuple
from sqlalchemy import bindparam, func, select, text

from service.events import stored_digests
from service.events.model import Event
from service.events.parsing import EventParser
from service.events.store import EventStore, ReceivedEvent, Stored
from service.events.tables import events
from service.settings import StorageSettings
from service.storage.database import Database, migrate, open_database
from service.storage.errors import Collided
from service.storage.uses import Use
from tests.events.conftest import PAGE, event

FORMER_COLUMNS: Final = (
    "key application id digest session_id category name at timestamp data received_at"
).split()
FORMER_INSERT: Final = (
    'INSERT OR FAIL INTO events ("key", application, id, digest, session_id, category, '
    "name, at, timestamp, data, received_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
FORMER_LOOK_UP: Final = select(events.c.key, events.c.digest).where(
    events.c.key.in_(bindparam("keys", expanding=True))
)
LARGE_GROUP: Final = 33_000
"""More events than PostgreSQL permits values in a statement."""

Make = Callable[..., ReceivedEvent]
_arrivals: Final = count(1)


@pytest.fixture
def received(parser: EventParser) -> Make:
    """A factory of events, each with a later time of arrival."""

    def make(application: str = "shop", **more: Any) -> ReceivedEvent:
        source = json.dumps(event(**more)).encode()
        return ReceivedEvent(parser.parse(source, application), next(_arrivals))

    return make


@pytest.fixture
async def other(storage: StorageSettings, database: Database) -> AsyncIterator[Any]:
    """The writer of the previous version, in a process of its own."""
    async with open_database(storage) as own:
        yield FormerWriter(own)


class FormerWriter:
    """Stores groups by the statements of the previous version."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def store(self, received: Sequence[ReceivedEvent]) -> str:
        """Store a group; return N for each new event, D or C for the others."""
        look_up = False
        while True:
            try:
                async with self._database.writing(Use.EVENTS) as connection:
                    known = await self._known(connection, received) if look_up else {}
                    outcomes, rows = self._compare(received, known)
                    await self._insert(connection, sorted(rows))
                    return outcomes
            except Collided:
                look_up = True

    async def _known(
        self, connection: Any, received: Sequence[ReceivedEvent]
    ) -> dict[bytes, bytes]:
        keys = [each.item.key for each in received if isinstance(each.item, Event)]
        rows = await connection.execute(FORMER_LOOK_UP, {"keys": keys})
        return dict(map(tuple, rows))

    def _compare(
        self, received: Sequence[ReceivedEvent], known: dict[bytes, bytes]
    ) -> tuple[str, list[tuple[Any, ...]]]:
        outcomes, rows = "", []
        for item, received_at in received:
            assert isinstance(item, Event)
            if item.key in known:
                outcomes += "D" if known[item.key] == item.digest else "C"
            else:
                outcomes += "N"
                rows.append(
                    (*astuple(item)[: FORMER_COLUMNS.index("received_at")], received_at)
                )
        return outcomes, rows

    async def _insert(self, connection: Any, rows: Sequence[tuple[Any, ...]]) -> None:
        if self._database.is_sqlite:
            if rows:
                await connection.exec_driver_sql(FORMER_INSERT, list(rows))
            return
        await connection.exec_driver_sql("SELECT 1")
        driver: asyncpg.Connection = (
            await connection.get_raw_connection()
        ).driver_connection
        await driver.copy_records_to_table(
            "events", records=rows, columns=FORMER_COLUMNS
        )


def kinds(stored: Sequence[Stored]) -> str:
    """Return N for new, D for a duplicate, C for a conflict."""
    return "".join("N" if s.is_new else "C" if s.conflict else "D" for s in stored)


async def number(database: Database) -> int:
    """Return the number of stored events."""
    async with database.reading() as connection:
        return await connection.scalar(select(func.count()).select_from(events)) or 0


async def test_each_version_finds_the_events_of_the_other(
    database: Database, other: FormerWriter, received: Make
) -> None:
    """Both versions answer duplicate and conflict."""
    store = EventStore(database)

    def group(*names: str, **more: Any) -> list[ReceivedEvent]:
        # Without an id, with one, and of another application with the same ids.
        return [
            received(application, **{**({"id": name} if name else {}), **more})
            for name in names
            for application in ("shop", "bank")
        ]

    assert await other.store(group("", "a")) == "NNNN"
    assert kinds(await store.store(group("", "a", "b"))) == "DDDDNN"
    assert kinds(await store.store(group("a", name="other"))) == "CC"
    other_data = {"data": {**PAGE, "path": "/other"}}
    assert kinds(await store.store(group("", "c", **other_data))) == "NNNN"
    assert await other.store(group("", "c", **other_data)) == "DDDD"
    assert await other.store(group("b", "c")) == "DDCC"
    assert await number(database) == 10


async def test_versions_store_an_event_once_at_the_same_time(
    database: Database, other: FormerWriter, received: Make
) -> None:
    """Of writers of both versions with the same events, one stores each of them."""
    store = EventStore(database)
    groups = [
        [
            received(
                **({} if n % 2 else {"id": str(n)}), timestamp=f"2024-01-01T{n:02}Z"
            )
            for n in range(start, start + 5)
        ]
        for start in range(0, 10, 5)
    ]

    async def store_reversed(group: list[ReceivedEvent]) -> str:
        return kinds(await store.store(group[::-1]))

    outcomes = await asyncio.gather(
        *map(other.store, groups), *map(store_reversed, groups)
    )

    assert sorted("".join(outcomes)) == ["D"] * 10 + ["N"] * 10
    assert await number(database) == 10


async def test_a_large_group_with_duplicates(
    database: Database, received: Make
) -> None:
    """A group may be larger than any limit of a statement, also with duplicates."""
    store = EventStore(database)
    first = received(id="0")
    assert isinstance(first.item, Event)
    values = astuple(first.item)

    def group(start: int, stop: int) -> list[ReceivedEvent]:
        return [
            ReceivedEvent(Event(b"%016d" % n, "shop", str(n), *values[3:]), n + 1)
            for n in range(start, stop)
        ]

    assert kinds(await store.store(group(0, LARGE_GROUP))) == "N" * LARGE_GROUP
    again = await store.store(group(7, LARGE_GROUP + 7))
    assert kinds(again) == "D" * (LARGE_GROUP - 7) + "N" * 7
    assert await number(database) == LARGE_GROUP + 7


@pytest.fixture
def sharing(received: Make) -> tuple[ReceivedEvent, ReceivedEvent]:
    """Two events: the id of the second is the digest of the first one's content."""
    first = received()
    assert isinstance(first.item, Event)
    return first, received(id=first.item.id, name="other")


async def test_a_downgrade_keeps_events_that_share_an_id(
    database: Database,
    storage: StorageSettings,
    sharing: tuple[ReceivedEvent, ReceivedEvent],
) -> None:
    """The id of a content may be sent as the id of another event; none is lost."""
    store = EventStore(database)
    for each in sharing:
        assert kinds(await store.store([each])) == "N"

    for revision in ("0008", "0007", "0006"):
        await migrate(storage, revision)
        assert await number(database) == 2
    await migrate(storage)
    assert await number(database) == 2
    assert kinds(await store.store(sharing)) == "DD"


async def test_events_that_share_an_id_are_known_in_one_group(
    database: Database, sharing: tuple[ReceivedEvent, ReceivedEvent]
) -> None:
    """A group may have both events, of which one or both are stored."""
    store = EventStore(database)

    assert kinds(await store.store(sharing[1:])) == "N"
    assert kinds(await store.store(sharing)) == "ND"
    assert kinds(await store.store([*sharing, *sharing])) == "DDDD"


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_a_look_up_reads_one_entry_of_an_index(database: Database) -> None:
    """SQLite searches a unique index by all of its columns."""
    with closing(connect(str(database.file))) as connection:
        for statement, index, values in (
            (stored_digests._SQLITE_CONTENT, "ux_events_sent", (1, b"", "")),
            (stored_digests._SQLITE_OWN, "ux_events_id", ("", "")),
        ):
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)
            detail = plan.fetchone()[-1]
            assert f"SEARCH events USING INDEX {index}" in detail
            assert "application=?" in detail


@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
@pytest.mark.services
async def test_a_look_up_in_postgresql_joins_no_table(database: Database) -> None:
    """PostgreSQL searches a unique index by all of its columns, for each event."""
    values: dict[str, list[Any]] = {
        "sent_at": [1],
        "digest": [b""],
        "id": [""],
        "application": [""],
    }
    async with database.reading() as connection:
        # Of an empty table, it would read all rows.
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
        for columns, statement in stored_digests._POSTGRESQL:
            explained = text(f"EXPLAIN {statement}")
            arrays = {name: values[name] for name in columns}
            plan = str((await connection.execute(explained, arrays)).all())
            assert "Index Scan using ux_events_" in plan
            for column in columns:
                indexed = "COALESCE(sent_at, at)" if column == "sent_at" else column
                assert f"({indexed} = wanted.{column})" in plan
