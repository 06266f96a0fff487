"""Which snapshots without a common message are new periods."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Final, cast

import pytest

from service.instants import read_instant
from service.usage.periods.keeping.succession import CONFIRM_S, Doubt, Succession
from service.usage.periods.model import KeptPeriod, SnapshotContent
from service.usage.snapshots.kept import KeptColumns
from tests.clock import Clock

APRIL: Final = ("2024-04-01T00:00:00Z", "2024-04-30T00:00:00Z")
WRONG: Final = "2199-01-01T00:00:00Z"


class Upstream:
    """A period that is open, and snapshots that replace it."""

    def __init__(self, *times: str, fetched_at: str = APRIL[-1]) -> None:
        self.clock = Clock()
        self.succession = Succession(self.clock)
        instants = [read_instant(each) for each in times]
        period = SimpleNamespace(
            last_at=max(instants), fetched_at=read_instant(fetched_at)
        )
        self._period = cast(KeptPeriod, period)
        self._times = list(times)

    async def judge(self, begins_at: str, now: str = "2024-05-02") -> Doubt | None:
        content = SimpleNamespace(
            first_at=read_instant(begins_at), fetched_at=read_instant(now)
        )
        return await self.succession.judge(
            self._period, self._read, cast(SnapshotContent, content)
        )

    async def _read(self) -> Sequence[KeptColumns]:
        messages = [SimpleNamespace(timestamps=self._times)]
        return cast(Sequence[KeptColumns], messages)


@pytest.mark.parametrize(
    "begins_at, doubt",
    [
        ("2024-05-01", None),
        ("2024-04-30T00:00:00Z", Doubt.BEGINS_EARLIER),
        ("2024-03-01", Doubt.BEGINS_EARLIER),
        ("2024-05-02T12:00:00Z", None),
        ("2024-05-04", Doubt.BEGINS_AHEAD),
    ],
)
async def test_a_new_period_begins_after_the_open_one(
    begins_at: str, doubt: Doubt | None
) -> None:
    """It must not begin in the future either."""
    assert await Upstream(*APRIL).judge(begins_at) == doubt


async def test_a_time_in_the_future_holds_up_no_later_period() -> None:
    """The last message with a plausible time counts."""
    upstream = Upstream(*APRIL, WRONG)
    assert await upstream.judge("2024-05-01") is None
    assert await upstream.judge("2024-04-15") == Doubt.BEGINS_EARLIER


async def test_a_clock_that_was_behind_makes_no_message_implausible() -> None:
    """If all messages are in the future, the clock of the service was wrong."""
    upstream = Upstream(*APRIL, fetched_at="1970-01-02")
    assert await upstream.judge("2024-04-15") == Doubt.BEGINS_EARLIER
    assert await upstream.judge("2024-05-01") is None


async def test_what_stays_doubtful_becomes_a_period() -> None:
    """Otherwise a whole period could be lost."""
    upstream = Upstream(*APRIL)
    assert await upstream.judge("2024-03-01") == Doubt.BEGINS_EARLIER
    upstream.clock.pass_s(CONFIRM_S - 1)
    assert await upstream.judge("2024-03-01") == Doubt.BEGINS_EARLIER
    upstream.clock.pass_s(1)
    assert await upstream.judge("2024-03-01") is None


async def test_a_snapshot_of_the_open_period_ends_the_doubt() -> None:
    """An upstream that flickers opens nothing, however long it does."""
    upstream = Upstream(*APRIL)
    for _ in range(10):
        assert await upstream.judge("2024-03-01") == Doubt.BEGINS_EARLIER
        upstream.clock.pass_s(CONFIRM_S / 2)
        upstream.succession.end_doubt()
