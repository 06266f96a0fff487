"""Sealing: closed periods get digests, which anybody can compute from the API."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import select
from structlog.typing import EventDict

from service.settings import StorageSettings
from service.storage.database import Database
from service.usage.periods.errors import PeriodReplaced
from service.usage.periods.statements.sealing import Sealing
from service.usage.periods.store import PeriodStore
from service.usage.periods.tables import changes
from tests.conftest import Client, MakeClient
from tests.usage.periods.conftest import (
    MONTHS,
    Keep,
    Sealed,
    keeping_client,
    periods_of,
    sealed_in,
)


async def test_a_digest_can_be_computed_from_the_api(
    storage: StorageSettings, client: MakeClient, keep: Keep, sealed: Sealed
) -> None:
    """It covers the lines of the list, and the CSV of the period; each the one before.

    This test uses a hash and HTTP only, as an auditor would.
    """
    keeping = await keeping_client(client, storage)
    for each in MONTHS:
        await keep(keeping, each)
    await sealed(3)
    open_one, *closed = await periods_of(keeping)
    assert "digest" not in open_one
    previous = "0" * 64
    for each in reversed(closed):
        assert each["previous_digest"] == previous
        previous = each["digest"]
        assert await _digest_by_hand(keeping, each) == previous


async def _digest_by_hand(service: Client, listed: dict[str, Any]) -> str:
    names = "previous_digest", "period", "plan", "closed_at"
    lines = "".join(f"{listed[name]}\n" for name in names)
    answer = await service.get(
        f"/usage?period={listed['period']}", headers={"Accept": "text/csv"}
    )
    return hashlib.sha256(lines.encode() + await answer.read()).hexdigest()


async def test_processes_compute_the_same_digests_once(
    unsealed: Client, database: Database, log_entries: list[EventDict]
) -> None:
    """What one process has not sealed before its end, the others seal together."""
    await asyncio.gather(*(Sealing(database).seal() for _ in range(3)))
    names = [each["period"] for each in sealed_in(log_entries)]
    assert names == ["2024-01-01", "2024-02-01", "2024-03-01"]
    assert all(each["digest"] for each in (await periods_of(unsealed))[1:])


async def test_a_closed_period_has_no_rows_of_a_killed_process(
    unsealed: Client, database: Database
) -> None:
    """It may have stored chunks and changes of a revision that was never published."""
    store, (_, march, *_) = PeriodStore(database), await periods_of(unsealed)
    found = await store.find(march["period"])
    assert found is not None

    async def pages() -> AsyncIterator[list[bytes]]:
        yield [b"page"]

    await store.add_chunks(found.number, [(b"never listed", b"content")])
    attempt = (await store.add_pages(found.number, pages())).attempt
    await Sealing(database).seal()
    assert await store.known_digests(found.number) == set(found.digests)
    async with database.reading() as connection:
        attempts = set(await connection.scalars(select(changes.c.attempt)))
    assert attempts
    assert attempt not in attempts


async def test_a_process_of_its_own_computes_the_same_digests(
    unsealed: Client, database: Database
) -> None:
    """A large period is encoded where it delays no request."""
    await Sealing(database, process_bytes=1).seal()
    previous = "0" * 64
    for each in reversed((await periods_of(unsealed))[1:]):
        assert each["previous_digest"] == previous
        previous = each["digest"]
        assert await _digest_by_hand(unsealed, each) == previous


async def test_a_missing_chunk_prevents_a_digest(
    unsealed: Client, database: Database
) -> None:
    """A statement without some of its rows is never sealed."""
    async with database.writing() as connection:
        await connection.exec_driver_sql("DELETE FROM usage_chunks")
    with pytest.raises(PeriodReplaced, match="2024-01-01"):
        await Sealing(database).seal()
    assert all("digest" not in each for each in await periods_of(unsealed))
