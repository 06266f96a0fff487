"""Migrations: each step up, down and up again, and the models at their end."""

import asyncio
import secrets
import sqlite3
from contextlib import closing
from typing import Final

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from msgspec.structs import replace
from sqlalchemy import Connection, delete, insert, inspect, select, text
from sqlalchemy.engine.interfaces import ReflectedIndex

from service.events.tables import (
    category_counts,
    event_changes,
    events,
    name_counts,
)
from service.keys.store import add_key, list_keys
from service.keys.tables import keys
from service.settings import SCOPES, StorageSettings
from service.storage.database import Database, Migrated, migrate, open_database
from service.storage.errors import Collided, StorageUnusable, UnknownRevision
from service.storage.free_space import is_shrinkable
from service.storage.migrations import downgrade, is_current, revisions, upgrade
from service.storage.tables import metadata
from tests.conftest import POSTGRESQL, storage_at
from tests.patience import GIVE_UP_S
from tests.schemas import fill_schema

HOUR_US: Final = 3_600_000_000
STEPS = revisions()
LATER_COLUMNS: Final = {"position", "sent_at", "sent_timestamp", "context"}
OF_ROWS: Final = {"0014"}
"""Steps that change rows, and no table."""
TRIGGERS: Final = text(
    "SELECT tgname, pg_get_functiondef(tgfoid) FROM pg_trigger "
    "JOIN pg_class ON pg_class.oid = tgrelid "
    "WHERE relnamespace = current_schema()::regnamespace AND NOT tgisinternal "
    "ORDER BY tgname"
)
"""Triggers of the schema in use, with their functions, which name it."""
EXPRESSIONS: Final = {"ux_events_sent", "ix_events_position"}
"""Indexes of expressions, which SQLAlchemy does not read from SQLite."""
pytestmark = [
    pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression"),
    pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified"),
]


@pytest.fixture
async def bare(database: Database) -> Database:
    """A database without any of our tables."""
    async with database.writing() as connection:
        await connection.run_sync(downgrade, "base")
    return database


def tables(connection: Connection) -> set[str]:
    """The tables there are, Alembic's own aside."""
    return set(inspect(connection).get_table_names()) - {"alembic_version"}


def shape(connection: Connection) -> dict[str, object]:
    """All that there is: columns, keys and indexes of each table."""
    found = inspect(connection)
    return {
        name: (
            [(each["name"], str(each["type"])) for each in found.get_columns(name)],
            sorted(map(described, found.get_indexes(name))),
            sorted(str(each) for each in found.get_unique_constraints(name)),
            found.get_pk_constraint(name),
        )
        for name in sorted(tables(connection))
    }


def described(index: ReflectedIndex) -> str:
    """Return all that there is of an index, its condition as text."""
    options = index.get("dialect_options", {})
    return str({**index, "dialect_options": {n: str(options[n]) for n in options}})


async def test_the_stairway(bare: Database) -> None:
    """Each step can be taken, taken back without a trace, and taken again."""
    for step, before in zip(STEPS, ["base", *STEPS], strict=False):
        async with bare.writing() as connection:
            below = await connection.run_sync(shape)
            assert await connection.run_sync(upgrade, step) == step
            above = await connection.run_sync(shape)
        async with bare.writing() as connection:
            await connection.run_sync(downgrade, before)
            assert await connection.run_sync(shape) == below
            await connection.run_sync(upgrade, step)
            assert await connection.run_sync(shape) == above
            assert (above != below) == (step not in OF_ROWS)


async def test_the_models_are_what_migrations_make(database: Database) -> None:
    """Alembic finds no difference between the tables in code and in the database."""

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "compare_server_default": True,
                "include_name": lambda name, *_: name not in EXPRESSIONS,
                "include_object": lambda _, name, *__: name not in EXPRESSIONS,
            },
        )
        return list(compare_metadata(context, metadata))

    async with database.reading() as connection:
        assert await connection.run_sync(differences) == []
        assert await connection.run_sync(tables) == set(metadata.tables)


