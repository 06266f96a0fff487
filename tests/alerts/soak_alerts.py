"""An outage of each dependency before a real Prometheus; `make soak` runs this.

All durations of the rules are divided by `SOAK_ALERTS_FACTOR`. The times until the
alerts fire and clear are printed, in minutes of the shipped rules.
"""

import asyncio
import time
from typing import Final

import pytest

from tests.alerts.outages import FACTOR, OUTAGES, Expected, Watch
from tests.alerts.prometheus import Firing, names

pytestmark = pytest.mark.services
CALM_S: Final = 300 / FACTOR
FIRES_WITHIN_S: Final = 3_600 / FACTOR
CLEARS_WITHIN_S: Final = 5_400 / FACTOR
SLOW: Final = "CopilotUsageBudgetSlow"
"""A ticket whose windows see an outage for hours."""


@pytest.mark.parametrize("lost", OUTAGES)
async def test_an_outage(lost: str, watch: Watch) -> None:
    """Exactly its alerts fire, no page of another domain does, and they clear."""
    expected = OUTAGES[lost]
    async with watch(lost) as watched:
        prometheus = watched.prometheus
        print(f"\noutage: {lost}", flush=True)  # noqa: T201
        await asyncio.sleep(CALM_S)
        assert names(await prometheus.firing()) == set()
        began = time.monotonic()
        await watched.begin(lost)
        await prometheus.until(expected.alerts.issubset, FIRES_WITHIN_S)
        report("fires", began)
        began = time.monotonic()
        await watched.end(lost)
        await prometheus.until({SLOW}.issuperset, CLEARS_WITHIN_S)
        report("clears", began)
        check(expected, prometheus.seen)


def check(expected: Expected, seen: set[Firing]) -> None:
    """Fail if other alerts than those of the outage have fired."""
    for each in sorted(seen):
        print("  " + " ".join(each))  # noqa: T201
    others = {each for each in seen if each.name not in expected.alerts | {SLOW}}
    assert names(others) == set()
    broken = {each.domain for each in seen if each.slo == "availability"}
    assert broken == expected.domains


def report(what: str, began: float) -> None:
    """Print the time since the begin of an outage, or its end."""
    taken_s = (time.monotonic() - began) * FACTOR
    print(f"  {what} after {taken_s / 60:.1f} min", flush=True)  # noqa: T201
