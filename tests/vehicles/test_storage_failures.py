"""Storage failures: look-ups work without storage, and removals report an error."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from aiohttp import web
from sqlalchemy.engine import make_url
from structlog.typing import EventDict

from service.app import create_app
from service.sandbox.server import RunningSandbox
from service.settings import Settings, StorageSettings
from service.storage import engines
from service.storage.database import open_database
from service.storage.errors import StorageUnusable
from service.vehicles.store import VehicleStore
from tests.conftest import POSTGRESQL, Hurried, always
from tests.vehicles.conftest import (
    KNOWN,
    OTHER,
    VIN,
    Added,
    Caller,
    Serve,
    VpicRequests,
    fields_of,
    on_sqlite,
    store_expired,
    vin,
    vins,
)

CACHED: Final = vin(77)


async def refusal(settings: Settings) -> str:
    """Return the error with which an application refuses to start."""
    runner = web.AppRunner(create_app(settings))
    with pytest.raises(StorageUnusable) as raised:
        await runner.setup()
    await runner.cleanup()
    return str(raised.value)


async def results_of(one: Caller, asked_for: list[Any]) -> list[Any]:
    """Look up several VINs, and return the result of each."""
    answer = await one.look_up_all(asked_for)
    assert answer.status == 200
    return list(answer.body["results"])


# --- storage: SQLite ----------------------------------------------------------------


def path_of(storage: StorageSettings) -> Path:
    """Return the path of the SQLite file."""
    return Path(str(make_url(storage.url).database))


@contextmanager
def locked(storage: StorageSettings) -> Iterator[None]:
    """Hold the write lock of the database by another connection."""
    with closing(sqlite3.connect(path_of(storage))) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.rollback()


async def drop_table(storage: StorageSettings) -> None:
    """Remove the table of vehicles."""
    async with open_database(storage) as opened, opened.writing() as connection:
        await connection.exec_driver_sql("DROP TABLE vehicles")


def not_stored_entries(entries: list[EventDict]) -> list[EventDict]:
    """Return the log entries of results that were not stored, without request ids."""
    own = [each for each in entries if each["event"] == "vehicle.not_kept"]
    return [{name: each[name] for name in each if name != "request_id"} for each in own]


@on_sqlite
async def test_a_locked_database(
    serve: Serve,
    stored: VehicleStore,
    storage: StorageSettings,
    received: VpicRequests,
    log_entries: list[EventDict],
) -> None:
    """Results of vPIC are returned although they cannot be stored; removals fail."""
    await store_expired(stored, CACHED, days=1)
    one = await serve(storage={"lock_timeout_s": 0.05})
    with locked(storage):
        single, (first, second) = await one.look_up(VIN), await results_of(one, vins(2))
        removed = await one.remove(CACHED)
        nothing = await one.remove(VIN)

    assert single.body["cached_result"] is False
    assert single.headers["Cache-Status"] == "copilot-usage; fwd=miss"
    assert first["cached_result"] is second["cached_result"] is False
    assert removed.problem == (503, "storage_unavailable")
    assert int(removed.headers["Retry-After"]) >= 1
    assert nothing.body["cache_delete_success"] is False
    assert not_stored_entries(log_entries) == [
        {
            "event": "vehicle.not_kept",
            "log_level": "warning",
            "vins": count,
            "reason": "database is locked",
        }
        for count in (1, 2)
    ]
    assert (await one.look_up(VIN)).headers["Cache-Status"].endswith("stored")
    assert (await one.remove(VIN)).body["cache_delete_success"] is True
    assert received.singles(VIN) == 2


@on_sqlite
async def test_a_full_disk(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, log_entries: list[EventDict]
) -> None:
    """Look-ups work on a full disk, and a result is stored whole or not at all."""
    limit = "PRAGMA max_page_count = 110"
    monkeypatch.setattr(engines, "SQLITE_PRAGMAS", (*engines.SQLITE_PRAGMAS, limit))
    one = await serve(vehicles={"held_s": 0.0})
    many = vins(1_500)

    for at in range(0, len(many), 500):
        told = await results_of(one, many[at : at + 500])
        assert not any("error" in each for each in told)

    reasons = {each["reason"] for each in not_stored_entries(log_entries)}
    assert reasons == {"database or disk is full"}
    assert (await one.look_up(vin(0))).body["cached_result"] is True
    assert (await one.look_up(many[-1])).body["cached_result"] is False


# --- storage: PostgreSQL ------------------------------------------------------------

on_postgresql: Final = pytest.mark.parametrize(
    "storage",
    [pytest.param("postgresql", marks=pytest.mark.services)],
    indirect=True,
)


async def execute(storage: StorageSettings, statement: str) -> None:
    """Execute a statement in this test's schema, on a connection of its own."""
    schema = make_url(storage.url).query["schema"]
    connection = await asyncpg.connect(POSTGRESQL)
    try:
        await connection.execute(f"SET search_path TO {schema}")
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
async def role() -> AsyncIterator[str]:
    """The database role of one application, which identifies its connections."""
    connection = await asyncpg.connect(POSTGRESQL)
    name = f"cut_{id(connection)}"
    await connection.execute(f"CREATE ROLE {name} LOGIN SUPERUSER")
    yield name
    await connection.execute(f"DROP ROLE {name}")
    await connection.close()


