"""Snapshots that wait to be kept: the last one of each period that was seen.

A later snapshot of the same period replaces one that still waits. Other periods stay,
so that a period that ends while the database is away is kept with its last messages.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from service.usage.periods.keeping.contents import Fetched

MAX_WAITING: Final = 4
"""Each has its columns in memory."""
COMPLETE_WAIT_S: Final = 900.0
"""Time for which a degraded snapshot waits for a complete one."""


class WaitingSnapshots:
    """A queue, which the refreshes of one process fill."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._queue: deque[Fetched] = deque()
        self._degraded_since: float | None = None
        self.skipped = 0
        """Snapshots that others have replaced since one was kept."""

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, fetched: Fetched) -> int:
        """Add a snapshot; return how many others will never be compared for it."""
        if not fetched.snapshot.summary.degraded:
            self._degraded_since = None
        elif self._degraded_since is None:
            self._degraded_since = self._clock()
        skipped = 0
        if self._queue and _is_same_period(self._queue[-1], fetched):
            skipped += self._queue.pop().snapshot is not fetched.snapshot
        self._queue.append(fetched)
        if len(self._queue) > MAX_WAITING:
            self._queue.popleft()
            skipped += 1
        self.skipped += skipped
        return skipped

    def put_back(self, fetched: Fetched) -> int:
        """Add a snapshot that could not be kept, unless a later one replaces it.

        Return 1 if it will never be compared, else 0.
        """
        skipped = 0
        if self._queue and _is_same_period(self._queue[0], fetched):
            skipped += self._queue[0].snapshot is not fetched.snapshot
        elif len(self._queue) < MAX_WAITING:
            self._queue.appendleft(fetched)
        else:
            skipped = 1
        self.skipped += skipped
        return skipped

    def take(self) -> Fetched | None:
        """Remove the oldest snapshot; None if none is due."""
        return self._queue.popleft() if self.due_s() == 0.0 else None

    def due_s(self) -> float | None:
        """Return the time until a snapshot is due; None without one."""
        if not self._queue:
            return None
        is_last = len(self._queue) == 1
        if not is_last or not self._queue[0].snapshot.summary.degraded:
            return 0.0
        # Its prices are provisional, and would be changes. Of a period that has ended,
        # no later snapshot comes.
        since = self._degraded_since
        waited_s = 0.0 if since is None else self._clock() - since
        return max(0.0, COMPLETE_WAIT_S - waited_s)


def _is_same_period(one: Fetched, other: Fetched) -> bool:
    # The first message may be removed. Then both are kept, one after the other.
    return one.snapshot.summary.begins_on == other.snapshot.summary.begins_on
