"""Set-up that workers of all engines have in common."""

import os

import pytest

from service.usage.bulk.worker import count_cores


def test_cores_are_counted_on_each_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only Linux tells which ones a process may use."""
    assert count_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert count_cores() == os.cpu_count()
