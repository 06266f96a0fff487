"""The database as its users rely on it: durable, and clear about its failures."""

import asyncio
import os
import socket
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Final

import asyncpg
import pytest
from msgspec.structs import replace
from sqlalchemy import func, insert, select, text

from service.keys.store import add_key, list_keys
from service.keys.tables import keys
from service.settings import StorageSettings
from service.storage.bulk_inserts import insert_rows
from service.storage.database import Database, open_database
from service.storage.errors import (
    Collided,
    StorageError,
    StorageUnavailable,
    StorageUnusable,
    ValueRefused,
)
from tests.clock import LoopTime
from tests.conftest import POSTGRESQL, storage_at
from tests.events.faults.test_disks import files_no_larger, size_of_wal
from tests.patience import GIVE_UP_S

SHORT_S: Final = 0.05
TIMEOUT_S: Final = 20.0
ROW: Final = ("a", b"a", "shop", False, 1.5, 1, None, "events:write")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """URL of a new database."""
    return tmp_path / "var" / "our.db"


def at(file: Path, **more: float) -> StorageSettings:
    """The settings of a file that nobody waits long for."""
    return replace(storage_at(f"sqlite+aiosqlite:///{file}"), **more)


async def count(database: Database) -> int:
    """Return the number of API keys."""
    async with database.reading() as connection:
        return int(await connection.scalar(select(func.count()).select_from(keys)) or 0)


async def store(database: Database, *rows: tuple[object, ...]) -> None:
    """Insert keys in one transaction."""
    async with database.writing() as connection:
        await insert_rows(connection, insert(keys), rows)


