"""Retention: the oldest periods are removed, and the chain is still verified."""

import asyncio

import pytest
from sqlalchemy import func, select
from structlog.typing import EventDict

from service.storage.database import Database
from service.usage.periods.keeping.retention import PARTS, PeriodRetention
from service.usage.periods.statements.sealing import Sealing
from service.usage.periods.statements.verification import Result, Verification
from tests.conftest import Client
from tests.metric_samples import growth
from tests.usage.periods.conftest import periods_of


async def rows_of(database: Database, number: int) -> int:
    """Return the number of rows that belong to a period."""
    async with database.reading() as connection:
        counts = [
            await connection.scalar(
                select(func.count())
                .select_from(table)
                .where(table.c.period_number == number)
            )
            for table in PARTS
        ]
    return sum(each or 0 for each in counts)


async def results(database: Database) -> list[tuple[str, Result]]:
    """Return the results of a verification."""
    verification = Verification(database)
    await verification.open()
    run = verification.run(lambda: None)
    return [(each.period, each.result) async for each in run]


async def test_the_newest_closed_periods_are_kept(
    unsealed: Client, database: Database, log_entries: list[EventDict]
) -> None:
    """The others are gone with all their rows, and their digests stay."""
    counted = growth()
    await Sealing(database).seal()
    listed = await periods_of(unsealed)
    await PeriodRetention(1, database).remove()
    assert await periods_of(unsealed) == listed[:2]
    assert [await rows_of(database, each) > 0 for each in range(1, 5)] == [
        False,
        False,
        True,
        True,
    ]
    gone = await unsealed.get("/usage?period=2024-02-01")
    assert (gone.status, (await gone.json())["code"]) == (404, "period_not_kept")
    assert await results(database) == [
        ("2024-01-01", Result.REMOVED),
        ("2024-02-01", Result.REMOVED),
        ("2024-03-01", Result.VERIFIED),
    ]
    assert counted("copilot_usage_periods_removed_total") == 2
    removed = [each for each in log_entries if each["event"] == "usage.period_removed"]
    assert [(each["period"], each["digest"]) for each in removed] == [
        (each["period"], each["digest"]) for each in (listed[3], listed[2])
    ]


@pytest.mark.parametrize("kept", [0, 3])
async def test_periods_within_the_number_stay(
    unsealed: Client, database: Database, kept: int
) -> None:
    """With 0, all stay."""
    await Sealing(database).seal()
    await PeriodRetention(kept, database).remove()
    assert len(await periods_of(unsealed)) == 4


async def test_a_period_without_a_digest_stays(
    unsealed: Client, database: Database
) -> None:
    """Otherwise the chain would begin without an anchor."""
    await PeriodRetention(1, database).remove()
    assert len(await periods_of(unsealed)) == 4


async def test_what_a_killed_process_has_left_is_removed(
    unsealed: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if `periods.retention` is 0 by then; several may do it at once."""
    await Sealing(database).seal()
    retention = PeriodRetention(2, database)
    with monkeypatch.context() as patched:
        patched.setattr("service.usage.periods.keeping.retention.PARTS", ())
        await retention.remove()
    assert await rows_of(database, 1) > 0
    await asyncio.gather(*(PeriodRetention(0, database).remove() for _ in range(3)))
    assert await rows_of(database, 1) == 0
    assert len(await periods_of(unsealed)) == 3


async def test_processes_remove_no_period_too_many(
    unsealed: Client, database: Database
) -> None:
    """They may find the same period at the same time."""
    await Sealing(database).seal()
    await asyncio.gather(*(PeriodRetention(2, database).remove() for _ in range(4)))
    assert len(await periods_of(unsealed)) == 3
    names = [result for _, result in await results(database)]
    assert names == [Result.REMOVED, Result.VERIFIED, Result.VERIFIED]
