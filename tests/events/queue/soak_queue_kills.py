"""Many rounds of failures of the queue of events; `make soak` runs this.

`SOAK_QUEUE_ROUNDS` has their number, and `QUEUE_SEED` repeats a run.
"""

import os
import random
from pathlib import Path
from typing import Final

import pytest

from tests.events.queue.proof import open_site, run_rounds
from tests.launcher import Launcher

pytestmark = pytest.mark.services
ROUNDS: Final = int(os.environ.get("SOAK_QUEUE_ROUNDS", "200"))


async def test_many_failures_lose_and_double_nothing(
    launcher: Launcher, tmp_path: Path
) -> None:
    """No acknowledged event is lost, stored twice, or stored out of order."""
    seed = int(os.environ.get("QUEUE_SEED") or random.SystemRandom().randrange(10**6))
    print(f"\nQUEUE_SEED={seed}", flush=True)  # noqa: T201
    async with open_site(launcher, tmp_path) as (site, applications):
        await run_rounds(site, applications, ROUNDS, seed)
