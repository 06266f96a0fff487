"""Every fault, in every state of the cache, for the client, the upstream and the log.

`cells.TABLE` has the expected outcomes, one line for each fault.
"""

from pathlib import Path
from typing import Final

import pytest

from service.sandbox.faults import FAULTS
from tests.faults.cells import TABLE, Cell, Outcome, read_table
from tests.faults.matrix import run
from tests.faults.page import render

CELLS: Final = dict(read_table())
PAGE: Final = Path(__file__).parents[2] / "docs" / "fault-matrix.md"


@pytest.mark.parametrize(
    "cell, expected", CELLS.items(), ids=[cell.id for cell in CELLS]
)
async def test_each_fault_has_its_expected_outcome(
    cell: Cell, expected: Outcome
) -> None:
    """Status, code, bill, headers, tries and log are those of the table."""
    assert await run(cell) == expected


def test_the_table_has_every_fault() -> None:
    """Every fault of the sandbox has a line."""
    faults = [line.split()[0].replace("-", "_") for line in TABLE.splitlines()[3:]]

    assert faults == list(FAULTS)


def test_the_page_matches_the_table() -> None:
    """docs/fault-matrix.md is exactly the rendered table."""
    assert PAGE.read_text() == render(CELLS), "run python -m tests.faults.matrix"