FAILED: Final = {
    '{"id": "a1", "name": ""}': "a1",
    '{"id": 5}': None,
    '["a"]': None,
    "5": None,
    '{"id": "a\\u0000"}': None,
    '{"id": "b", "data": {"v": 1e400}}': "b",
    "{'id': 1}": None,
    '{"id": "c", "data": {}} x': None,
    '{"id": "\\ud800"}': None,
}
"""Texts of failed events, and the ids that an upgrade finds in them."""
STRANGE: Final = (
    '{"id": "d", "v": "\\ud800"}',
    '{"id": "e", "v": %s}' % ("[" * 20_000 + "]" * 20_000),
)
"""Texts that not every reader accepts, so that their ids may be found or not."""


@pytest.mark.services
async def test_schemas_of_the_tests_are_as_migrations_make_them() -> None:
    """Statements that are repeated leave what the migrations themselves leave."""
    connection = await asyncpg.connect(POSTGRESQL)
    url = POSTGRESQL.replace("postgresql", "postgresql+asyncpg")
    names = [f"test_{secrets.token_hex(8)}" for _ in range(3)]
    found = []
    try:
        for name in names:
            await connection.execute(f"CREATE SCHEMA {name}")
            storage = storage_at(f"{url}?schema={name}")
            if name == names[0]:
                await migrate(storage)
            else:
                # The first call may run the migrations; the second one does not.
                await fill_schema(connection, name, storage)
            async with open_database(storage) as opened, opened.reading() as reading:
                rows = (await reading.execute(TRIGGERS)).all()
                triggers = str([tuple(each) for each in rows])
                found.append(
                    (await reading.run_sync(shape), triggers.replace(name, ""))
                )
    finally:
        for name in names:
            await connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
        await connection.close()
    assert found[0] == found[2]
    assert "events" in found[0][1]


@pytest.mark.parametrize("is_built", [True, False])
async def test_failed_events_get_their_ids(
    database: Database, storage: StorageSettings, *, is_built: bool
) -> None:
    """An upgrade reads them from the texts, and no text prevents it."""
    await migrate(storage, "0012", drop_rows=True)
    columns = "id, application, event, codes, errors, received_at"
    insertion = text(
        f"INSERT INTO failed_events ({columns}) VALUES (:event, 'shop', :event, "  # noqa: S608
        "CASE WHEN :event LIKE '{''%' THEN 'not_json' ELSE 'missing' END, '[]', 1)"
    )
    async with database.writing() as connection:
        for each in (*FAILED, *STRANGE):
            await connection.execute(insertion, {"event": each})

    if is_built:
        await migrate(storage)
    else:
        async with database.writing() as connection:
            await connection.run_sync(upgrade)

    async with database.reading() as connection:
        rows = await connection.execute(text("SELECT id, event_id FROM failed_events"))
        found = {row.id: row.event_id for row in rows if row.id not in STRANGE}
        assert found == FAILED


async def test_a_step_that_fails_leaves_nothing(bare: Database) -> None:
    """The tables of a step are there all, or none: it is one transaction."""
    async with bare.writing() as connection:
        await connection.execute(text("CREATE TABLE keys (id INTEGER)"))
    with pytest.raises(StorageUnusable):
        async with bare.writing() as connection:
            await connection.run_sync(upgrade)
    async with bare.reading() as connection:
        assert await connection.run_sync(tables) == {"keys"}


async def test_migrating_at_once(bare: Database, storage: StorageSettings) -> None:
    """Many may migrate the same database: one does it, and the others find it done."""
    # On a busy machine, the last one waits long for the lock.
    patient = replace(storage, lock_timeout_s=GIVE_UP_S)
    assert (
        await asyncio.gather(*(migrate(patient) for _ in range(8)))
        == [Migrated(STEPS[-1])] * 8
    )
    async with bare.reading() as connection:
        assert await connection.run_sync(is_current)


