"""The order of writes before the one writing connection of SQLite: events first.

The other uses take turns among themselves. While events are written all the time, the
others get about a tenth of it, and a turn at least every `MAX_EVENTS_S`, so that none
starves.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from service.storage.errors import StorageUnavailable
from service.storage.uses import Use

EVENTS_PER_TURN: Final = 9
"""Time for events before another use has a turn, in durations of the last such turn."""
MAX_EVENTS_S: Final = 1.0

Turn = asyncio.Future[None]


class WriteOrder:
    """Lets one write run at a time; the others wait, each at most its time."""

    def __init__(self, max_wait_s: Mapping[Use, float]) -> None:
        self._max_wait_s = max_wait_s
        # In the order of turns; a use is removed with its last waiting write.
        self._waiting: dict[Use, deque[Turn]] = {}
        self._is_busy = False
        self._last_other_s = 0.0
        # Time for which events were written while another use waited for its turn.
        self._events_s = 0.0

    @asynccontextmanager
    async def turn(self, use: Use) -> AsyncIterator[None]:
        """Wait for the turn of this use; raises `StorageUnavailable`."""
        await self._wait(use)
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            yield
        finally:
            self._count(use, loop.time() - started)
            self._pass_on()

    async def _wait(self, use: Use) -> None:
        if not self._is_busy:
            self._is_busy = True
            return
        if use is not Use.EVENTS and not self._has_others():
            self._events_s = 0.0
        turn: Turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(use, deque()).append(turn)
        try:
            async with asyncio.timeout(self._max_wait_s[use]):
                await turn
        except BaseException as error:
            if turn.cancelled():
                self._remove(use, turn)
            else:
                # The turn came just before the cancellation.
                self._pass_on()
            if not isinstance(error, TimeoutError):
                raise
            raise StorageUnavailable("other writes take too long") from None

    def _count(self, use: Use, duration_s: float) -> None:
        if use is Use.EVENTS:
            self._events_s += duration_s
        else:
            self._events_s = 0.0
            self._last_other_s = duration_s

    def _pass_on(self) -> None:
        """Give the turn to the next write."""
        while (use := self._next_use()) is not None:
            turn = self._waiting[use][0]
            self._remove(use, turn)
            if use in self._waiting:
                # Its further writes wait behind those of the other uses.
                self._waiting[use] = self._waiting.pop(use)
            # A cancelled write is still in the queue until its task runs.
            if not turn.done():
                turn.set_result(None)
                return
        self._is_busy = False

    def _next_use(self) -> Use | None:
        other = next((each for each in self._waiting if each is not Use.EVENTS), None)
        if Use.EVENTS not in self._waiting:
            return other
        due_s = min(EVENTS_PER_TURN * self._last_other_s, MAX_EVENTS_S)
        is_due = self._events_s > 0 and self._events_s >= due_s
        return other if other is not None and is_due else Use.EVENTS

    def _has_others(self) -> bool:
        return any(use is not Use.EVENTS for use in self._waiting)

    def _remove(self, use: Use, turn: Turn) -> None:
        waiting = self._waiting.get(use, ())
        if turn not in waiting:
            return
        self._waiting[use].remove(turn)
        if not self._waiting[use]:
            del self._waiting[use]
