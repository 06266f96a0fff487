"""Schemas of PostgreSQL in shape.

All migrations take seconds. So each process runs them once, and repeats the statements
that changed the schema for every further one.
"""

import asyncio
import re
from contextlib import suppress
from typing import Any, Final, NamedTuple

import asyncpg
from sqlalchemy import Engine, event

from service.settings import StorageSettings
from service.storage.database import migrate
from tests.patience import GIVE_UP_S

ONLY_READ: Final = re.compile(r"\s*(SHOW|SELECT(?! setval))\b")
SCHEMA: Final = "name_of_the_schema"
"""Stands for the name of the schema, which functions have in their text."""


class Statement(NamedTuple):
    """A statement of a migration."""

    text: str
    values: tuple[Any, ...]


_statements: list[Statement] = []


async def fill_schema(
    connection: asyncpg.Connection, schema: str, settings: StorageSettings
) -> None:
    """Bring an empty schema into shape; the settings name it too."""
    if not _statements:
        for text, values in await _migrate(settings):
            _statements.append(Statement(text.replace(schema, SCHEMA), values))
        return
    await connection.execute(f"SET search_path TO {schema}")
    async with connection.transaction():
        for text, values in _statements:
            await connection.execute(text.replace(SCHEMA, schema), *values)
    await connection.execute("RESET ALL")


async def _migrate(settings: StorageSettings) -> list[Statement]:
    """Migrate an empty database; return the statements that have changed it."""
    ran: list[Statement] = []

    def note(
        _connection: object, _cursor: object, text: str, values: Any, *_: object
    ) -> None:
        if not ONLY_READ.match(text):
            ran.append(Statement(text, values))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        await migrate(settings)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    return ran


async def drop_schema(connection: asyncpg.Connection, schema: str) -> None:
    """Remove a schema, also while the server ends the last statement of a service."""
    async with asyncio.timeout(GIVE_UP_S):
        while True:
            # The server ends a statement later than its client. A deadlock with it
            # rolls the removal back; that statement then runs to its end.
            with suppress(asyncpg.DeadlockDetectedError):
                await connection.execute(f"DROP SCHEMA {schema} CASCADE")
                return
