"""Failures of everything that events go through; `soak_queue_kills` has more rounds."""

import os
from pathlib import Path
from typing import Final

import pytest

from tests.events.queue.proof import FAULTS, open_site, run_rounds
from tests.launcher import Launcher

pytestmark = pytest.mark.services
ROUNDS: Final = 5
SEED: Final = 8313
"""Each fault, among them those in a row that have shown mistakes.

A leader is killed after a partition, and a writer while the database is away.
"""


async def test_failures_lose_and_double_nothing(
    launcher: Launcher, tmp_path: Path
) -> None:
    """No acknowledged event is lost, stored twice, or stored out of order."""
    seed = int(os.environ.get("QUEUE_SEED") or SEED)
    async with open_site(launcher, tmp_path) as (site, applications):
        happened = await run_rounds(site, applications, ROUNDS, seed)

    assert happened == set(FAULTS)
