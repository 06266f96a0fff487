"""Exports: the file over a socket, how many at once, and what fails at once.

The children that make it are real; `test_export_ends.py` ends them midway.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from msgspec.structs import asdict, replace
from sqlalchemy import text
from structlog.typing import EventDict

from service.settings import Storage
from service.storage.database import open_database
from service.vehicles import export
from service.vehicles.errors import ExportFailed, TooManyExports
from service.vehicles.export import MAX_AT_ONCE, Exports, open_exports
from service.vehicles.model import Entry, Source
from service.vehicles.store import VehicleStore
from tests.conftest import Client, storage_at
from tests.leftovers import child_pids
from tests.vehicles.conftest import (
    KNOWN,
    OTHER,
    UNKNOWN,
    VIN,
    Added,
    Caller,
    Serve,
    Until,
    on_sqlite,
)
from tests.vehicles.exporting import (
    IN_SANDBOX,
    PATH,
    SCHEMA,
    WIDE_ROWS,
    begin,
    failures,
    fill,
    named,
    read_table,
    row,
    table_of,
)

HEADERS: Final = {
    "Content-Type": "application/vnd.apache.parquet",
    "Content-Disposition": 'attachment; filename="vehicles.parquet"',
    "Cache-Control": "no-store",
}
PASSWORD: Final = "p'ass word"


@pytest.fixture
async def caller(serve: Serve) -> Caller:
    """An application that asks the sandbox of the tests."""
    return await serve()


@pytest.fixture
async def wide(serve: Serve, storage: Storage) -> Client:
    """An application whose file is too large to be sent before it is read."""
    await fill(storage, WIDE_ROWS, is_wide=True)
    return (await serve(sandbox=IN_SANDBOX)).client


# --- what is sent -------------------------------------------------------------------


async def test_what_is_kept_is_exported(
    caller: Caller, kept: VehicleStore, added: Added, log_entries: list[EventDict]
) -> None:
    """All vehicles that were looked up, in the order of their VINs, with the time."""
    await caller.look_up_all([*KNOWN, UNKNOWN])
    found = await kept.find(KNOWN)

    async with caller.client.get(PATH) as answer:
        file = await answer.read()

    table = table_of(file)
    assert answer.status == 200
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "X-Request-ID" in answer.headers
    assert table.schema == SCHEMA
    at = {vin: entry.fetched_at for vin, (entry, _) in found.items() if entry}
    assert table.to_pylist() == [
        row(vin, *asdict(KNOWN[vin]).values(), at=at[vin]) for vin in sorted(KNOWN)
    ]
    assert added("exports", outcome="success") == 1
    (finished,) = named(log_entries, "vehicle.export.finished")
    assert (finished["rows"], finished["bytes"]) == (len(KNOWN), len(file))


async def test_what_is_not_kept_is_left_out(
    caller: Caller, storage: Storage, kept: VehicleStore
) -> None:
    """What was removed, what could not be decoded, and what others have told."""
    await caller.look_up_all([VIN, UNKNOWN])
    async with open_database(storage) as database:
        other = VehicleStore(database, Source("https://vpic.example"))
        await other.keep({VIN: Entry(OTHER, 1), UNKNOWN: Entry(OTHER, 1)}, {})

    assert [each["vin"] for each in await read_table(caller.client)] == [VIN]
    await caller.remove(VIN)
    assert await read_table(caller.client) == []


async def test_nothing_kept_is_an_empty_table(caller: Caller) -> None:
    """It has the columns, and no rows."""
    assert await read_table(caller.client) == []


@on_sqlite
async def test_head_makes_no_file(
    caller: Caller, log_entries: list[EventDict], added: Added
) -> None:
    """The headers are the same, and no child is started for them."""
    async with caller.client.head(PATH) as answer:
        assert answer.status == 200
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS

    assert not named(log_entries, "vehicle.export.started")
    assert added("exports", outcome="success") == 0


async def test_a_large_file_is_sent_as_it_is_read(
    wide: Client, log_entries: list[EventDict]
) -> None:
    """Nothing is finished before the caller has read on, and then it is whole."""
    answer, child = await begin(wide)

    assert not named(log_entries, "vehicle.export.finished")
    assert child in child_pids()
    table = table_of(b"PAR1" + await answer.read())
    assert table["vin"].to_pylist() == [f"{n:017}" for n in range(WIDE_ROWS)]


# --- too many -----------------------------------------------------------------------


@on_sqlite
async def test_so_many_at_once_and_no_more(
    wide: Client, until: Until, added: Added, log_entries: list[EventDict]
) -> None:
    """One more gets 503 at once, which says when to ask again; then it is let in."""
    answers = [(await begin(wide))[0] for _ in range(MAX_AT_ONCE)]

    async with wide.get(PATH) as refused:
        problem = await refused.json(content_type=None)
    for answer in answers:
        answer.close()
    await until(lambda: len(failures(log_entries)) == MAX_AT_ONCE)

    assert (refused.status, problem["code"]) == (503, "too_many_exports")
    assert refused.headers["Retry-After"] == "5"
    assert added("exports", outcome="TooManyExports") == 1
    assert len(await read_table(wide)) == WIDE_ROWS


# --- failing at once ----------------------------------------------------------------


async def test_what_cannot_begin_is_a_problem(
    caller: Caller, storage: Storage, added: Added, log_entries: list[EventDict]
) -> None:
    """The caller gets 503 and no word of the database's; the log has those."""
    async with open_database(storage) as database, database.writing() as connection:
        await connection.execute(text("DROP TABLE vehicles"))

    async with caller.client.get(PATH) as answer:
        problem = await answer.json(content_type=None)

    assert (answer.status, problem["code"]) == (503, "export_failed")
    assert "Retry-After" in answer.headers
    assert "vehicles" not in problem["detail"]
    ((error_type, reason),) = failures(log_entries)
    assert error_type == "ExportFailed"
    assert "vehicles" in reason
    assert added("exports", outcome="ExportFailed") == 1


