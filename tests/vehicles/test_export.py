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

from service.settings import StorageSettings
from service.storage.database import open_database
from service.vehicles import export
from service.vehicles.errors import ExportFailed
from service.vehicles.export import MAX_EXPORTS, Exports, open_exports
from service.vehicles.fields import NAMES
from service.vehicles.model import VehicleSource
from service.vehicles.store import VehicleStore
from tests.conftest import Client, storage_at
from tests.leftovers import child_pids
from tests.metric_samples import growth
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
    store_expired,
    vin,
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
LANE_REFUSED: Final = "copilot_usage_lane_refused_total"
PASSWORD: Final = "p'ass word"


@pytest.fixture
async def caller(serve: Serve) -> Caller:
    """An application that asks the sandbox of the tests."""
    return await serve()


@pytest.fixture
async def wide(serve: Serve, storage: StorageSettings) -> Client:
    """An application whose file is too large to be sent before it is read."""
    await fill(storage, WIDE_ROWS, is_wide=True)
    limits = {"trusted_proxies": ("127.0.0.1",)}
    return (await serve(sandbox=IN_SANDBOX, limits=limits)).client


# --- what is sent -------------------------------------------------------------------


async def test_cached_vehicles_are_exported(
    caller: Caller, stored: VehicleStore, added: Added, log_entries: list[EventDict]
) -> None:
    """All vehicles that were looked up, in the order of their VINs, with the time."""
    await caller.look_up_all([*KNOWN, UNKNOWN])
    found = await stored.find(KNOWN)

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


async def refusal(client: Client, address: str) -> tuple[int, str]:
    """Return the status and the code of an export that is refused."""
    headers = {"X-Forwarded-For": address}
    async with client.get(PATH, headers=headers) as answer:
        assert int(answer.headers["Retry-After"]) >= 1
        problem = await answer.json(content_type=None)
        return answer.status, problem["code"]


@on_sqlite
async def test_number_of_exports_is_limited(
    wide: Client, until: Until, added: Added, log_entries: list[EventDict]
) -> None:
    """One more gets 503 at once, which says when to ask again; then it is let in."""
    refused = growth()
    answers = [(await begin(wide, client))[0] for client in ("192.0.2.1", "192.0.2.2")]

    problem = await refusal(wide, "192.0.2.3")
    for answer in answers:
        answer.close()
    await until(lambda: len(failures(log_entries)) == MAX_EXPORTS)

    assert problem == (503, "too_many_exports")
    assert refused(LANE_REFUSED, lane="vehicle_exports", reason="queue_full") == 1
    assert added("exports", outcome="LaneFull") == 0
    assert len(await read_table(wide)) == WIDE_ROWS


@on_sqlite
async def test_one_client_has_not_all_exports(wide: Client) -> None:
    """Its second export gets 503, and another client gets its file."""
    first, _ = await begin(wide, "192.0.2.1")

    assert await refusal(wide, "192.0.2.1") == (503, "too_many_exports")
    assert len(await read_table(wide)) == WIDE_ROWS
    first.close()


# --- failing at once ----------------------------------------------------------------


async def test_export_that_cannot_start_is_a_problem(
    caller: Caller, storage: StorageSettings, added: Added, log_entries: list[EventDict]
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
    exports = Exports(
        storage_at(f"sqlite+aiosqlite:///{tmp_path}/a.db"), VehicleSource("a")
    )

    for _ in range(MAX_EXPORTS + 1):
        with pytest.raises(ExportFailed, match="no process can be started"):
            async with exports.export():
                pass


async def test_a_password_is_not_logged(log_entries: list[EventDict]) -> None:
    """Not even where the driver repeats what it was told to connect with."""
    url = "postgresql+asyncpg://u:p%27ass%20word@127.0.0.1:1/d?ssl=p%27ass%20word"

    with pytest.raises(ExportFailed):
        async with Exports(storage_at(url), VehicleSource("a")).export():
            pass

    ((_, reason),) = failures(log_entries)
    assert 'invalid sslmode value: "***"' in reason
    assert PASSWORD not in str(log_entries)


# --- a database that does not answer ------------------------------------------------


@asynccontextmanager
async def silent_server() -> AsyncIterator[tuple[StorageSettings, asyncio.Semaphore]]:
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


async def test_silent_database_is_a_failure() -> None:
    """A database that says nothing within `storage.timeout_s` is not waited for."""
    before = child_pids()
    async with silent_server() as (storage, _):
        hasty = replace(storage, timeout_s=0.01)
        with pytest.raises(ExportFailed, match="does not answer in time"):
            await export_all(Exports(hasty, VehicleSource("a")))

    assert child_pids() == before


async def test_close_ends_exports(log_entries: list[EventDict]) -> None:
    """Children that wait for a database are gone when it returns."""
    before = child_pids()
    async with (
        silent_server() as (storage, connected),
        open_exports(storage, VehicleSource("a")) as exports,
    ):
        tasks = [asyncio.create_task(export_all(exports)) for _ in range(MAX_EXPORTS)]
        for _ in tasks:
            await connected.acquire()

    assert child_pids() == before
    assert all(task.cancelled() for task in tasks)
    assert [kind for kind, _ in failures(log_entries)] == ["CancelledError"] * 2


# --- further columns ----------------------------------------------------------------


async def test_columns_of_vpic(serve: Serve, stored: VehicleStore) -> None:
    """Columns that are asked for follow the others, null where vPIC has no value."""
    one = await serve()
    await one.look_up_all([VIN, {"vin": VIN, "model_year": 2014}])
    await store_expired(stored, vin(1))
    for fields, names in (
        ("GVWR,fueltypeprimary", ["FuelTypePrimary", "GVWR"]),
        ("all", sorted(NAMES)),
    ):
        async with one.client.get(PATH, params={"fields": fields}) as answer:
            assert answer.status == 200
            table = table_of(await answer.read())
        assert table.column_names == [*SCHEMA.names, *names]
        rows = {each["vin"]: each for each in table.to_pylist()}
        assert rows.keys() == {VIN, vin(1)}
        assert rows[VIN]["FuelTypePrimary"] == "Diesel"
        assert rows[vin(1)]["GVWR"] is None
        assert rows[vin(1)]["make"] == OTHER.make
    async with one.client.get(PATH, params={"fields": "nothing"}) as answer:
        assert answer.status == 400