async def test_a_newer_database_is_left_alone(
    database: Database, storage: StorageSettings
) -> None:
    """Neither a start nor a migration touches what a newer version has made."""
    async with database.writing() as connection:
        await connection.execute(
            text("UPDATE alembic_version SET version_num = '9999'")
        )
        before = await connection.run_sync(shape)
    reason = "it has revision 9999, which this version does not know"
    with pytest.raises(StorageUnusable, match=reason):
        async with open_database(storage):
            pass
    with pytest.raises(StorageUnusable, match=reason):
        await migrate(storage)
    async with database.reading() as connection:
        assert await connection.run_sync(shape) == before


async def test_migrating_keeps_what_is_there(
    database: Database, storage: StorageSettings
) -> None:
    """A database in shape is left as it is, with all that it holds."""
    values = {"id": "a", "digest": b"a", "application": "a"}
    async with database.writing() as connection:
        row = {**values, "can_read_all": False, "created_at": 1}
        await connection.execute(insert(keys).values(row))
    await migrate(storage)
    async with open_database(storage) as again, again.reading() as connection:
        assert len((await connection.execute(keys.select())).all()) == 1


async def test_only_sqlite_is_migrated_when_opened(
    bare: Database, storage: StorageSettings
) -> None:
    """SQLite is migrated when it is opened; PostgreSQL only by the command."""
    if bare.is_sqlite:
        async with open_database(storage) as opened, opened.reading() as connection:
            assert await connection.run_sync(is_current)
        return
    with pytest.raises(
        StorageUnusable, match=r"it must be migrated; run: copilot-usage migra"
    ):
        async with open_database(storage):
            pass
    await migrate(storage)
    async with open_database(storage):
        pass


async def stored_events(database: Database, number: int, first: int = 0) -> None:
    """Insert events in the schema before the counts, as the former version does."""
    rows = [
        {
            "key": n.to_bytes(16, "big"),
            "application": "shop",
            "id": str(n),
            "digest": b"d",
            "session_id": "s",
            "category": "c",
            # Names of different frequency, and more than are counted apart.
            "name": str(n if n < 11_000 else n % 7),
            "at": -1 - n % 3 * 24 * HOUR_US,
            "timestamp": "t",
            "data": "{}",
            "received_at": n,
        }
        for n in range(first, first + number)
    ]
    async with database.writing() as connection:
        await connection.execute(insert(events), rows)


async def test_stored_events_are_counted(
    bare: Database, storage: StorageSettings
) -> None:
    """The upgrade counts stored events: the most frequent names of a category apart."""
    await migrate(storage, "0002")
    await stored_events(bare, 12_000)
    await migrate(storage)

    async with bare.reading() as connection:
        assert (await connection.execute(event_changes.select())).all() == []
        hours = category_counts.c.span == "hour"
        by_hour = select(category_counts.c.start, category_counts.c.events).where(hours)
        found = dict(map(tuple, await connection.execute(by_hour)))
        assert found == {-1: 4_000, -25: 4_000, -49: 4_000}
        days = select(category_counts.c.start).where(category_counts.c.span == "day")
        assert sorted(await connection.scalars(days)) == [-3, -2, -1]
        totals = select(name_counts.c.name, name_counts.c.events).where(
            name_counts.c.span == "total"
        )
        names = dict(map(tuple, await connection.execute(totals)))
    assert len(names) == 10_001
    assert names[""] == 1_000
    assert sorted(names.values())[-8:-1] == [143, 144, 144, 144, 144, 144, 144]
    assert sum(names.values()) == 12_000


@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
@pytest.mark.services
async def test_events_are_stored_while_others_are_counted(
    bare: Database, storage: StorageSettings
) -> None:
    """Writers do not wait for the upgrade that counts, and are counted afterwards."""
    await migrate(storage, "0003")
    await stored_events(bare, 10)
    async with bare.writing() as counting:
        await counting.run_sync(upgrade, "0004")
        # It has counted 10 events and removed their changes, but is not committed.
        async with asyncio.timeout(GIVE_UP_S), bare.writing() as connection:
            await connection.execute(delete(events).where(events.c.id < "3"))
        async with bare.reading() as connection:
            changes = select(event_changes.c.events)
            assert sum(await connection.scalars(changes)) == 7
    async with bare.reading() as connection:
        assert sum(await connection.scalars(changes)) == -3
        counted = select(category_counts.c.events)
        assert set(await connection.scalars(counted)) == {10, 4, 3}