def check_unlocked(file: Path) -> None:
    """Fail unless another process can write at once."""
    with closing(sqlite3.connect(file, isolation_level=None, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")


def modes_in(folder: Path) -> dict[str, int]:
    """Return the permissions of each file in a folder."""
    return {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()}


async def refusal(settings: StorageSettings) -> str:
    """Why this database cannot be opened."""
    with pytest.raises(StorageUnusable) as raised:
        async with open_database(settings):
            pass
    return str(raised.value)


def contents(file: Path) -> bytes:
    """All of a file."""
    return file.read_bytes()


def put(file: Path, content: bytes) -> None:
    """Put something else in a file's place."""
    file.write_bytes(content)


def names_beside(file: Path) -> list[str]:
    """Return the names in a file's folder."""
    return [each.name for each in file.parent.iterdir()]


# --- on either database -------------------------------------------------------------


async def test_rows_are_kept(database: Database, storage: StorageSettings) -> None:
    """Written rows are there when the database is opened again."""
    await store(database, ROW, ("b", b"b", "shop", True, None, 2, 3, "admin"))
    await store(database)
    async with open_database(storage) as again:
        kept = await list_keys(again)
    assert [(key.id, key.rate_per_s, key.revoked_at) for key in kept] == [
        ("a", 1.5, None),
        ("b", None, 3),
    ]


async def test_what_raises_leaves_nothing(database: Database) -> None:
    """A transaction that ends in an exception has not been."""

    async def store_and_fail() -> None:
        async with database.writing() as connection:
            await insert_rows(connection, insert(keys), [ROW])
            raise KeyError

    with pytest.raises(KeyError):
        await store_and_fail()
    assert await count(database) == 0


@pytest.mark.parametrize(
    "rows, meaning",
    [
        pytest.param([ROW, ROW], Collided, id="the same key twice"),
        pytest.param(
            [("a", b"a", "\ud800", False, None, 1, None, "admin")],
            ValueRefused,
            id="half a surrogate pair",
        ),
        pytest.param(
            [("a", b"a", "shop", False, None, 2**63, None, "admin")],
            ValueRefused,
            id="beyond 64 bits",
        ),
        pytest.param([("a", b"a", None, *ROW[3:])], ValueRefused, id="missing"),
    ],
)
async def test_refusals(
    database: Database, rows: list[tuple[object, ...]], meaning: type[StorageError]
) -> None:
    """Each refusal has its error class, and the database stays usable."""
    with pytest.raises(StorageError) as raised:
        await store(database, *rows)
    assert type(raised.value) is meaning
    await store(database, ROW)
    assert await count(database) == 1


async def test_a_table_that_is_gone(database: Database) -> None:
    """It takes help to mend what somebody has dropped."""
    async with database.writing() as connection:
        await connection.execute(text("DROP TABLE keys"))
    with pytest.raises(StorageUnusable):
        await list_keys(database)


async def test_more_readers_than_connections(storage: StorageSettings) -> None:
    """A transaction fails if no connection becomes free in time."""
    few = replace(storage, connections=1, lock_timeout_s=SHORT_S)
    async with open_database(few) as database:
        async with database.reading():
            with pytest.raises(StorageUnavailable):
                await count(database)
        assert await count(database) == 0


# --- SQLite -------------------------------------------------------------------------


async def test_sqlite_is_made_where_it_was_not(file: Path) -> None:
    """Folders and all; every commit waits for the disk."""
    async with open_database(at(file)) as database:
        for connect in (database.reading, database.writing):
            async with connect() as connection:
                asked = ("journal_mode", "synchronous", "foreign_keys")
                told = [
                    await connection.scalar(text(f"PRAGMA {each}")) for each in asked
                ]
                assert told == ["wal", 2, 1]
    assert contents(file)


async def test_no_file_is_made_for_who_only_looks(file: Path) -> None:
    """With `must_exist`, a missing file is not created."""
    with pytest.raises(StorageUnusable, match=f"{file}: there is no such file$"):
        async with open_database(at(file), must_exist=True):
            pass
    assert not file.parent.exists()


async def test_only_the_user_may_read_a_new_file(file: Path) -> None:
    """Its mode and those of SQLite's other files do not follow the umask."""
    before = os.umask(0o022)
    try:
        async with open_database(at(file)) as database:
            await store(database, ROW)
            modes = modes_in(file.parent)
    finally:
        os.umask(before)

    assert modes == dict.fromkeys(("our.db", "our.db-wal", "our.db-shm"), 0o600)
    # The owner may have given others a right, which stays.
    await asyncio.to_thread(file.chmod, 0o640)
    async with open_database(at(file)):
        assert modes_in(file.parent)["our.db"] == 0o640


async def test_bad_files_are_left_alone(file: Path) -> None:
    """A file that is not our database is reported, and not changed."""
    async with open_database(at(file)) as database:
        await add_key(database, "shop")
    good = contents(file)
    for content, reason in (
        (b"not a database " * 100, "file is not a database"),
        (good[: len(good) // 2], "database disk image is malformed"),
        (good[:100] + b"\xff" * (len(good) - 100), "database disk image is malformed"),
    ):
        put(file, content)
        told = await refusal(at(file))
        assert told == f"storage.url: sqlite+aiosqlite:///{file}: {reason}"
        assert contents(file) == content
        assert names_beside(file) == [file.name]


async def test_folders_and_files_in_the_way(tmp_path: Path) -> None:
    """A folder is no database, and a file no folder."""
    (tmp_path / "a.db").mkdir()
    (tmp_path / "file").touch()
    assert "unable to open database file" in await refusal(at(tmp_path / "a.db"))
    assert "File exists" in await refusal(at(tmp_path / "file" / "a.db"))


async def test_a_locked_file(file: Path) -> None:
    """Writers are refused in time, readers never wait, and all goes on afterwards."""
    async with open_database(at(file, lock_timeout_s=SHORT_S)) as database:
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailable, match=r"^database is locked$"):
            await store(database, ROW)
        assert await count(database) == 0
        # A service that starts now has nothing to write, and so nothing to wait for.
        async with open_database(at(file, lock_timeout_s=SHORT_S)):
            pass
        other.execute("ROLLBACK")
        other.close()
        await store(database, ROW)
        assert await count(database) == 1


async def test_a_file_that_is_read_only(file: Path) -> None:
    """It can be read; what would write is refused."""
    async with open_database(at(file)) as database:
        await store(database, ROW)
    uri = f"sqlite+aiosqlite:///file:{file}?mode=ro&uri=true"
    async with open_database(storage_at(uri)) as database:
        with pytest.raises(StorageUnavailable, match="readonly database"):
            await store(database, ("b", *ROW[1:]))
        assert await count(database) == 1


async def test_a_disk_that_is_full(file: Path) -> None:
    """On a full disk nothing is stored, no lock stays, and a later attempt succeeds."""
    async with open_database(at(file)) as database:
        many = [
            (f"{n}", f"{n}".encode(), "x" * 500, False, None, n, None, "admin")
            for n in range(500)
        ]
        async with database.writing() as connection:
            # SQLite fails so, by the same code, where the disk has no more pages.
            await connection.execute(text("PRAGMA max_page_count = 20"))
        with pytest.raises(StorageUnavailable, match=r"^database or disk is full$"):
            await store(database, *many)
        assert await count(database) == 0
        check_unlocked(file)
        async with database.writing() as connection:
            await connection.execute(text("PRAGMA max_page_count = 100000"))
        # Neither does it stay locked where the commit fails.
        with (
            files_no_larger(os.getpid(), size_of_wal(at(file))),
            pytest.raises(StorageUnavailable),
        ):
            await store(database, *many)
        check_unlocked(file)
        await store(database, *many)
        assert await count(database) == len(many)


async def test_writers_take_turns(file: Path) -> None:
    """Many at once, in two pools as two processes have: none is refused or lost."""
    async with open_database(at(file)) as one, open_database(at(file)) as other:
        rows = [(f"{n}", f"{n}".encode(), *ROW[2:]) for n in range(40)]
        await asyncio.gather(
            *(store((one, other)[n % 2], row) for n, row in enumerate(rows))
        )
        assert await count(one) == len(rows)


# --- PostgreSQL ---------------------------------------------------------------------


@pytest.fixture
async def hasty_role() -> AsyncIterator[str]:
    """A role whose commits do not wait for the disk."""
    connection = await asyncpg.connect(POSTGRESQL)
    name = f"hasty_{id(connection)}"
    await connection.execute(f"CREATE ROLE {name} LOGIN SUPERUSER")
    await connection.execute(f"ALTER ROLE {name} SET synchronous_commit = off")
    yield name
    await connection.execute(f"DROP ROLE {name}")
    await connection.close()


@pytest.mark.services
@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
async def test_commits_wait_for_the_disk(
    storage: StorageSettings, hasty_role: str
) -> None:
    """Whatever the server or the role would have instead."""
    hasty = replace(storage, url=storage.url.replace("postgres@", f"{hasty_role}@"))
    async with open_database(hasty) as database, database.writing() as connection:
        told = await connection.scalar(text("SHOW synchronous_commit"))
    assert told == "on"


@pytest.mark.services
@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
async def test_a_statement_that_takes_too_long(
    storage: StorageSettings, loop_time: LoopTime
) -> None:
    """It is given up, and the database stays of use."""
    observer = await asyncpg.connect(POSTGRESQL)
    async with open_database(replace(storage, timeout_s=TIMEOUT_S)) as database:
        sleeping = asyncio.create_task(sleep(database))
        async with asyncio.timeout(GIVE_UP_S):
            while not await observer.fetchval(ASLEEP):
                pass
        await loop_time.pass_s(TIMEOUT_S)
        with pytest.raises(StorageUnavailable):
            await sleeping
        assert await count(database) == 0
    await observer.close()


# No statement of another process has this text: the test would not wait for its own.
SLEEP: Final = f"SELECT pg_sleep(600) AS of_{os.getpid()}"
ASLEEP: Final = f"SELECT count(*) FROM pg_stat_activity WHERE query = '{SLEEP}'"  # noqa: S608


async def sleep(database: Database) -> None:
    """Run a statement that takes too long."""
    async with database.reading() as connection:
        await connection.execute(text(SLEEP))


async def test_a_server_that_never_answers() -> None:
    """A start does not hang on it, and the line that says so has no password."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts nobody
        port = silent.getsockname()[1]
        url = f"postgresql+asyncpg://me:pa55@127.0.0.1:{port}/test"
        told = await refusal(replace(storage_at(url), timeout_s=SHORT_S))
    at = f"postgresql+asyncpg://me:***@127.0.0.1:{port}/test"
    assert told == f"storage.url: {at}: no answer in time"
