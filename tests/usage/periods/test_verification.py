"""Verification: whatever is altered in the database, its first row is named."""

from typing import Any, Final, NamedTuple

import numpy as np
import pytest
from msgspec import structs
from sqlalchemy import delete, update

from service.storage.database import Database
from service.usage.periods.statements.sealing import Sealing
from service.usage.periods.statements.verification import Result, Verification, Verified
from service.usage.periods.tables import chunks, periods, statements
from service.usage.snapshots.kept import decode_chunk
from tests.conftest import Client
from tests.usage.periods.conftest import chunk_of, encoded

NAMES: Final = ["2024-01-01", "2024-02-01", "2024-03-01"]


@pytest.fixture
async def sealed_periods(unsealed: Client, database: Database) -> Database:
    """Return a database with three statements and an open period."""
    assert unsealed is not None
    await Sealing(database).seal()
    return database


async def verified(database: Database) -> list[Verified]:
    """Return all results."""
    verification = Verification(database)
    await verification.open()
    return [each async for each in verification.run(lambda: None)]


async def test_what_was_not_altered_is_verified(sealed_periods: Database) -> None:
    """Each closed period is listed with its digest, the oldest first."""
    results = await verified(sealed_periods)
    assert [(each.period, each.result) for each in results] == [
        (name, Result.VERIFIED) for name in NAMES
    ]
    assert all(each.digest for each in results)


async def test_a_period_without_a_digest_is_no_error(
    unsealed: Client, database: Database
) -> None:
    """It is sealed soon after it closes."""
    assert unsealed is not None
    assert {each.result for each in await verified(database)} == {Result.UNSEALED}


class Alteration(NamedTuple):
    """A change of the database, and what the verification says of February."""

    statement: Any
    what: str


SECOND: Final = periods.c.number == 2
SECOND_SEAL: Final = statements.c.period_number == 2
ALTERATIONS: Final = {
    "messages": Alteration(
        update(periods).where(SECOND).values(messages=4),
        "messages is 4, and 3 by the rows",
    ),
    "credits": Alteration(
        update(periods).where(SECOND).values(hundredths=periods.c.hundredths + 5),
        "credits_used is ",
    ),
    "first time": Alteration(
        update(periods).where(SECOND).values(first_at=0),
        "from is 1970-01-01T00:00:00.000000Z, and 2024-02-01T10:00:00.000000Z by",
    ),
    "plan": Alteration(
        update(periods).where(SECOND).values(plan="token-estimate/1"),
        "plan is token-estimate/1, and text-rules/1 by the rows",
    ),
    "closing time": Alteration(
        update(periods).where(SECOND).values(closed_at=0), "the digest is "
    ),
    "digest": Alteration(
        update(statements).where(SECOND_SEAL).values(digest="0" * 64),
        f"the digest is {'0' * 64}, and ",
    ),
    "previous digest": Alteration(
        update(statements).where(SECOND_SEAL).values(previous_digest="0" * 64),
        f"previous_digest is {'0' * 64}, and ",
    ),
    "removed statement": Alteration(
        delete(statements).where(SECOND_SEAL), "its statement was removed"
    ),
    "removed period": Alteration(
        delete(periods).where(SECOND), "the period was removed, and not by retention"
    ),
    "removal by retention": Alteration(
        update(statements).where(SECOND_SEAL).values(removed_at=1),
        "an older period is kept, so retention cannot have removed this one",
    ),
    "name": Alteration(
        update(periods).where(SECOND).values(period="2024-02-02"),
        "the period is 2024-02-02 in the list of periods",
    ),
    "missing chunk": Alteration(
        delete(chunks).where(chunks.c.period_number == 2), " is missing, from this"
    ),
    "damaged chunk": Alteration(
        update(chunks).where(chunks.c.period_number == 2).values(content=b"x"),
        " is damaged: ",
    ),
}


@pytest.mark.parametrize("alteration", ALTERATIONS.values(), ids=ALTERATIONS)
async def test_an_alteration_is_found(
    sealed_periods: Database, alteration: Alteration
) -> None:
    """January is still verified, and February says what differs."""
    async with sealed_periods.writing() as connection:
        await connection.execute(alteration.statement)
    january, february, *_ = await verified(sealed_periods)
    assert january.result is Result.VERIFIED
    assert february.result is Result.DIFFERENT
    assert february.difference is not None
    assert alteration.what in february.difference.what


@pytest.mark.parametrize("is_renamed", [False, True], ids=["plain", "renamed"])
async def test_an_altered_price_names_its_message(
    sealed_periods: Database, *, is_renamed: bool
) -> None:
    """The kept changes have it, also if chunk, period and totals fit each other."""
    content, digest = await chunk_of(sealed_periods, 2)
    chunk = decode_chunk(content)
    hundredths = np.frombuffer(chunk.hundredths, "<i8").copy()
    hundredths[1] += 100
    altered = encoded(structs.replace(chunk, hundredths=hundredths.tobytes()))
    async with sealed_periods.writing() as connection:
        name = altered.digest if is_renamed else digest
        await connection.execute(
            update(chunks)
            .where(chunks.c.period_number == 2)
            .values(content=altered.content, digest=name)
        )
        values = {"chunks": name, "hundredths": periods.c.hundredths + 100}
        await connection.execute(update(periods).where(SECOND).values(values))
    _, february, march = await verified(sealed_periods)
    assert (february.result, march.result) == (Result.DIFFERENT, Result.VERIFIED)
    found = february.difference
    assert found is not None
    assert (found.row, found.message_id) == (2, 22)
    assert found.what.startswith("80.0 credits, and its changes add up to 79.0; ")
