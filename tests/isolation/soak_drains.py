"""Many drains and reloads under load; `make soak` runs this, `make test` does not."""

import os
from pathlib import Path
from typing import Final

import pytest

from tests.isolation.callers import Tally
from tests.isolation.conftest import Run
from tests.isolation.test_drains import WORKERS, drain
from tests.isolation.test_reload import reload_under_load

DRAINS: Final = int(os.environ.get("SOAK_DRAINS", "100"))
RELOADS: Final = max(1, DRAINS // 10)


def show(what: str, workers: int, tally: Tally) -> None:
    """Print the figures, on one line."""
    print(f"\n{what} with {workers} worker(s): {tally}", flush=True)  # noqa: T201


@pytest.mark.parametrize("workers", WORKERS)
async def test_no_request_fails_in_many_drains(
    run: Run, workers: int, tmp_path: Path
) -> None:
    """With a connection for each request, none is reset or closed unanswered."""
    tally = await drain(run, tmp_path, DRAINS, workers)
    show(f"{DRAINS} drains", workers, tally)

    assert tally.failures == []


@pytest.mark.parametrize("workers", WORKERS)
async def test_no_request_fails_in_many_reloads(
    run: Run, workers: int, tmp_path: Path
) -> None:
    """With a connection for each request, none is refused, reset or unanswered."""
    tally = await reload_under_load(run, tmp_path, RELOADS, workers)
    show(f"{RELOADS} reloads", workers, tally)

    assert tally.failures == []
    assert tally.refused == 0