@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
@pytest.mark.services
async def test_events_are_stored_while_an_index_is_built(
    bare: Database, storage: StorageSettings
) -> None:
    """Writers do not wait for the unique indexes of 0007 while these are built."""
    await migrate(storage, "0006")
    await stored_events(bare, 1, first=10)
    building = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        "AND query LIKE 'CREATE UNIQUE INDEX CONCURRENTLY%'"
    )
    async with bare.writing() as unfinished:
        await unfinished.execute(delete(events).where(events.c.id == "none"))
        migrations = [asyncio.create_task(migrate(storage)) for _ in range(2)]
        async with asyncio.timeout(GIVE_UP_S):
            while True:
                async with bare.reading() as connection:
                    if await connection.scalar(building):
                        break
            await stored_events(bare, 10)
    assert await asyncio.gather(*migrations) == [Migrated(STEPS[-1])] * 2
    with pytest.raises(Collided):
        await stored_events(bare, 1)


@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
@pytest.mark.services
async def test_an_index_whose_build_failed_is_built_again(
    bare: Database, storage: StorageSettings
) -> None:
    """A migration after a failed one leaves no invalid index."""
    await migrate(storage, "0007")
    await stored_events(bare, 1)
    async with bare.writing() as connection:
        await connection.execute(
            text(
                "UPDATE pg_index SET indisvalid = false "
                "WHERE indexrelid = to_regclass('ux_events_id')"
            )
        )
        await connection.execute(
            text("UPDATE alembic_version SET version_num = '0006'")
        )
    await migrate(storage)
    async with bare.reading() as connection:
        invalid = (
            "SELECT count(*) FROM pg_index "
            "WHERE NOT indisvalid AND indrelid = to_regclass('events')"
        )
        assert await connection.scalar(text(invalid)) == 0
    with pytest.raises(Collided):
        await stored_events(bare, 1)


@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
@pytest.mark.parametrize("revision, stored", [("0007", 0), ("0009", 1)])
@pytest.mark.services
async def test_a_long_reader_does_not_stop_the_events(
    bare: Database, storage: StorageSettings, revision: str, stored: int
) -> None:
    """The migration fails while a backup reads the events, which can be stored."""
    await migrate(storage, revision)
    if stored:
        await stored_events(bare, stored)
    async with bare.reading() as backup:
        await backup.execute(select(events.c.id))
        with pytest.raises(StorageUnusable, match="lock timeout"):
            await migrate(storage)
        await stored_events(bare, 1, first=stored)
    assert await migrate(storage) == Migrated(STEPS[-1])


async def test_events_keep_their_rows_down_and_up(
    database: Database, storage: StorageSettings
) -> None:
    """Rows are the same after columns and indexes were changed back and forth."""
    await stored_events(database, 5_000)
    former = [column for column in events.c if column.name not in LATER_COLUMNS]
    rows = select(*former).order_by(events.c.received_at)
    async with database.reading() as connection:
        before = (await connection.execute(rows)).all()
    for revision in ("0006", STEPS[-1]):
        await migrate(storage, revision)
        with pytest.raises(Collided):
            await stored_events(database, 1)
        async with database.reading() as connection:
            assert (await connection.execute(rows)).all() == before


