"""The feed: every stored event once, in an order that never changes."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import chain, count
from typing import Any, Final

import asyncpg
import pytest
from aiohttp import ClientError
from pyarrow import BufferReader, parquet
from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection
from yarl import URL

from service.events import feed, feed_statements, follow
from service.events.feed import Feed, read_lines
from service.events.feed_statements import START, Place
from service.events.follow import Follower
from service.events.statements import EventFilter
from service.events.tables import events
from service.events.watermark import Watermark
from service.settings import StorageSettings
from service.storage.database import Database, migrate, open_database
from service.storage.errors import StorageUnavailable
from service.storage.uses import Use
from service.web.parameters import encode_cursor, parse_cursor
from tests.conftest import POSTGRESQL, Client
from tests.events.conftest import (
    Caller,
    Json,
    ask,
    at,
    event,
    next_page,
    on_sqlite,
    paths_of,
    send,
)
from tests.metric_samples import value

BLOCKED: Final = "copilot_usage_events_feed_blocked_seconds"
FEED: Final = "/events?order=arrival"
NDJSON: Final = {"Accept": "application/x-ndjson"}
PARQUET: Final = {"Accept": "application/vnd.apache.parquet"}
ALL: Final = EventFilter(None)

on_postgresql: Final = pytest.mark.parametrize("storage", ["postgresql"], indirect=True)


async def page(
    client: Client, link: URL | str = FEED, **parameters: str | int
) -> tuple[list[Json], URL]:
    """Return the events of a page, and the link to the next one."""
    async with client.get(URL(link), params=parameters) as answer:
        assert answer.status == 200, await answer.text()
        link_to_next = next_page(answer)
        assert link_to_next is not None
        return (await answer.json())["events"], link_to_next


async def follow_all(
    client: Client, link: URL | str = FEED, **parameters: str | int
) -> tuple[list[Json], URL]:
    """Return the events of all pages up to an empty one, and the link of that one."""
    found: list[Json] = []
    while True:
        events_of_page, link = await page(client, link, **parameters)
        if not events_of_page:
            return found, link
        found += events_of_page
        parameters = {}


async def read_all(
    source: Database | Feed, after: Place = START
) -> tuple[list[str], Place]:
    """Return the ids of all events after a place, and the place of the last one."""
    found: list[str] = []
    reader = source if isinstance(source, Feed) else Feed(source)
    while True:
        page = await reader.find_page(after, ALL, 7)
        if page.is_empty:
            return found, after
        chunk = await reader.events(page, ALL, 7)
        found += [each.id for each in chunk.content]
        after = chunk.end


async def send_each(client: Client, *events: Json) -> None:
    """Send events one after the other: PostgreSQL sorts those of a group."""
    for each in events:
        await send(client, each)


async def test_events_come_in_the_order_of_their_arrival(caller: Caller) -> None:
    """Late events follow, and each page links to the next one, also the last."""
    client = await caller()
    nothing, start = await page(client)
    assert nothing == []
    await send_each(
        client, *(at(f"/{n}", timestamp=f"2021-01-0{9 - n} 12:00:00") for n in range(5))
    )

    first, link = await page(client, limit=3)
    assert paths_of(first) == ["/0", "/1", "/2"]
    second, link = await page(client, link)
    assert paths_of(second) == ["/3", "/4"]
    assert await page(client, link) == ([], link)

    await send_each(
        client, at("/late", timestamp="2020-01-01 00:00:00"), at("/0", id="again")
    )
    late, _ = await page(client, link)
    assert paths_of(late) == ["/late", "/0"]
    again, _ = await follow_all(client, start)
    assert again == first + second + late


async def test_a_page_has_what_its_filter_matches(caller: Caller) -> None:
    """Filters by session, category, name and time leave the order as it is."""
    client = await caller()
    kinds = [("s", "c", "n"), ("t", "c", "n"), ("s", "d", "n"), ("s", "c", "m")]
    for place, (session_id, category, name) in enumerate(kinds):
        more = {"session_id": session_id, "category": category, "name": name}
        await send(
            client, at(f"/{place}", timestamp=f"2021-01-0{place + 1} 00:00:00", **more)
        )
    for parameters, expected in (
        ({"session_id": "s"}, ["/0", "/2", "/3"]),
        ({"category": "d"}, ["/2"]),
        ({"name": "n", "session_id": "s"}, ["/0", "/2"]),
        ({"from": "2021-01-02", "to": "2021-01-04"}, ["/1", "/2"]),
        ({"name": "other"}, []),
    ):
        found, link = await page(client, FEED, **parameters)
        assert paths_of(found) == expected
        assert (await page(client, link))[0] == []


async def test_a_rare_filter_is_no_long_query(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page looks at a bounded number of events, and the next one further."""
    monkeypatch.setattr(feed_statements, "MAX_SCANNED", 3)
    client = await caller()
    await send_each(client, *(at(f"/{n}", name=f"n{n}") for n in range(20)))

    found, _ = await follow_all(client, FEED, name="n17", limit=2)
    assert paths_of(found) == ["/17"]
    monkeypatch.setattr(follow, "SCAN_S", 0.0)
    found, link = await page(client, FEED, name="n17", limit=2)
    assert found == []
    pages = 1
    while not found:
        found, link = await page(client, link)
        pages += 1
    assert (paths_of(found), pages) == (["/17"], 6)


