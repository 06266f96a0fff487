"""SQL statements that add changes of the number of events to the counts.

Rows are passed as one JSON text: a statement then costs little more than the look-up of
each row in an index. SQLAlchemy has no expressions for that.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import (
    Table,
    TextClause,
    and_,
    bindparam,
    delete,
    func,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from service.events.tables import category_counts, name_counts
from service.storage.engines import SQLITE

LOCK: Final = 0x636F756E
"""Key of the advisory lock of PostgreSQL, with the schema: "coun" in ASCII."""

_IS_FIRST: Final = (
    "id <= (SELECT max(id) FROM "
    "(SELECT id FROM event_changes ORDER BY id LIMIT :limit) AS first)"
)
_GROUPS: Final = """
SELECT application, category, name, hour, CAST(sum(events) AS BIGINT), count(*)
FROM taken GROUP BY 1, 2, 3, 4 ORDER BY min(id)
"""
# SQLite cannot read what a statement deletes. Nothing is written between its two
# statements, as a transaction locks the file.
_SQLITE_GROUPS: Final = text(
    f"WITH taken AS (SELECT * FROM event_changes WHERE {_IS_FIRST}) {_GROUPS}"
)
_SQLITE_DELETE: Final = text(f"DELETE FROM event_changes WHERE {_IS_FIRST}")
_POSTGRESQL_TAKE: Final = text(
    f"WITH taken AS (DELETE FROM event_changes WHERE {_IS_FIRST} RETURNING *) {_GROUPS}"
)

# Keys as rows, in which each is looked up in the index, however many there are.
_KEYS: Final = {
    "sqlite": """
        SELECT json_extract(value, '$[0]') AS application,
            json_extract(value, '$[1]') AS category,
            json_extract(value, '$[2]') AS name
        FROM json_each(:keys)
    """,
    "postgresql": """
        SELECT value ->> 0 AS application, value ->> 1 AS category, value ->> 2 AS name
        FROM json_array_elements(CAST(:keys AS json))
    """,
}
_OF_CATEGORY: Final = """
FROM name_counts AS counted WHERE counted.application = wanted.application
AND counted.span = 'total' AND counted.start = 0
AND counted.category = wanted.category
"""
_FIND_NAMES: Final = {
    dialect: text(
        f"SELECT * FROM ({keys}) AS wanted "
        f"WHERE EXISTS (SELECT 1 {_OF_CATEGORY} AND counted.name = wanted.name)"
    )
    for dialect, keys in _KEYS.items()
}
_COUNT_NAMES: Final = {
    dialect: text(
        f"SELECT application, category, (SELECT count(*) {_OF_CATEGORY}) "
        f"FROM ({keys}) AS wanted"
    )
    for dialect, keys in _KEYS.items()
}


def _addition(table: Table, dialect: str) -> TextClause:
    """Return the statement that adds rows to the counts of a table."""
    keys = table.primary_key.columns.keys()
    columns = ", ".join(table.columns.keys())
    values = []
    for place, column in enumerate(table.columns):
        if dialect == SQLITE:
            values.append(f"json_extract(value, '$[{place}]')")
        else:
            values.append(f"CAST(value ->> {place} AS {column.type})")
    source = {
        "sqlite": "json_each(:rows)",
        "postgresql": "json_array_elements(CAST(:rows AS json))",
    }[dialect]
    return text(
        f"INSERT INTO {table.name} ({columns}) SELECT {', '.join(values)} "
        # Without a condition, SQLite would take ON for that of a join.
        f"FROM {source} WHERE true ON CONFLICT ({', '.join(keys)}) "
        f"DO UPDATE SET events = {table.name}.events + excluded.events"
    )


_ADD: Final = {
    (table.name, dialect): _addition(table, dialect)
    for table in (category_counts, name_counts)
    for dialect in _KEYS
}


class Changes(NamedTuple):
    """Changes with the same properties."""

    application: str
    category: str
    name: str
    hour: int
    events: int
    """Their sum; negative if more events were removed than stored."""
    number: int


async def lock(connection: AsyncConnection) -> bool:
    """Lock the counts; return False if another process has locked them."""
    if connection.dialect.name == SQLITE:
        return True  # a transaction that writes has locked the file
    schema = func.hashtext(func.current_schema())
    query = select(func.pg_try_advisory_xact_lock(LOCK, schema))
    return bool(await connection.scalar(query))


async def take_changes(connection: AsyncConnection, limit: int) -> list[Changes]:
    """Delete the first changes, and return them by their properties."""
    bound = {"limit": limit}
    if connection.dialect.name != SQLITE:
        rows = await connection.execute(_POSTGRESQL_TAKE, bound)
        return [Changes(*row) for row in rows]
    changes = [Changes(*row) for row in await connection.execute(_SQLITE_GROUPS, bound)]
    await connection.execute(_SQLITE_DELETE, bound)
    return changes


async def find_names(
    connection: AsyncConnection, names: Iterable[tuple[str, str, str]]
) -> list[tuple[str, str, str]]:
    """Return those names, with application and category, that have a count."""
    statement = _FIND_NAMES[connection.dialect.name]
    rows = await connection.execute(statement, {"keys": _json(names)})
    return [(row[0], row[1], row[2]) for row in rows]


async def count_names(
    connection: AsyncConnection, categories: Iterable[tuple[str, str]]
) -> list[tuple[str, str, int]]:
    """Return the number of names with a count, for each application and category."""
    statement = _COUNT_NAMES[connection.dialect.name]
    rows = await connection.execute(statement, {"keys": _json(categories)})
    return [(row[0], row[1], row[2]) for row in rows]


async def add(
    connection: AsyncConnection, table: Table, counts: Mapping[tuple[Any, ...], int]
) -> None:
    """Add to the counts of a table, and remove those that are zero afterwards."""
    rows = sorted((*key, events) for key, events in counts.items() if events)
    statement = _ADD[table.name, connection.dialect.name]
    await connection.execute(statement, {"rows": _json(rows)})
    columns = table.primary_key.columns.keys()
    decreased = [dict(zip(columns, row, strict=False)) for row in rows if row[-1] < 0]
    if decreased:
        keys = (table.c[name] == bindparam(name) for name in columns)
        empty = delete(table).where(and_(*keys), table.c.events == 0)
        await connection.execute(empty, decreased)


def _json(rows: Iterable[tuple[Any, ...]]) -> str:
    return msgspec.json.encode(list(rows)).decode()