async def test_each_event_has_one_position(
    bare: Database, storage: StorageSettings
) -> None:
    """New rows follow the existing ones, without a rewrite, and none is used twice."""
    await migrate(storage, "0008")
    await stored_events(bare, 3)
    await migrate(storage, "0009")
    await stored_events(bare, 2, first=3)
    async with bare.writing() as connection:
        await connection.execute(delete(events).where(events.c.id >= "4"))
    await stored_events(bare, 1, first=5)

    rows = select(events.c.id, events.c.position).order_by(events.c.id)
    async with bare.reading() as connection:
        found = dict(map(tuple, await connection.execute(rows)))
        if bare.is_sqlite:
            assert found == {"0": 1, "1": 2, "2": 3, "3": 4, "5": 6}
            check = await connection.scalar(text("PRAGMA integrity_check"))
            assert check == "ok"
        else:
            assert found == {"0": None, "1": None, "2": None, "3": 1, "5": 3}


async def test_keys_keep_the_powers_that_they_had(
    bare: Database, storage: StorageSettings
) -> None:
    """Keys of the former version, also those that it adds later, may do the same."""
    await migrate(storage, "0004")
    former = (
        "INSERT INTO keys (id, digest, application, can_read_all, created_at) "
        "VALUES (:id, :digest, 'shop', :can_read_all, 1)"
    )

    async def add(name: str, *, can_read_all: bool) -> None:
        row = {"id": name, "digest": name.encode(), "can_read_all": can_read_all}
        async with bare.writing() as connection:
            await connection.execute(text(former), row)

    await add("own", can_read_all=False)
    await add("all", can_read_all=True)
    await migrate(storage)
    await add("later own", can_read_all=False)
    await add("later all", can_read_all=True)

    new = frozenset(SCOPES) - {"events:read-all", "usage:manage", "admin"}
    found = {key.id: key.scopes for key in await list_keys(bare)}
    assert found == {
        "own": new,
        "all": new | {"events:read-all"},
        "later own": new,
        "later all": new | {"events:read-all"},
    }

    # The former version reads this column only.
    await add_key(bare, "audit", ["events:read", "events:read-all"])
    await migrate(storage, "0004")
    async with bare.reading() as connection:
        rights = await connection.execute(
            text("SELECT application, count(*) FROM keys WHERE can_read_all GROUP BY 1")
        )
        assert sorted(map(tuple, rights)) == [("audit", 1), ("shop", 2)]


async def test_a_downgrade_keeps_rows_unless_told_otherwise(
    database: Database, storage: StorageSettings
) -> None:
    """Without `drop_rows`, a downgrade that would lose rows changes nothing."""
    await stored_events(database, 1)
    assert await migrate(storage, "0001") == Migrated("0001")
    reason = "revision base has no place for the rows of events; --drop-rows drops them"
    with pytest.raises(StorageUnusable, match=reason):
        await migrate(storage, "base")

    async with database.reading() as connection:
        assert len((await connection.scalars(select(events.c.id))).all()) == 1
    assert await migrate(storage, "base", drop_rows=True) == Migrated("base")
    async with database.reading() as connection:
        assert await connection.run_sync(tables) == set()


@pytest.mark.parametrize("revision", ["9999", "head", "", "-1", "000", "0001:0002"])
async def test_an_unknown_revision_is_refused(
    database: Database, storage: StorageSettings, revision: str
) -> None:
    """A revision that this version does not have changes nothing."""
    with pytest.raises(
        UnknownRevision, match=f"--to {revision}: expected one of base,"
    ):
        await migrate(storage, revision)
    async with database.reading() as connection:
        assert await connection.run_sync(is_current)


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
async def test_an_old_file_is_rewritten_once(
    database: Database, storage: StorageSettings
) -> None:
    """`migrate` lets a file that cannot shrink be able to, with all that it holds."""
    await stored_events(database, 5)
    await database.close()
    with closing(sqlite3.connect(str(database.file))) as connection:
        connection.executescript("PRAGMA auto_vacuum = NONE; VACUUM")

    assert await migrate(storage) == Migrated(STEPS[-1], is_rewritten=True)
    assert await migrate(storage) == Migrated(STEPS[-1])

    async with open_database(storage) as again, again.reading() as connection:
        assert await is_shrinkable(connection)
        assert len((await connection.execute(events.select())).all()) == 5