@on_postgresql
async def test_connections_that_are_cut(
    serve: Serve, storage: StorageSettings, stored: VehicleStore, role: str
) -> None:
    """A connection that the server has closed is replaced, and no request fails."""
    await store_expired(stored, VIN, days=1)
    url = storage.url.replace("postgres@", f"{role}@")
    one = await serve(vehicles={"held_s": 0.0}, storage={"url": url})
    assert (await one.look_up(VIN)).status == 200
    await execute(
        storage,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "  # noqa: S608
        f"WHERE usename = '{role}'",
    )

    answer = await one.look_up(VIN)

    assert answer.body == {"vin": VIN, **fields_of(OTHER), "cached_result": True}


async def test_a_table_that_is_gone(
    serve: Serve,
    stored: VehicleStore,
    storage: StorageSettings,
    log_entries: list[EventDict],
) -> None:
    """Look-ups are answered by vPIC, and removals get 503; each failure is logged."""
    one = await serve()
    await drop_table(storage)

    single = await one.look_up(VIN)
    results = await results_of(one, list(KNOWN))
    removed = await one.remove(VIN)

    assert single.headers["Cache-Status"] == "copilot-usage; fwd=miss"
    assert [each["model"] for each in results] == [
        each.model for each in KNOWN.values()
    ]
    assert removed.problem == (503, "storage_unavailable")
    failed = [
        (each["event"], each["vins"])
        for each in log_entries
        if each["event"].startswith("vehicle.not_")
    ]
    assert failed == [
        ("vehicle.not_read", 1),
        ("vehicle.not_read", len(KNOWN)),
        ("vehicle.not_removed", 1),
    ]
    assert all(each["reason"] for each in log_entries if "vins" in each)


@on_sqlite
async def test_failures_are_counted_by_their_reason(
    serve: Serve,
    storage: StorageSettings,
    sandbox: RunningSandbox,
    added: Added,
    *,
    hurried: Hurried,
) -> None:
    """An alert about vPIC does not count those without the database."""
    sandbox.sandbox.faults = always("hang")
    one = await serve(vehicles={"deadline_s": 10.0, "timeout_s": 60.0})
    async with hurried(10.0):
        await one.look_up(VIN)
    await drop_table(storage)
    async with hurried(10.0):
        await one.look_up(VIN)

    reasons = ("vpic", "storage", "internal")
    failed = [added("lookups", result="failed", reason=each) for each in reasons]
    assert failed == [1, 1, 0]
