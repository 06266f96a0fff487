"""Storage that fails: look-ups go on where they can, and no removal is made up."""

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
from service.settings import Settings, Storage
from service.storage import database
from service.storage.errors import StorageUnusable
from service.vehicles.store import VehicleStore
from tests.conftest import POSTGRESQL
from tests.vehicles.conftest import (
    KNOWN,
    OTHER,
    VIN,
    Asked,
    Caller,
    Serve,
    fields_of,
    keep_old,
    on_sqlite,
    vin,
    vins,
)


async def refusal(settings: Settings) -> str:
    """Why an application does not start with these settings."""
    runner = web.AppRunner(create_app(settings))
    with pytest.raises(StorageUnusable) as raised:
        await runner.setup()
    await runner.cleanup()
    return str(raised.value)


async def results_of(one: Caller, asked_for: list[Any]) -> list[Any]:
    """Look several up; gives what is said of each."""
    answer = await one.look_up_all(asked_for)
    assert answer.status == 200
    return list(answer.body["results"])


# --- storage: SQLite ----------------------------------------------------------------


def path_of(storage: Storage) -> Path:
    """Where the file of SQLite is."""
    return Path(str(make_url(storage.url).database))


@contextmanager
def locked(storage: Storage) -> Iterator[None]:
    """Let another process hold the lock of writers."""
    with closing(sqlite3.connect(path_of(storage))) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.rollback()


def not_kept(entries: list[EventDict]) -> list[EventDict]:
    """The entries that say so, whole, without the request's context."""
    own = [each for each in entries if each["event"] == "vehicle.not_kept"]
    return [{name: each[name] for name in each if name != "request_id"} for each in own]


