"""Many rolling restarts and kills under load; `make soak` runs this, not `make test`.

The order depends on a seed alone, which the test prints; `MACHINES_SEED` repeats it.
"""

import os
import random
from collections import Counter
from typing import Final

import pytest

from tests.machines.load import mixed_load
from tests.machines.site import MakeSite
from tests.machines.test_rolling_restarts import (
    WORKERS,
    check_counts,
    key,
    kill,
    until_answered,
)

__all__ = ["key"]

pytestmark = pytest.mark.services

ROUNDS: Final = int(os.environ.get("SOAK_RESTARTS", "60"))
KILL_SHARE: Final = 0.3
SEED: Final = int(
    os.environ.get("MACHINES_SEED") or random.SystemRandom().getrandbits(32)
)


async def test_no_request_fails_in_many_restarts(make_site: MakeSite, key: str) -> None:
    """A machine is restarted or killed at a time, and no client notices."""
    print(f"\nMACHINES_SEED={SEED} SOAK_RESTARTS={ROUNDS}", flush=True)  # noqa: T201
    chosen = random.Random(SEED)
    site = make_site(*WORKERS)
    await site.start()
    rounds: Counter[str] = Counter()
    async with mixed_load(site.balancer.port, key) as load:
        for _ in range(ROUNDS):
            machine = chosen.choice(site.machines)
            if chosen.random() < KILL_SHARE:
                rounds["kills"] += 1
                await kill(site, machine, load)
            else:
                rounds["restarts"] += 1
                await until_answered(load)
                await site.restart(machine)
    state = site.balancer.state()["BACKEND"]
    sent_again = f"{state['wretr']} sent again, {state['wredis']} to another machine"
    print(f"{dict(rounds)}: {load}; {sent_again}", flush=True)  # noqa: T201

    load.check()
    await check_counts(site, key, load)
