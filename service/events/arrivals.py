"""Times of arrival, unique in a process and increasing."""

from collections.abc import Callable, Sequence
from itertools import count, repeat
from typing import Final

from service.events.model import Event, EventFailure
from service.events.store import ReceivedEvent
from service.instants import US_PER_S, now_us

MAX_AHEAD_S: Final = 10
"""Maximum time by which times of arrival stay ahead of a clock that has gone back."""


class Arrivals:
    """The times of arrival of the events that a process receives."""

    def __init__(self, clock: Callable[[], int] = now_us) -> None:
        self._clock = clock
        self._last = 0

    def stamp(
        self, items: Sequence[Event | EventFailure], now: int | None = None
    ) -> list[ReceivedEvent]:
        """Give each event a time of arrival, unique in this process and increasing.

        The times are those of the clock, or of `now`, or the next ones that are free.
        If the clock goes back by more than `MAX_AHEAD_S`, so do the times.
        """
        now = self._clock() if now is None else now
        # The clock may stand still or go back.
        next_free = self._last + 1
        is_far_ahead = next_free - now > MAX_AHEAD_S * US_PER_S
        first = now if is_far_ahead else max(next_free, now)
        self._last = first + len(items) - 1
        # `ReceivedEvent` itself would be called in Python, for each event.
        pairs = zip(items, count(first), strict=False)
        return list(map(tuple.__new__, repeat(ReceivedEvent), pairs))
