"""Maintenance in batches: their size, the pauses between them, and failures."""

import asyncio
from unittest.mock import AsyncMock

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.typing import EventDict

from service.storage.database import Database
from service.storage.errors import CircuitOpen, StorageUnavailable
from service.storage.maintenance import Batches, repeat_logged
from tests.events.conftest import on_sqlite


@on_sqlite
async def test_a_batch_is_sized_by_its_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch grows while it is quick, shrinks when slow, and stays within bounds."""
    monkeypatch.setattr(asyncio, "sleep", AsyncMock())
    taken_s = [0.001, 0.001, 0.01, 0.1, 0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    times = iter([time for each in taken_s for time in (0.0, 0.0, each)])
    batches = Batches(database, share=0.5, min_rows=500, clock=lambda: next(times))
    sizes = []

    async def work(_: AsyncConnection, limit: int) -> int:
        sizes.append(limit)
        return limit

    for _ in taken_s:
        await batches.run(work)

    first = [500, 1_000, 2_000, 2_000, 500, 500]
    assert sizes == [*first, 1_000, 2_000, 4_000, 8_000, 10_000]


@on_sqlite
async def test_each_batch_leaves_time_to_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pauses follow the share; a batch that is not full does not change the size."""
    pause = AsyncMock()
    monkeypatch.setattr(asyncio, "sleep", pause)
    # Each batch reads the clock before the pause, when it begins and when it ends.
    times = iter([5.0, 5.0, 6.0, 7.0, 10.0, 12.0, 30.0, 30.0, 31.0])
    batches = Batches(database, share=0.2, min_rows=500, clock=lambda: next(times))

    async def work(_: AsyncConnection, limit: int) -> int:
        return limit - 1

    for _ in range(3):
        assert await batches.run(work) == 499

    # A batch of a second is followed by four seconds, less those that have passed.
    assert [each.args for each in pause.await_args_list] == [(0.0,), (3.0,), (0.0,)]
    assert batches.rows == 500


async def test_repeated_work_survives_every_failure(
    monkeypatch: pytest.MonkeyPatch, log_entries: list[EventDict]
) -> None:
    """Each kind has one line until a success; pauses grow after defects only."""
    pause = AsyncMock(side_effect=[*[None] * 9, asyncio.CancelledError])
    monkeypatch.setattr(asyncio, "sleep", pause)
    defects = [ZeroDivisionError(str(number)) for number in range(6)]
    work = AsyncMock(
        side_effect=[
            *(StorageUnavailable("away"), StorageUnavailable("away"), CircuitOpen(1)),
            *defects[:5],
            *(None, defects[5]),
        ]
    )

    with pytest.raises(asyncio.CancelledError):
        await repeat_logged("events.counting_failed", work, 5.0)

    pauses = [each.args[0] for each in pause.await_args_list]
    assert pauses == [5.0, 5.0, 5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 5.0, 10.0]
    assert [each["reason"] for each in log_entries] == ["away", "0", "5"]
