"""Many kills of services that keep periods; `make soak` runs this."""

import os
from typing import Final

import pytest

from tests.faults.test_period_kills import (
    SERVICES,
    KillWorkers,
    kill_workers,
    receiver,
)

__all__ = ["kill_workers", "receiver"]

UNFINISHED: Final = ("attempts", "unlisted_chunks", "unsealed")
KILLS: Final = int(os.environ.get("SOAK_KILLS", "1000")) // len(SERVICES)


@pytest.mark.parametrize("storage, workers", SERVICES, indirect=["storage"])
async def test_many_kills_lose_and_double_nothing(
    kill_workers: KillWorkers,
    workers: int,
) -> None:
    """No closed period changes by a byte, and the changes explain all totals.

    Kills come within publications, removals and closings.
    """
    unfinished = await kill_workers(workers, KILLS)
    assert all(unfinished[each] for each in UNFINISHED), unfinished
