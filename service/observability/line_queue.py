"""The queue of lines between the code that logs and the thread that writes.

It is bounded in bytes. When it fills, it drops and counts new lines: those of the first
kinds early, errors only when it is full. So the log sheds details before anything else.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from enum import IntEnum
from queue import SimpleQueue
from threading import RLock
from typing import Final, NamedTuple

MAX_BYTES: Final = 4 * 1024 * 1024
"""Default bound; three quarters of it hold the steps of 1,000 messages."""
LINE_OVERHEAD_BYTES: Final = 100
"""Memory that a queued line takes besides its text, about."""


class Kind(IntEnum):
    """Kinds of lines, in the order in which they are dropped."""

    DETAIL = 0
    INFO = 1
    WARNING = 2
    ERROR = 3
    TEXT = 4
    """Printed text, such as the addresses at the start, or a traceback."""

    @property
    def label(self) -> str:
        """The kind's name in the metric, and in the line about dropped lines."""
        return self.name.lower()


SHARES: Final = {
    Kind.DETAIL: 12 / 16,
    Kind.INFO: 14 / 16,
    Kind.WARNING: 15 / 16,
    Kind.ERROR: 1.0,
    Kind.TEXT: 1.0,
}
"""Share of the bound up to which lines of a kind are accepted."""
DRAINED_SHARE: Final = 0.25
"""A queue below this share of its bound has caught up."""
GIVE_WAY_BYTES: Final = 64 * 1024
GIVE_WAY_S: Final = 0.000_5
"""Pause of the logging thread for each `GIVE_WAY_BYTES` that the queue grows above
`DRAINED_SHARE`. A busy event loop may keep the writing thread from the interpreter, and
then lines would be dropped although the output is fast."""


Line = tuple[bytes, Kind]
"""A line without its line feed; a plain tuple costs least."""


class Taken(NamedTuple):
    """Lines that were taken to be written."""

    lines: list[Line]
    text_bytes: int


class LineQueue:
    """Lines that wait for the writing thread.

    `put` calls `wake` if that thread is idle, and `drop_noted` after each dropped line.
    """

    def __init__(
        self,
        wake: Callable[[], None],
        drop_noted: Callable[[], None] = lambda: None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._wake = wake
        self._drop_noted = drop_noted
        self.set_max_bytes(max_bytes)
        self.reset()

    def set_max_bytes(self, max_bytes: int) -> None:
        """Bound the size of all queued lines."""
        self._limits = [int(max_bytes * SHARES[kind]) for kind in Kind]
        self._drained_bytes = self._give_way_at = int(max_bytes * DRAINED_SHARE)

    def reset(self) -> None:
        """Forget all lines and counts; a forked process has those of its parent."""
        self._lines: deque[Line] = deque()
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._added_bytes = 0
        self._released_bytes = 0
        self._give_way_at = self._drained_bytes
        self._is_waiting = True
        self.dropped: Counter[Kind] = Counter(dict.fromkeys(Kind, 0))
        """Dropped lines since the start of the process; only grows."""
        # The garbage collector may run while it is locked, and log through a finalizer.
        self._dropping = RLock()

    @property
    def is_empty(self) -> bool:
        """True if all lines are written, or lost."""
        return self._is_waiting and not self._lines

    @property
    def queued_bytes(self) -> int:
        """Memory of the lines that are not written yet, about."""
        return self._added_bytes - self._released_bytes

    @property
    def is_drained(self) -> bool:
        """True if the queue is nearly empty."""
        return self._added_bytes - self._released_bytes <= self._drained_bytes

    def put(self, text: bytes, kind: Kind) -> None:
        """Add a line, or drop it; never waits for the output."""
        # A lock would double the cost. Two threads may count one line instead of two;
        # `wait` corrects that.
        size = len(text) + LINE_OVERHEAD_BYTES
        added = self._added_bytes + size
        queued = added - self._released_bytes
        if queued > self._limits[kind]:
            self._drop(kind)
            return
        self._added_bytes = added
        self._lines.append((text, kind))
        if self._is_waiting:
            self._is_waiting = False
            self._wake()
        elif queued > self._give_way_at:
            self._give_way_at = queued + GIVE_WAY_BYTES
            time.sleep(GIVE_WAY_S)

    def notify(self) -> None:
        """Wake the thread in `wait`."""
        self._wakes.put(None)

    def keep_waking(self) -> None:
        """Call `wake` again for the next line: it could not wake the thread."""
        self._is_waiting = True

    def wait(self) -> None:
        """Wait until there are lines; called by the writing thread only."""
        while not self._lines:
            self._is_waiting = True
            # A line that was added just before has woken nobody.
            if not self._lines:
                self._released_bytes = self._added_bytes
                self._wakes.get()
        self._is_waiting = False

    def take(self, max_bytes: int) -> Taken:
        """Take the oldest lines: up to `max_bytes` with line feeds, and one at least.

        They count as queued until `release`.
        """
        lines: list[Line] = []
        size, is_full = 0, False
        while self._lines and not is_full:
            lines.append(self._lines.popleft())
            size += len(lines[-1][0])
            is_full = not self._lines or (
                size + len(lines) + len(self._lines[0][0]) >= max_bytes
            )
        return Taken(lines, size)

    def release(self, taken: Taken, lost: Sequence[Line] = ()) -> None:
        """Release the memory of taken lines; `lost` were not written."""
        self._released_bytes += (
            taken.text_bytes + len(taken.lines) * LINE_OVERHEAD_BYTES
        )
        queued = self._added_bytes - self._released_bytes
        near = min(self._give_way_at, queued + GIVE_WAY_BYTES)
        self._give_way_at = max(self._drained_bytes, near)
        with self._dropping:
            self.dropped.update(kind for _, kind in lost)

    def _drop(self, kind: Kind) -> None:
        with self._dropping:
            self.dropped[kind] += 1
        self._drop_noted()