@on_sqlite
async def test_a_locked_database(
    serve: Serve, storage: Storage, asked: Asked, log_entries: list[EventDict]
) -> None:
    """What vPIC tells is told, though it cannot be kept; nothing can be removed."""
    one = await serve(storage={"lock_timeout_s": 0.05})
    with locked(storage):
        single, (first, second) = await one.look_up(VIN), await results_of(one, vins(2))
        removed = await one.remove(VIN)

    assert single.body["cached_result"] is False
    assert single.headers["Cache-Status"] == "copilot-usage; fwd=miss"
    assert first["cached_result"] is second["cached_result"] is False
    assert removed.problem == (503, "storage_unavailable")
    assert int(removed.headers["Retry-After"]) >= 1
    assert not_kept(log_entries) == [
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
    assert asked.singles(VIN) == 2


@on_sqlite
async def test_what_is_kept_is_read_while_it_is_locked(
    serve: Serve, storage: Storage, kept: VehicleStore, asked: Asked
) -> None:
    """Readers wait for no writer."""
    await keep_old(kept, VIN, days=1)
    one = await serve(vehicles={"held_s": 0.0}, storage={"lock_timeout_s": 0.05})
    with locked(storage):
        for _ in range(2):
            assert (await one.look_up(VIN)).body["cached_result"] is True
    assert asked.calls == 0


@on_sqlite
async def test_a_removal_that_failed_is_no_removal(
    serve: Serve, storage: Storage, kept: VehicleStore
) -> None:
    """Who was told 503 finds it still there, and may try again."""
    await keep_old(kept, VIN, days=1)
    one = await serve(storage={"lock_timeout_s": 0.05})
    with locked(storage):
        assert (await one.remove(VIN)).status == 503
        assert (await one.look_up(VIN)).body["cached_result"] is True

    assert (await one.remove(VIN)).body["cache_delete_success"] is True


@on_sqlite
async def test_a_full_disk(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, log_entries: list[EventDict]
) -> None:
    """Look-ups go on when there is no page left, and no row is kept by halves."""
    limit = "PRAGMA max_page_count = 40"
    monkeypatch.setattr(database, "SQLITE_PRAGMAS", (*database.SQLITE_PRAGMAS, limit))
    one = await serve(vehicles={"held_s": 0.0})
    many = vins(1_500)

    for at in range(0, len(many), 500):
        told = await results_of(one, many[at : at + 500])
        assert not any("error" in each for each in told)

    reasons = {each["reason"] for each in not_kept(log_entries)}
    assert reasons == {"database or disk is full"}
    assert (await one.look_up(vin(0))).body["cached_result"] is True
    assert (await one.look_up(many[-1])).body["cached_result"] is False


@on_sqlite
async def test_a_database_that_is_read_only(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, log_entries: list[EventDict]
) -> None:
    """The same where nothing may be written at all."""
    pragmas = (*database.SQLITE_PRAGMAS, "PRAGMA query_only = ON")
    monkeypatch.setattr(database, "SQLITE_PRAGMAS", pragmas)
    one = await serve(vehicles={"held_s": 0.0})

    answers = [await one.look_up(VIN) for _ in range(2)]
    removed = await one.remove(VIN)

    assert [each.body["cached_result"] for each in answers] == [False, False]
    assert removed.problem == (503, "storage_unavailable")
    assert {each["reason"] for each in not_kept(log_entries)} == {
        "attempt to write a readonly database"
    }


@on_sqlite
@pytest.mark.parametrize(
    "content, reason",
    [
        (b"not a database " * 100, "file is not a database"),
        (b"SQLite format 3\0" + b"\xff" * 4_080, "file is not a database"),
    ],
    ids=["another file", "a broken head"],
)
async def test_a_corrupted_file_is_left_alone(
    serve: Serve, storage: Storage, content: bytes, reason: str
) -> None:
    """The service does not start, says which file and why, and makes no new one."""
    path_of(storage).write_bytes(content)

    told = await refusal(serve.settings())

    assert told.startswith("storage.url: ")
    assert told.endswith(f"{path_of(storage)}: {reason}")
    assert path_of(storage).read_bytes() == content


@on_sqlite
async def test_a_missing_folder_is_made(serve: Serve, tmp_path: Path) -> None:
    """A service without a database yet starts with an empty one."""
    file = tmp_path / "var" / "deep" / "our.db"
    one = await serve(storage={"url": f"sqlite+aiosqlite:///{file}"})

    assert (await one.look_up(VIN)).body["cached_result"] is False
    assert file.exists()


@on_sqlite
async def test_a_folder_in_the_way(serve: Serve, tmp_path: Path) -> None:
    """What cannot be a database keeps the service from starting."""
    url = f"sqlite+aiosqlite:///{tmp_path}"

    assert "unable to open database file" in await refusal(
        serve.settings(storage={"url": url})
    )


# --- storage: PostgreSQL ------------------------------------------------------------

on_postgresql: Final = pytest.mark.parametrize(
    "storage",
    [pytest.param("postgresql", marks=pytest.mark.services)],
    indirect=True,
)


async def execute(storage: Storage, statement: str) -> None:
    """Say something to the server, from outside, about this test's schema."""
    schema = make_url(storage.url).query["schema"]
    connection = await asyncpg.connect(POSTGRESQL)
    try:
        await connection.execute(f"SET search_path TO {schema}")
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
async def role() -> AsyncIterator[str]:
    """A role that only one application has: its connections can be told apart."""
    connection = await asyncpg.connect(POSTGRESQL)
    name = f"cut_{id(connection)}"
    await connection.execute(f"CREATE ROLE {name} LOGIN SUPERUSER")
    yield name
    await connection.execute(f"DROP ROLE {name}")
    await connection.close()


@on_postgresql
async def test_connections_that_are_cut(
    serve: Serve, storage: Storage, kept: VehicleStore, role: str
) -> None:
    """A server that ends them costs one 503, and the next request is served."""
    await keep_old(kept, VIN, days=1)
    url = storage.url.replace("postgres@", f"{role}@")
    one = await serve(vehicles={"held_s": 0.0}, storage={"url": url})
    assert (await one.look_up(VIN)).status == 200
    await execute(
        storage,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "  # noqa: S608
        f"WHERE usename = '{role}'",
    )

    cut, healed = await one.look_up(VIN), await one.look_up(VIN)

    assert cut.problem == (503, "storage_unavailable")
    assert healed.body == {"vin": VIN, **fields_of(OTHER), "cached_result": True}


@on_postgresql
async def test_a_server_that_is_read_only(
    serve: Serve, storage: Storage, log_entries: list[EventDict]
) -> None:
    """Look-ups are answered by vPIC; nothing can be removed."""
    one = await serve(vehicles={"held_s": 0.0})
    await execute(
        storage,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE read_only_sql_transaction; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON vehicles "
        "EXECUTE FUNCTION refuse()",
    )

    answers = [await one.look_up(VIN) for _ in range(2)]
    removed = await one.remove(VIN)

    assert [each.body["cached_result"] for each in answers] == [False, False]
    assert removed.problem == (503, "storage_unavailable")
    assert len(not_kept(log_entries)) == 2


async def test_a_table_that_is_gone(
    serve: Serve, kept: VehicleStore, storage: Storage, asked: Asked
) -> None:
    """What cannot even be read is 503, and vPIC is not asked for what may be kept."""
    one = await serve()
    async with (
        database.open_database(storage) as opened,
        opened.writing() as connection,
    ):
        await connection.exec_driver_sql("DROP TABLE vehicles")

    answers = [
        await one.look_up(VIN),
        await one.look_up_all(list(KNOWN)),
        await one.remove(VIN),
    ]

    assert {each.problem for each in answers} == {(503, "storage_unavailable")}
    assert asked.calls == 0