async def test_a_program_that_cannot_be_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is a failed export, after which others may run."""
    monkeypatch.setattr(export, "COMMAND", (str(tmp_path / "missing"),))
    exports = Exports(storage_at(f"sqlite+aiosqlite:///{tmp_path}/a.db"), Source("a"))

    for _ in range(MAX_AT_ONCE + 1):
        with pytest.raises(ExportFailed, match="no process can be started"):
            async with exports.export():
                pass


async def test_a_password_is_not_logged(log_entries: list[EventDict]) -> None:
    """Not even where the driver repeats what it was told to connect with."""
    url = "postgresql+asyncpg://u:p%27ass%20word@127.0.0.1:1/d?ssl=p%27ass%20word"

    with pytest.raises(ExportFailed):
        async with Exports(storage_at(url), Source("a")).export():
            pass

    ((_, reason),) = failures(log_entries)
    assert 'invalid sslmode value: "***"' in reason
    assert PASSWORD not in str(log_entries)


# --- a database that does not answer ------------------------------------------------


@asynccontextmanager
async def silent_server() -> AsyncIterator[tuple[Storage, asyncio.Semaphore]]:
    """A server that takes connections, counts them, and never says a word."""
    connected = asyncio.Semaphore(0)

    async def accept(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        connected.release()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield (
            storage_at(f"postgresql+asyncpg://u@127.0.0.1:{port}/d?ssl=disable"),
            connected,
        )


async def export_all(exports: Exports) -> None:
    """Read a file to its end."""
    async with exports.export() as made:
        while await made.read():
            pass


async def test_silence_is_a_failure() -> None:
    """A database that says nothing within `storage.timeout_s` is not waited for."""
    before = child_pids()
    async with silent_server() as (storage, _):
        hasty = replace(storage, timeout_s=0.01)
        with pytest.raises(ExportFailed, match="does not answer in time"):
            await export_all(Exports(hasty, Source("a")))

    assert child_pids() == before


async def test_no_export_takes_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut off after a time, whoever it is that is slow."""
    monkeypatch.setattr(export, "MAX_S", 0.01)
    async with silent_server() as (storage, _):
        with pytest.raises(ExportFailed, match=r"not taken within 0\.01 s"):
            await export_all(Exports(storage, Source("a")))


async def test_closing_ends_what_is_under_way(log_entries: list[EventDict]) -> None:
    """Children that wait for a database are gone when it returns."""
    before = child_pids()
    async with (
        silent_server() as (storage, connected),
        open_exports(storage, Source("a")) as exports,
    ):
        tasks = [asyncio.create_task(export_all(exports)) for _ in range(MAX_AT_ONCE)]
        for _ in tasks:
            await connected.acquire()
        with pytest.raises(TooManyExports):
            await export_all(exports)

    assert child_pids() == before
    assert all(task.cancelled() for task in tasks)
    assert [kind for kind, _ in failures(log_entries)] == ["CancelledError"] * 2
