"""Migrations: each step up, down and up again, and the models at their end."""

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, insert, inspect, text

from service.events.tables import keys
from service.settings import Storage
from service.storage.database import Database, migrate, open_database
from service.storage.errors import StorageUnusable
from service.storage.migrations import downgrade, is_in_shape, revisions, upgrade
from service.storage.tables import metadata

STEPS = revisions()


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
            sorted(str(each) for each in found.get_indexes(name)),
            sorted(str(each) for each in found.get_unique_constraints(name)),
            found.get_pk_constraint(name),
        )
        for name in sorted(tables(connection))
    }


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
            assert above != below


async def test_the_models_are_what_migrations_make(database: Database) -> None:
    """Alembic finds no difference between the tables in code and in the database."""

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        return list(compare_metadata(context, metadata))

    async with database.reading() as connection:
        assert await connection.run_sync(differences) == []
        assert await connection.run_sync(tables) == set(metadata.tables)


async def test_a_step_that_fails_leaves_nothing(bare: Database) -> None:
    """The tables of a step are there all, or none: it is one transaction."""
    async with bare.writing() as connection:
        await connection.execute(text("CREATE TABLE keys (id INTEGER)"))
    with pytest.raises(StorageUnusable):
        async with bare.writing() as connection:
            await connection.run_sync(upgrade)
    async with bare.reading() as connection:
        assert await connection.run_sync(tables) == {"keys"}


async def test_migrating_at_once(bare: Database, storage: Storage) -> None:
    """Many may migrate the same database: one does it, and the others find it done."""
    assert (
        await asyncio.gather(*(migrate(storage) for _ in range(8))) == [STEPS[-1]] * 8
    )
    async with bare.reading() as connection:
        assert await connection.run_sync(is_in_shape)


async def test_a_newer_database_is_left_alone(
    database: Database, storage: Storage
) -> None:
    """Neither a start nor a migration touches what a newer version has made."""
    async with database.writing() as connection:
        await connection.execute(
            text("UPDATE alembic_version SET version_num = '9999'")
        )
        before = await connection.run_sync(shape)
    reason = "it has the shape 9999, which this version does not know"
    with pytest.raises(StorageUnusable, match=reason):
        async with open_database(storage):
            pass
    with pytest.raises(StorageUnusable, match=reason):
        await migrate(storage)
    async with database.reading() as connection:
        assert await connection.run_sync(shape) == before


async def test_migrating_keeps_what_is_there(
    database: Database, storage: Storage
) -> None:
    """A database in shape is left as it is, with all that it holds."""
    values = {"id": "a", "digest": b"a", "application": "a"}
    async with database.writing() as connection:
        row = {**values, "can_read_all": False, "created_at": 1}
        await connection.execute(insert(keys).values(row))
    await migrate(storage)
    async with open_database(storage) as again, again.reading() as connection:
        assert len((await connection.execute(keys.select())).all()) == 1


async def test_shape_is_asked_for_elsewhere(bare: Database, storage: Storage) -> None:
    """SQLite is brought into shape where it is opened; a server when it is told to."""
    if bare.is_sqlite:
        async with open_database(storage) as opened, opened.reading() as connection:
            assert await connection.run_sync(is_in_shape)
        return
    with pytest.raises(
        StorageUnusable, match=r"not in shape; run: copilot-usage migra"
    ):
        async with open_database(storage):
            pass
    await migrate(storage)
    async with open_database(storage):
        pass
