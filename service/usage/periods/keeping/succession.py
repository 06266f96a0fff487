"""Decision on a snapshot that shares no message with the open period."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Final

import numpy as np

from service.instants import US_PER_S
from service.usage.periods.model import KeptPeriod, SnapshotContent
from service.usage.pricing.timestamps import read_instants
from service.usage.snapshots.kept import KeptColumns

AHEAD_US: Final = 86_400 * US_PER_S
"""A message this far after its fetch has a wrong time, whatever its zone."""
CONFIRM_S: Final = 3_600.0
"""Time after which a doubtful snapshot is a period, if nothing else was seen."""


ReadMessages = Callable[[], Awaitable[Sequence[KeptColumns]]]


class Doubt(StrEnum):
    """The reason why a snapshot is not kept."""

    CLOSED_PERIOD = "closed_period"
    """It shares a message with a closed period."""
    BEGINS_EARLIER = "begins_earlier"
    """It does not begin after the open period."""
    BEGINS_AHEAD = "begins_ahead"
    """All its messages have times in the future."""


class Succession:
    """Remembers since when only doubtful snapshots were seen."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._doubtful_since: float | None = None

    def end_doubt(self) -> None:
        """Forget the doubt, after a snapshot of the open period."""
        self._doubtful_since = None

    async def judge(
        self,
        period: KeptPeriod,
        read_messages: ReadMessages,
        content: SnapshotContent,
    ) -> Doubt | None:
        """Return the doubt on a snapshot; None if it begins a new period.

        `read_messages` returns all those of the open period.
        """
        doubt = await _doubt(period, read_messages, content)
        now = self._clock()
        if self._doubtful_since is None:
            self._doubtful_since = now
        if doubt is None or now - self._doubtful_since >= CONFIRM_S:
            self.end_doubt()
            return None
        return doubt


async def _doubt(
    period: KeptPeriod, read_messages: ReadMessages, content: SnapshotContent
) -> Doubt | None:
    if content.first_at > content.fetched_at + AHEAD_US:
        return Doubt.BEGINS_AHEAD
    if content.first_at <= await _last_plausible(period, read_messages):
        return Doubt.BEGINS_EARLIER
    return None


async def _last_plausible(period: KeptPeriod, read_messages: ReadMessages) -> int:
    """Return the time of the last message that was not in the future when fetched.

    One message with a wrong time must not hold up all later periods.
    """
    limit = period.fetched_at + AHEAD_US
    if period.last_at <= limit:
        return period.last_at
    messages = await read_messages()
    plausible = await asyncio.to_thread(_last_until, messages, limit)
    # If none is plausible, it is the clock of the service that was wrong.
    return period.last_at if plausible is None else plausible


def _last_until(messages: Sequence[KeptColumns], limit: int) -> int | None:
    instants = [read_instants(each.timestamps).microseconds for each in messages]
    times = np.concatenate(instants)
    plausible = times[times <= limit]
    return int(plausible.max()) if len(plausible) else None
