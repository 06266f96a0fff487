"""Statements in the database; each row is written once, by any of the processes."""

from collections.abc import Collection
from typing import Final, NamedTuple

from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.bulk_inserts import insert_by
from service.storage.database import Database
from service.storage.uses import Use
from service.usage.periods.model import KeptPeriod
from service.usage.periods.statements.digests import FIRST_PREVIOUS, Statement
from service.usage.periods.tables import CLOSED, periods, statements

_LAST: Final = select(statements).order_by(statements.c.period_number.desc()).limit(1)
_NEXT: Final = (
    select(periods)
    .where(periods.c.number > bindparam("after_number"))
    .order_by(periods.c.number)
    .limit(1)
)
_OF_PERIODS: Final = select(statements).where(
    statements.c.period_number.in_(bindparam("numbers", expanding=True))
)


class Unsealed(NamedTuple):
    """A closed period without a digest, and the digest of the statement before."""

    period: KeptPeriod
    previous_digest: str


class Link(NamedTuple):
    """A place in the chain of statements: what the database has of one period."""

    number: int
    statement: Statement | None
    """None for a closed period that is not sealed."""
    period: KeptPeriod | None
    """None if retention, or somebody else, has removed it."""


class StatementStore:
    """Reads and writes statements; all methods raise `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_unsealed(self) -> Unsealed | None:
        """Return the next closed period of the chain that has no digest yet."""
        async with self._database.reading(Use.PERIODS) as connection:
            last = (await connection.execute(_LAST)).first()
            after = last.period_number if last else 0
            found = await connection.execute(_NEXT, {"after_number": after})
            row = found.first()
        # An open period ends the chain, also where a later one is closed already.
        if row is None or row.status != CLOSED:
            return None
        previous = last.digest if last else FIRST_PREVIOUS
        return Unsealed(KeptPeriod(**row._mapping), previous)

    async def add(self, statement: Statement) -> bool:
        """Store a statement; return False if another process has stored it."""
        async with self._database.writing(Use.PERIODS) as connection:
            return await _insert(connection, statement)

    async def of_periods(self, numbers: Collection[int]) -> dict[int, Statement]:
        """Return the statements of these periods, by the numbers of the periods."""
        async with self._database.reading(Use.PERIODS) as connection:
            rows = await connection.execute(_OF_PERIODS, {"numbers": list(numbers)})
            return {row.period_number: Statement(**row._mapping) for row in rows}

    async def chain(self) -> list[Link]:
        """Return all closed periods and all statements, the oldest first."""
        async with self._database.reading(Use.PERIODS) as connection:
            sealed = (await connection.execute(select(statements))).all()
            kept = (await connection.execute(select(periods))).all()
        by_number = {row.period_number: Statement(**row._mapping) for row in sealed}
        rows = {row.number: KeptPeriod(**row._mapping) for row in kept}
        closed = {number for number, row in rows.items() if row.status == CLOSED}
        return [
            Link(number, by_number.get(number), rows.get(number))
            for number in sorted(by_number.keys() | closed)
        ]


async def _insert(connection: AsyncConnection, statement: Statement) -> bool:
    insert = insert_by(connection.dialect.name, statements)
    values = {name: getattr(statement, name) for name in statement.__struct_fields__}
    result = await connection.execute(insert.on_conflict_do_nothing(), values)
    return bool(result.rowcount)
