"""Snapshots that wait to be kept: which ones are replaced, and which ones are not."""

from types import SimpleNamespace
from typing import Any, cast

from service.usage.periods.keeping.contents import Fetched
from service.usage.periods.keeping.waiting import (
    COMPLETE_WAIT_S,
    MAX_WAITING,
    WaitingSnapshots,
)
from tests.clock import Clock


def fetched(begins_on: str, degraded: int = 0) -> Fetched:
    summary = SimpleNamespace(begins_on=begins_on, degraded=degraded)
    return Fetched(cast(Any, SimpleNamespace(summary=summary)), 0)


def test_a_later_snapshot_of_the_same_period_replaces_one() -> None:
    """The replaced one is counted, since what it had alone is lost."""
    waiting = WaitingSnapshots()
    first, second = fetched("2024-04-01"), fetched("2024-04-01")
    assert (waiting.put(first), waiting.put(second)) == (0, 1)
    assert waiting.skipped == 1
    assert (waiting.take(), waiting.take()) == (second, None)


def test_the_same_snapshot_again_is_not_skipped() -> None:
    """A refresh without a change returns the snapshot before."""
    waiting = WaitingSnapshots()
    one = fetched("2024-04-01")
    waiting.put(one)
    assert waiting.put(one._replace(at=1)) == 0
    assert waiting.take() == one._replace(at=1)


def test_the_last_snapshot_of_another_period_stays() -> None:
    """Both are kept, in their order, also if the first one could not be kept."""
    waiting = WaitingSnapshots()
    april, may = fetched("2024-04-01"), fetched("2024-05-01")
    waiting.put(april)
    assert waiting.take() is april
    waiting.put(may)
    waiting.put_back(april)
    assert [waiting.take(), waiting.take()] == [april, may]
    assert waiting.skipped == 0


def test_a_snapshot_that_was_replaced_is_not_put_back() -> None:
    """Only the later one is tried again."""
    waiting = WaitingSnapshots()
    first, second = fetched("2024-04-01"), fetched("2024-04-01")
    waiting.put(first)
    waiting.take()
    waiting.put(second)
    waiting.put_back(first)
    assert [waiting.take(), waiting.take()] == [second, None]
    assert waiting.skipped == 1


def test_few_periods_wait() -> None:
    """Memory is bounded; the oldest period is given up, and counted."""
    waiting = WaitingSnapshots()
    months = [fetched(f"2024-0{each}-01") for each in range(1, MAX_WAITING + 2)]
    assert [waiting.put(each) for each in months] == [0] * MAX_WAITING + [1]
    waiting.put_back(months[0])
    assert waiting.skipped == 2
    assert [waiting.take() for _ in range(MAX_WAITING)] == months[1:]


def test_a_degraded_snapshot_waits_for_a_complete_one() -> None:
    """After some time it is kept all the same."""
    clock = Clock()
    waiting = WaitingSnapshots(clock)
    waiting.put(fetched("2024-04-01", degraded=1))
    assert (waiting.take(), waiting.due_s()) == (None, COMPLETE_WAIT_S)
    clock.pass_s(COMPLETE_WAIT_S / 2)
    last = fetched("2024-04-01", degraded=2)
    waiting.put(last)
    clock.pass_s(COMPLETE_WAIT_S / 2)
    assert waiting.take() is last


def test_a_degraded_snapshot_of_a_period_that_has_ended_does_not_wait() -> None:
    """No complete one comes any more."""
    waiting = WaitingSnapshots()
    april = fetched("2024-04-01", degraded=1)
    waiting.put(april)
    waiting.put(fetched("2024-05-01", degraded=1))
    assert [waiting.take(), waiting.take()] == [april, None]