HOSTILE: Final = (
    {"data": {"text": 'line\nbreak "quote" \\ \u2028 \x00 \x1f 😀'}, "id": 'a"\\\n'},
    {"session_id": "é\t\x7f", "name": "{'}", "data": {"a": [1.50, {}]}},
    {"timestamp": "0001-01-01T00:00:00+14:00", "data": {}},
)


@pytest.mark.parametrize("headers", [NDJSON, {"Accept": "application/ndjson"}, PARQUET])
async def test_each_format_has_the_same_events(
    caller: Caller, headers: dict[str, str]
) -> None:
    """NDJSON and Parquet have what JSON has, whatever the texts are."""
    client = await caller(future_skew_s=86_400)
    body = (
        "["
        + ",".join(
            json.dumps(event(category="c", **each), indent=2) for each in HOSTILE
        )
        + "]"
    )
    sent = {"X-Sent-At": "2021-01-01T00:00:00Z", "Content-Type": "application/json"}
    async with client.post("/events", data=body, headers=sent) as answer:
        assert (await answer.json())["failed"] == 0
    await send(client, at("/now"))
    expected, link = await page(client)

    async with client.get(FEED, headers=headers) as answer:
        assert answer.status == 200
        assert answer.content_type == headers["Accept"]
        assert next_page(answer) == link
        found = await read(answer.content_type, await answer.read())
    assert found == expected
    async with client.get(link, headers=headers) as answer:
        assert await read(answer.content_type, await answer.read()) == []
        assert next_page(answer) == link
    async with client.head(FEED, headers=headers) as answer:
        assert (answer.status, await answer.read()) == (200, b"")


async def read(media_type: str, body: bytes) -> list[Json]:
    """Return the events of a body."""
    if "parquet" not in media_type:
        return [json.loads(line) for line in body.splitlines()]
    rows: list[Json] = parquet.read_table(BufferReader(body)).to_pylist()
    for row in rows:
        row["data"] = json.loads(row["data"])
        row["received_at"] = row["received_at"].isoformat(timespec="microseconds")
        row["received_at"] = row["received_at"].replace("+00:00", "Z")
        if row["context"] is None:
            del row["context"]
        if row["sent_timestamp"] is None:
            del row["sent_timestamp"]
    return rows


