"""Every fault, in every state of what is held, as caller, upstream and log see it.

What has to be seen stands in `matrix.TABLE`, one line a fault.
"""

from pathlib import Path
from typing import Final

import pytest

from service.sandbox.faults import FAULTS
from tests.faults.matrix import TABLE, Cell, Seen, read_table, render, run

CELLS: Final = dict(read_table())
PAGE: Final = Path(__file__).parents[2] / "docs" / "fault-matrix.md"


@pytest.mark.parametrize(
    "cell, expected", CELLS.items(), ids=[cell.id for cell in CELLS]
)
async def test_a_fault_is_met_as_the_table_says(cell: Cell, expected: Seen) -> None:
    """Status, code, bill, headers, tries and log: none of them is left to chance."""
    assert await run(cell) == expected


def test_the_table_has_every_fault() -> None:
    """A fault that the sandbox learns has to be given its line."""
    named = [line.split()[0].replace("-", "_") for line in TABLE.splitlines()[3:]]

    assert named == list(FAULTS)


def test_the_page_is_made_of_the_table() -> None:
    """docs/fault-matrix.md says what is tested, to the letter."""
    assert PAGE.read_text() == render(CELLS), "run python -m tests.faults.matrix"
