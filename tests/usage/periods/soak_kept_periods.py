"""Keeping of 36 periods of a million messages; `make soak` runs this, `make test` not.

It runs the benchmark of kept periods at its full size, and prints the figures.
"""

from typing import Final

import pytest

from benchmarks import periods
from benchmarks.report import Result, show

SIZE: Final = periods.MESSAGES
DEPENDS_ON_MACHINE: Final = ("longest lock", "cached answer", "refresh with keeping")
"""Ratios that other programs of the machine change; they are printed only."""


def test_kept_periods_meet_their_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes, sizes and cold requests are within their bounds."""
    monkeypatch.setattr(periods, "LOOKED_UP", SIZE)
    results = periods.run()
    show("periods", results)
    assert [each.name for each in results if _is_missed(each)] == []


def _is_missed(result: Result) -> bool:
    depends = result.name.startswith(DEPENDS_ON_MACHINE)
    return not result.is_met and not depends
