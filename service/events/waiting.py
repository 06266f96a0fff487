"""Waits for events: one look for all requests that wait in a process.

While requests wait, the watermark is read every `POLL_S`. Of the new events, one query
for each combination of filters finds those for which requests wait. So neither writers
nor the number of requests matter to the other, and it sees the events of any process.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from service.events import feed_metrics as metrics
from service.events.errors import WaitsFull
from service.events.feed import Feed
from service.events.feed_metrics import End
from service.events.feed_statements import MATCHED
from service.events.statements import EventFilter
from service.storage.errors import StorageError

MAX_WAITS: Final = 2_000
"""Requests that wait at once in a process."""
SHARE_OF_OTHERS: Final = 4
"""The part of the places that no application gets alone: a quarter."""
POLL_S: Final = 0.1
PAUSE_S: Final = 1.0
"""The same after a failure of the database."""

Values = tuple[str, ...]
Turn = asyncio.Future[None]
Turns = dict[Turn, EventFilter]


class Waits:
    """The requests that wait for events."""

    def __init__(self, feed: Feed, max_waits: int = MAX_WAITS) -> None:
        self._feed = feed
        self._max_waits = max_waits
        self._entered: Counter[str] = Counter()
        """The requests that have a place, by application."""
        self._turns: dict[Values, dict[Values, Turns]] = defaultdict(dict)
        """Those that wait, by the columns of their filters and the wanted values."""
        self._seen = 0
        """The watermark up to which all waiting requests know the events."""
        self._watch: asyncio.Task[None] | None = None
        self._is_ending = False

    @contextmanager
    def enter(self, application: str) -> Iterator[None]:
        """Take one of the places for requests that wait; raises `WaitsFull`.

        One application gets at most three quarters of them.
        """
        number = self._entered.total()
        share = self._max_waits - self._max_waits // SHARE_OF_OTHERS
        if number >= self._max_waits or self._entered[application] >= share:
            metrics.wait_refused()
            own = self._entered[application]
            raise WaitsFull(f"{number} requests wait, {own} of this application")
        self._entered[application] += 1
        metrics.waits_now(number + 1)
        try:
            yield
        finally:
            self._entered[application] -= 1
            if not self._entered[application]:
                del self._entered[application]
            metrics.waits_now(self._entered.total())

    async def wait(
        self, event_filter: EventFilter, watermark: int, limit_s: float
    ) -> End:
        """Wait for events that may match, after the watermark up to which none does.

        Returns how the wait has ended.
        """
        end: End = "left"
        try:
            end = await self._wait(event_filter, watermark, limit_s)
        finally:
            metrics.wait_ended(end)
        return end

    async def _wait(
        self, event_filter: EventFilter, watermark: int, limit_s: float
    ) -> End:
        if self._is_ending:
            return "drain"
        if self._watch is None or self._watch.done():
            self._seen = watermark
            self._watch = asyncio.create_task(self._look_for_events())
        elif watermark < self._seen:
            return "events"
        turn: Turn = asyncio.get_running_loop().create_future()
        columns, values = _wanted(event_filter)
        by_values = self._turns[columns]
        by_values.setdefault(values, {})[turn] = event_filter
        try:
            async with asyncio.timeout(limit_s):
                await turn
        except TimeoutError:
            return "time_limit"
        finally:
            self._remove(columns, values, turn)
        return self._woken()

    def _woken(self) -> End:
        return "drain" if self._is_ending else "events"

    def end(self) -> None:
        """End all waits, and further ones at once."""
        self._is_ending = True
        self._wake_all()

    async def close(self) -> None:
        """End all waits, and the look for events."""
        self.end()
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch

    def _remove(self, columns: Values, values: Values, turn: Turn) -> None:
        by_values = self._turns[columns]
        turns = by_values[values]
        del turns[turn]
        if not turns:
            del by_values[values]
        if not by_values:
            del self._turns[columns]

    async def _look_for_events(self) -> None:
        while self._turns:
            pause_s = POLL_S
            try:
                await self._look()
            except StorageError:
                # The requests themselves find out what is wrong.
                self._wake_all()
                pause_s = PAUSE_S
            await asyncio.sleep(pause_s)

    async def _look(self) -> None:
        watermark = await self._feed.look()
        before = self._seen
        if watermark <= before:
            return
        # From now on, requests must know these events before they wait.
        self._seen = watermark
        for columns, by_values in list(self._turns.items()):
            found = await self._feed.matches(
                before, watermark, columns, list(by_values)
            )
            for values, first, last in found:
                turns = by_values.get(values, {})
                _wake(each for each in turns if _is_within(turns[each], first, last))

    def _wake_all(self) -> None:
        for by_values in self._turns.values():
            for turns in by_values.values():
                _wake(turns)


def _wake(turns: Iterable[Turn]) -> None:
    for turn in turns:
        if not turn.done():
            turn.set_result(None)


def _is_within(event_filter: EventFilter, first: int, last: int) -> bool:
    """Return whether events between two times may be within those of a filter."""
    since, until = event_filter.since, event_filter.until
    return (since is None or last >= since) and (until is None or first < until)


def _wanted(event_filter: EventFilter) -> tuple[Values, Values]:
    """Return the columns of a filter that have a value, and the values."""
    pairs = [(name, getattr(event_filter, name)) for name in MATCHED]
    given = [(name, value) for name, value in pairs if value is not None]
    return tuple(name for name, _ in given), tuple(value for _, value in given)