@on_sqlite
@pytest.mark.parametrize("headers", [NDJSON, PARQUET])
@pytest.mark.parametrize("streams", [0, 8])
async def test_a_large_page_is_sent_in_chunks(
    caller: Caller,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
    streams: int,
) -> None:
    """A page of many chunks is one stream, or a shorter page if too many are sent."""
    monkeypatch.setattr(feed, "FIRST_ROWS", 3)
    monkeypatch.setattr(feed, "MIN_ROWS", 2)
    monkeypatch.setattr(feed, "CHUNK_BYTES", 100)
    monkeypatch.setattr("service.events.feed_parquet.GROUP_ROWS", 4)
    monkeypatch.setattr(follow, "MAX_STREAMS", streams)
    client = await caller()
    await send_each(client, *(at(f"/{n}") for n in range(20)))

    link: URL | str = FEED + "&limit=17"
    pages = []
    while True:
        async with client.get(link, headers=headers) as answer:
            found = await read(answer.content_type, await answer.read())
            link = next_page(answer) or ""
        if not found:
            break
        pages.append(paths_of(found))
    assert list(chain.from_iterable(pages)) == [f"/{n}" for n in range(20)]
    assert [len(each) for each in pages] == ([17, 3] if streams else [3] * 6 + [2])


@on_sqlite
async def test_a_chunk_is_bounded_though_events_become_larger(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size of a large chunk is known before it is read."""
    monkeypatch.setattr(feed, "FIRST_ROWS", 8)
    monkeypatch.setattr(feed, "MIN_ROWS", 2)
    monkeypatch.setattr(feed, "UNMEASURED_ROWS", 4)
    monkeypatch.setattr(feed, "CHUNK_BYTES", 2_000)
    async with database.writing() as connection:
        for number in range(40):
            data = "{}" if number < 8 else f'{{"a": "{"x" * 1_000}"}}'
            values = {**values_of(f"{number}"), "data": data}
            await connection.execute(INSERT, values)
    reader = Feed(database)
    page = await reader.find_page(START, ALL, 1_000)
    chunks = [each.content async for each in reader.chunks(page, ALL, read_lines)]
    found = [json.loads(line)["id"] for each in chunks for line in each.splitlines()]
    assert found == [f"{number}" for number in range(40)]
    assert max(map(len, chunks)) < 4 * 1_300


@on_sqlite
@pytest.mark.parametrize("headers", [NDJSON, PARQUET])
async def test_a_page_that_cannot_be_completed_is_no_whole_answer(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    """The connection is reset, so that the consumer requests the page again."""
    client = await caller()
    await send(client, *(at(f"/{n}") for n in range(20)))
    monkeypatch.setattr(feed, "FIRST_ROWS", 3)

    async def fail(*_arguments: object) -> AsyncIterator[object]:
        for _ in range(2):
            yield await failing()

    async def failing() -> object:
        raise StorageUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(Follower, "rest", fail)
        with pytest.raises(ClientError):
            async with client.get(FEED, headers=headers) as answer:
                await answer.read()
    async with client.get(FEED, headers=headers) as answer:
        assert len(await read(answer.content_type, await answer.read())) == 20


@on_sqlite
@pytest.mark.parametrize(
    "parameters, code",
    [
        ({"order": "age"}, "invalid_parameter"),
        ({"wait_s": "1"}, "invalid_parameter"),
        ({"order": "arrival", "wait_s": "31"}, "invalid_parameter"),
        ({"order": "arrival", "wait_s": "-1"}, "invalid_parameter"),
        ({"order": "arrival", "wait_s": "nan"}, "invalid_parameter"),
        ({"order": "arrival", "limit": "1001"}, "invalid_parameter"),
        ({"limit": "1001"}, "invalid_parameter"),
        ({"order": "arrival", "cursor": "x"}, "invalid_parameter"),
        (
            {"order": "arrival", "cursor": encode_cursor([1, 2, "a"])},
            "invalid_parameter",
        ),
        ({"cursor": encode_cursor(Place(1))}, "invalid_parameter"),
        (
            {"order": "arrival", "cursor": encode_cursor([2**63, "", ""])},
            "invalid_parameter",
        ),
        (
            {"order": "arrival", "cursor": encode_cursor(Place(1, "\0"))},
            "invalid_parameter",
        ),
        ({"order": "arrival", "cursor": encode_cursor(Place(2**62))}, "cursor_ahead"),
        (
            {"order": "arrival", "cursor": encode_cursor(Place(2**63 - 1))},
            "cursor_ahead",
        ),
        ({"order": "arrival", "application": "*"}, "forbidden"),
    ],
)
async def test_invalid_requests_are_refused(
    caller: Caller, parameters: dict[str, str], code: str
) -> None:
    """An invalid parameter, a forged cursor or one of a lost future gets a problem."""
    client = await caller()
    await send(client, at("/"))
    async with client.get("/events", params=parameters) as answer:
        assert (await answer.json())["code"] == code


async def test_old_and_strange_cursors_continue(caller: Caller) -> None:
    """A cursor of any earlier place leads to the events after it."""
    client = await caller()
    await send_each(client, at("/1"), at("/2"))
    _, following = await page(client, FEED, limit=1)
    first = parse_cursor(following.query["cursor"], Place)
    assert first is not None
    for place, expected in (
        (Place(-(2**63)), ["/1", "/2"]),
        (Place(-5, "x", "y"), ["/1", "/2"]),
        (Place(first.position, "\U0010ffff", "zzz"), ["/2"]),
    ):
        found, _ = await page(client, FEED, cursor=encode_cursor(place))
        assert paths_of(found) == expected


async def test_a_large_event_ends_a_page_early(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of JSON is bounded in bytes, too, and the next one continues there."""
    monkeypatch.setattr("service.events.queries.MAX_ANSWER_BYTES", 200)
    client = await caller()
    await send(client, *(at("/" + "x" * 100 + str(n)) for n in range(3)))
    found, _ = await page(client)
    assert len(found) == 1
    assert len((await follow_all(client))[0]) == 3


async def test_events_of_all_applications(caller: Caller, database: Database) -> None:
    """A key that may read all can follow and list all applications, and their names."""
    client = await caller(can_read_all=True)
    await send(client, at("/1"), event(session_id=""))
    async with database.writing() as connection:
        for name in ("*", "bank"):
            values = {**values_of(name), "application": name}
            await connection.execute(INSERT, values)
    async with client.get("/applications") as answer:
        assert await answer.json() == {"applications": ["*", "bank", "shop"]}
    for order in ("time", "arrival"):
        body = await ask(client, "/events", order=order, application="*", limit=2)
        found = [each["application"] for each in body["events"]]
        async with client.get(
            "/events", params={"order": order, "application": "*", "limit": 2}
        ) as answer:
            following, _ = await follow_all_of(client, str(next_page(answer)))
        assert sorted([*found, *following]) == ["*", "bank", "shop"]


async def follow_all_of(client: Client, link: str) -> tuple[list[str], None]:
    """Return the applications on a page."""
    async with client.get(URL(link, encoded=True)) as answer:
        body = await answer.json()
    return [each["application"] for each in body["events"]], None


# --- writers -------------------------------------------------------------------------

COLUMNS: Final = (
    "key application id digest session_id category name at timestamp data received_at"
).split()
INSERT: Final = insert(events)
_numbers: Final = count(1)


class RolledBack(Exception):
    """A transaction of a test is rolled back."""


def row(event_id: str, received_at: int = 0) -> tuple[Any, ...]:
    """Return an event as the previous version stores it."""
    key = f"{event_id}-{next(_numbers)}".encode()
    texts = ("s", "c", "n", 0, "2021-01-01 00:00:00", "{}", received_at)
    return (key, "shop", event_id, key, *texts)


def values_of(event_id: str, received_at: int = 0) -> dict[str, Any]:
    """Return the same by column."""
    return dict(zip(COLUMNS, row(event_id, received_at), strict=True))


@asynccontextmanager
async def writer(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection to PostgreSQL, in the schema of a database."""
    async with database.reading() as connection:
        schema = await connection.scalar(select(func.current_schema()))
    own = await asyncpg.connect(POSTGRESQL, server_settings={"search_path": schema})
    try:
        yield own
    finally:
        await own.close()


async def copy(own: asyncpg.Connection, *ids: str) -> None:
    """Insert events by COPY, as this version and the previous one do."""
    records = [row(each) for each in ids]
    await own.copy_records_to_table("events", records=records, columns=COLUMNS)


@on_postgresql
@pytest.mark.services
async def test_a_transaction_that_commits_late_is_not_skipped(
    database: Database,
) -> None:
    """Events of later transactions wait for those of an earlier one, or its end."""
    reader = Feed(database)
    async with writer(database) as first, writer(database) as second:
        for is_committed in (True, False):
            before, place = await read_all(reader)
            early = first.transaction()
            await early.start()
            await copy(first, f"early {is_committed}")
            await copy(second, f"late {is_committed}")
            assert await read_all(reader, place) == ([], place)
            async with second.transaction():
                await copy(second, f"later {is_committed}")
                await (early.commit() if is_committed else early.rollback())
                found, place = await read_all(reader, place)
                expected = [f"late {is_committed}"]
                if is_committed:
                    expected = ["early True", *expected]
                assert found == expected
            found, place = await read_all(reader, place)
            assert found == [f"later {is_committed}"]
            assert (await read_all(reader))[0][: len(before)] == before


@on_postgresql
@pytest.mark.services
async def test_the_last_position_is_no_watermark(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer that trusts the last position skips an event that commits later."""

    async def trust(_mark: Watermark, connection: AsyncConnection) -> tuple[int, int]:
        last = await connection.scalar(feed_statements.LAST_POSTGRESQL) or 0
        return last, last

    monkeypatch.setattr(Watermark, "_look", trust)
    async with writer(database) as first, writer(database) as second:
        early = first.transaction()
        await early.start()
        await copy(first, "early")
        await copy(second, "late")
        found, place = await read_all(database)
        assert found == ["late"]
        await early.commit()
        assert (await read_all(database, place))[0] == []


@on_postgresql
@pytest.mark.services
async def test_only_writers_of_events_hold_the_feed_back(
    database: Database,
) -> None:
    """Idle transactions that read events, or write elsewhere, do not; writers show."""
    async with writer(database) as idle, writer(database) as other:
        async with idle.transaction():
            await idle.fetch("SELECT * FROM events FOR UPDATE")
            await idle.execute("DELETE FROM failed_events; SELECT pg_current_xact_id()")
            await copy(other, "a")
            assert (await read_all(database))[0] == ["a"]
        async with idle.transaction():
            await copy(idle, "b")
            await copy(other, "c")
            look = Watermark(database)
            watermark, last = await look.look()
            assert watermark == 0
            assert await look.look() == (0, last)
            assert value(BLOCKED) > 0
            # A process with an earlier look knows more.
            assert (await read_all(database))[0] == []
        assert await look.look() == (last, last)
        assert value(BLOCKED) == 0
        assert (await read_all(database))[0] == ["a", "b", "c"]


async def write_groups(database: Database, name: str, groups: int) -> list[str]:
    """Store groups of events in transactions of random length; some are rolled back."""
    chance, kept = random.Random(name), []
    for group in range(groups):
        ids = [f"{name}-{group}-{member}" for member in range(3)]
        with suppress(RolledBack):
            async with database.writing(Use.EVENTS) as connection:
                for each in ids:
                    await connection.execute(INSERT, values_of(each))
                    for _ in range(chance.randrange(5)):
                        await asyncio.sleep(0)
                if chance.random() < 0.2:
                    raise RolledBack
            kept += ids
    return kept


async def test_no_event_of_concurrent_processes_is_skipped(
    database: Database, storage: StorageSettings
) -> None:
    """Each committed event of several writers is read once, always in one order."""
    async with AsyncExitStack() as stack:
        writers = []
        for name in "abcd":
            own = await stack.enter_async_context(open_database(storage))
            writers.append(asyncio.create_task(write_groups(own, name, 25)))
        reader, late = [
            asyncio.create_task(follow_until(database, writers, pause))
            for pause in (0, 3)
        ]
        written = list(chain(*[await each for each in writers]))
        found = await reader
        assert sorted(found) == sorted(written)
        assert await late == found
        assert (await read_all(database))[0] == found


async def follow_until(
    database: Database, writers: Sequence[asyncio.Task[Any]], pause: int
) -> list[str]:
    """Return what a consumer reads, until after the end of all writers."""
    found, after, is_over = [], START, False
    while True:
        new, after = await read_all(database, after)
        found += new
        if is_over and not new:
            return found
        is_over = all(each.done() for each in writers)
        for _ in range(pause):
            await asyncio.sleep(0.001)


async def test_events_of_the_previous_version_appear_once(
    database: Database, storage: StorageSettings
) -> None:
    """Existing rows come first, in one order; rows that the old version adds follow."""
    await migrate(storage, "0008")
    times = [5, 1, 5, 5, 3, 2**50]
    async with database.writing() as connection:
        for place, received_at in enumerate(times):
            values = values_of(f"old {place}", received_at)
            await connection.execute(INSERT, values)
    await migrate(storage)
    existing, end = await read_all(database)
    if database.is_sqlite:
        assert existing == [f"old {n}" for n in range(6)]
    else:
        assert existing == [f"old {n}" for n in (1, 4, 0, 2, 3, 5)]

    async with database.writing() as connection:
        values = values_of("added", 0)
        await connection.execute(INSERT, values)
    assert (await read_all(database, end))[0] == ["added"]
    assert (await read_all(database))[0] == [*existing, "added"]
    places = [(await one_by_one(database, n)) for n in range(7)]
    assert places == [*existing, "added"]


async def one_by_one(database: Database, place: int) -> str:
    """Return the id at a place, reading a page for each event."""
    reader, after = Feed(database), START
    for _ in range(place + 1):
        page = await reader.find_page(after, ALL, 1)
        chunk = await reader.events(page, ALL, 1)
        (only,) = chunk.content
        after = chunk.end
    return only.id


async def test_removed_events_are_no_gap(database: Database) -> None:
    """A cursor beneath removed events continues, also after the last was removed."""
    async with database.writing() as connection:
        for place in range(6):
            await connection.execute(INSERT, values_of(f"{place}"))
    page = await Feed(database).find_page(START, ALL, 2)
    second = page.range.until
    async with database.writing() as connection:
        await connection.execute(delete(events).where(events.c.id < "4"))
    found, end = await read_all(database, second)
    assert found == ["4", "5"]
    async with database.writing() as connection:
        await connection.execute(delete(events))
    assert await read_all(database, second) == ([], second)
    async with database.writing() as connection:
        await connection.execute(INSERT, values_of("new"))
    for after in (START, second, end):
        assert (await read_all(database, after))[0] == ["new"]


@on_postgresql
@pytest.mark.services
async def test_the_feed_uses_its_index(database: Database) -> None:
    """A page does not read the events before its cursor."""
    async with database.writing() as connection:
        await connection.execute(
            text(
                "INSERT INTO events (key, application, id, digest, session_id,"
                " category, name, at, timestamp, data, received_at)"
                " SELECT 'k', 'shop', n::text,"
                " 'd', 's', 'c', 'n', n, 't', '{}', n FROM generate_series(1, 20000) n"
            )
        )
        await connection.execute(text("ANALYZE events"))
    part = feed_statements.up_to("postgresql", Place(15_000), 20_000)
    for query in (
        feed_statements.select_newest(part),
        feed_statements.select_end(part, ALL, 100),
        feed_statements.select_lines(part._replace(until=Place(15_100)), ALL),
        feed_statements.select_matches(
            feed_statements.between("postgresql", 19_990, 20_000), ["name"], [("n",)]
        ),
    ):
        async with database.reading() as connection:
            sql = str(
                query.compile(
                    connection.sync_connection, compile_kwargs={"literal_binds": True}
                )
            )
            plan = (await connection.execute(text(f"EXPLAIN {sql}"))).scalars().all()
        assert "ix_events_position" in "\n".join(plan), plan
